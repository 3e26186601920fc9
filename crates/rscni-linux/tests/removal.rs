//! Links that are deleted while a worker waits for the kernel.

mod support;

use std::{
    fs::{self, File},
    io::Read,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rscni_linux::{Background, Bridge, LinkChange, Netlink, Netns, Veth};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid},
};
use support::private_network;

/// All ways to delete links.
const WAYS: [Option<Background>; 3] = [Some(Background::Process), Some(Background::Thread), None];

/// Creates veth pairs of these names with one end in the namespace. Returns their indexes.
fn veths<const N: usize>(netns: &Netns, names: [&str; N]) -> [u32; N] {
    let mut host = Netlink::open().unwrap();
    names.map(|name| {
        let peer = format!("p{name}");
        let veth = Veth { peer_netns: Some(netns), up: true, ..Veth::new(name, peer.as_str()) };
        host.add_veth(&veth).unwrap().index
    })
}

/// The children of this process, with those that have ended and were not waited for.
fn children() -> Vec<i32> {
    let own = std::process::id();
    let threads = fs::read_dir(format!("/proc/{own}/task")).unwrap();
    let lists: String = threads
        .map(|thread| fs::read_to_string(thread.unwrap().path().join("children")))
        .map(Result::unwrap_or_default)
        .collect();
    lists.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// Waits until all children have ended.
fn reap() -> usize {
    std::iter::from_fn(|| waitid(WaitId::All, WaitIdOptions::EXITED).ok()).count()
}

#[test]
fn links_are_gone_when_their_deletion_returns() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        let mut container = Netlink::open_in(&netns).unwrap();
        let mut host = Netlink::open().unwrap();
        let master = host.add_bridge(&Bridge::new("cni0")).unwrap().index;
        // Names, indexes of peers and ports of the bridge are reused at once.
        for background in WAYS.into_iter().cycle().take(30) {
            let [one, two, three] = veths(&netns, ["one", "two", "three"]);
            host.set_link(one, &LinkChange { master: Some(master), ..LinkChange::default() })
                .unwrap();
            Netlink::open().unwrap().del_links(&[one], background).unwrap();
            assert_eq!(host.find_link("one").unwrap(), None);
            assert_eq!(container.find_link("pone").unwrap(), None);
            Netlink::open().unwrap().del_links(&[two, three], background).unwrap();
            assert_eq!(host.links().unwrap().len(), 2, "lo and the bridge, {background:?}");
            assert_eq!(container.links().unwrap().len(), 1, "lo, {background:?}");
        }
        reap();
    });
}

#[test]
fn missing_link_is_not_an_error_and_does_not_stop_the_others() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        for background in WAYS {
            Netlink::open().unwrap().del_links(&[], background).unwrap();
            Netlink::open().unwrap().del_links(&[4711], background).unwrap();
            let [one, two] = veths(&netns, ["one", "two"]);
            Netlink::open().unwrap().del_links(&[4711, one, 4712, two], background).unwrap();
            assert_eq!(Netlink::open().unwrap().links().unwrap().len(), 1, "{background:?}");
        }
        reap();
    });
}

#[test]
fn refused_deletion_is_reported_and_does_not_stop_the_others() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        let mut host = Netlink::open().unwrap();
        let lo = host.link_by_name("lo").unwrap().index;
        for background in WAYS {
            let refused = |links: &[u32]| {
                let outcome = Netlink::open().unwrap().del_links(links, background);
                let error = outcome.unwrap_err().to_string();
                assert!(error.starts_with("delete lo: "), "{background:?}: {error}");
            };
            refused(&[lo]);
            let [one, two] = veths(&netns, ["one", "two"]);
            refused(&[one, lo, two]);
            assert_eq!(host.links().unwrap().len(), 1, "{background:?}");
        }
        reap();
    });
}

#[test]
fn one_child_with_its_own_session_serves_all_links() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        let links = veths(&netns, ["one", "two", "three"]);
        Netlink::open().unwrap().del_links(&links, Some(Background::Process)).unwrap();
        let [child] = children()[..] else { panic!("{:?}", children()) };
        // It is a zombie when it has ended, so the file can be read in any case.
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        assert_eq!(fields[3], child.to_string(), "session, in {stat}");
        assert_eq!(reap(), 1);
    });
}

#[test]
fn child_holds_no_pipe_and_no_lock_of_its_parent() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        for _ in 0..20 {
            let [link] = veths(&netns, ["one"]);
            let (mut reader, writer) = std::io::pipe().unwrap();
            rustix::io::ioctl_fionbio(&reader, true).unwrap();
            let lock = File::create(&path).unwrap();
            flock(&lock, FlockOperation::LockExclusive).unwrap();
            Netlink::open().unwrap().del_links(&[link], Some(Background::Process)).unwrap();
            drop((writer, lock));
            assert_eq!(reader.read(&mut [0]).expect("an end, as there is no writer"), 0);
            let other = File::open(&path).unwrap();
            flock(&other, FlockOperation::NonBlockingLockExclusive).expect("a free lock");
        }
        assert_eq!(reap(), 20);
    });
}

#[test]
fn links_are_deleted_although_the_child_is_killed() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        let is_over = AtomicBool::new(false);
        let killed = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let mut killed = 0;
                while !is_over.load(Relaxed) {
                    for child in children() {
                        let child = Pid::from_raw(child).unwrap();
                        killed += usize::from(kill_process(child, Signal::KILL).is_ok());
                        // Only this thread waits, so the number is not used again before.
                        let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED);
                    }
                }
                killed
            });
            for _ in 0..100 {
                let [link] = veths(&netns, ["one"]);
                Netlink::open().unwrap().del_links(&[link], Some(Background::Process)).unwrap();
                assert_eq!(Netlink::open().unwrap().links().unwrap().len(), 1);
            }
            is_over.store(true, Relaxed);
            killer.join().unwrap()
        });
        assert!(killed > 0);
    });
}

/// Its first process, which is this test, does not wait for orphans.
#[test]
fn no_child_is_started_in_another_pid_namespace() {
    const NESTED: &str = "RSCNI_LINUX_TEST_NESTED";
    if std::env::var_os(NESTED).is_some() {
        let netns = Netns::create().unwrap();
        let [link] = veths(&netns, ["one"]);
        Netlink::open().unwrap().del_links(&[link], Some(Background::Process)).unwrap();
        assert_eq!(Netlink::open().unwrap().find_link("one").unwrap(), None);
        assert_eq!(children(), [0; 0]);
        return;
    }
    private_network(|| {
        let output = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "no_child_is_started_in_another_pid_namespace"])
            .args(["--nocapture", "--test-threads=1"])
            .env(NESTED, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
    });
}
