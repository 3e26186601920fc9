//! Sockets that the kernel's collector closes.

mod support;

use std::time::{Duration, Instant};

use rscni_linux::{LinkChange, Netlink, Netns, Nft, Veth, announce};
use support::private_network;

/// Enough to notice leaked descriptors.
const MANY: usize = 300;

#[test]
fn deferred_sockets_are_closed_and_release_their_namespace() {
    private_network(|| {
        let mut host = Netlink::open().unwrap();
        let netns = Netns::create().unwrap();
        let near = host
            .add_veth(&Veth { peer_netns: Some(&netns), ..Veth::new("near", "eth0") })
            .unwrap()
            .index;
        let mut container = Netlink::open_in(&netns).unwrap();
        let far = container.link_by_name("eth0").unwrap();
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        host.set_link(near, &up).unwrap();
        container.set_link(far.index, &up).unwrap();
        for _ in 0..MANY {
            announce(&netns, &far, &["10.1.0.2".parse().unwrap()]).unwrap();
            assert!(Nft::open_in(&netns).unwrap().tables().unwrap().is_empty());
        }
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < 50, "{open} files are open");

        // Dropping the last reference to the namespace removes its interfaces.
        drop((container, netns));
        let deadline = Instant::now() + Duration::from_secs(60);
        while host.find_link("near").unwrap().is_some() {
            assert!(Instant::now() < deadline, "something keeps the namespace alive");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}
