//! Snapshots list everything that a plugin leaves behind.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

use rscni_linux::{
    AddressFlags, Bridge, LinkChange, Netns, Route, Veth,
    nft::{BaseChain, Family, Nft, Rule, Table},
};
use rscni_test::{Container, Lab};

/// A veth from the host into the container, up on both ends and with an address on the host's.
fn attach(lab: &Lab, container: &Container) {
    let mut netlink = lab.host().netlink();
    let peer = Netns::open(container.path()).unwrap();
    netlink
        .add_veth(&Veth { peer_netns: Some(&peer), up: true, ..Veth::new("veth-a", "eth0") })
        .unwrap();
    let index = netlink.link_by_name("veth-a").unwrap().index;
    netlink.add_address(index, "10.1.0.1/24".parse().unwrap(), AddressFlags::default()).unwrap();
    let mut inside = container.netlink();
    let index = inside.link_by_name("eth0").unwrap().index;
    inside.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
}

fn find<'a>(changes: &'a [String], start: &str) -> &'a str {
    let found = changes.iter().find(|change| change.starts_with(start));
    found.unwrap_or_else(|| panic!("no `{start}` in\n{}", changes.join("\n")))
}

#[test]
fn a_network_at_rest_does_not_change() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        attach(lab, &a);
        let before = lab.snapshot();
        a.run(|| ());
        lab.host().try_ping("10.1.0.7", Duration::from_millis(500)).unwrap_err();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn links_addresses_and_routes_are_listed_where_they_are() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let before = lab.snapshot();
        attach(lab, &a);
        let mut netlink = lab.host().netlink();
        netlink.add_bridge(&Bridge::new("cni0")).unwrap();
        let index = netlink.link_by_name("veth-a").unwrap().index;
        let mut route = Route::new("192.0.2.0/24".parse::<ipnet::IpNet>().unwrap());
        route.gateway = Some("10.1.0.2".parse().unwrap());
        route.oif = Some(index);
        netlink.add_route(&route).unwrap();
        netlink
            .add_neighbour(index, "10.1.0.9".parse().unwrap(), "02:00:00:00:00:09".parse().unwrap())
            .unwrap();

        let changes = before.changes_to(&lab.snapshot());
        for start in [
            "+ a: link eth0 (veth up mtu 1500",
            "+ host: address 10.1.0.1/24 on veth-a",
            "+ host: link cni0 (bridge",
            "+ host: link veth-a (veth up",
            "+ host: neighbour 10.1.0.9 on veth-a (020000000009)",
            "+ host: route 10.1.0.0/24 dev veth-a table 254",
            "+ host: route 192.0.2.0/24 via 10.1.0.2 dev veth-a table 254",
        ] {
            find(&changes, start);
        }
        assert_eq!(changes.len(), 7, "{}", changes.join("\n"));
    });
}

#[test]
fn a_link_that_was_changed_is_listed_before_and_after() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        attach(lab, &a);
        let before = lab.snapshot();
        let mut inside = a.netlink();
        let index = inside.link_by_name("eth0").unwrap().index;
        inside.set_link(index, &LinkChange { mtu: Some(1400), ..LinkChange::default() }).unwrap();
        let changes = before.changes_to(&lab.snapshot());
        let change = find(&changes, "~ a: link eth0: was veth up mtu 1500");
        assert!(change.contains("is veth up mtu 1400"), "{change}");
    });
}

#[test]
fn files_directories_and_their_content_are_listed() {
    rscni_test::run(|lab| {
        let own = lab.dir().join("data");
        fs::create_dir(&own).unwrap();
        fs::write("/run/old", "1").unwrap();
        lab.watch(&own);
        let before = lab.snapshot();
        fs::create_dir_all("/var/lib/cni/networks/net").unwrap();
        fs::write("/var/lib/cni/networks/net/10.1.0.2", "ctr-a\r\neth0").unwrap();
        fs::create_dir_all("/run/cni/empty").unwrap();
        fs::write("/run/old", "2").unwrap();
        fs::write(own.join("10.2.0.2"), "").unwrap();
        fs::write(lab.dir().join("not watched"), "").unwrap();
        let changes = before.changes_to(&lab.snapshot());
        let expected = [
            "+ directory /run/cni/empty",
            "~ file /run/old: was 1, is 2",
            "+ file /run/rscni-test/dir/data/10.2.0.2",
            "+ file /var/lib/cni/networks/net/10.1.0.2 (ctr-a\\r\\neth0)",
        ];
        assert_eq!(changes, expected);
    });
}

#[test]
fn settings_are_listed_once_and_those_of_new_links_not_at_all() {
    rscni_test::run(|lab| {
        let before = lab.snapshot();
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/lo/accept_ra", "0").unwrap();
        lab.host().netlink().add_bridge(&Bridge::new("cni0")).unwrap();
        let changes = before.changes_to(&lab.snapshot());
        find(&changes, "+ host: link cni0");
        find(&changes, "~ host: sysctl net/ipv4/ip_forward: was 0, is 1");
        find(&changes, "~ host: sysctl net/ipv6/conf/lo/accept_ra: was 1, is 0");
        assert_eq!(changes.len(), 3, "{}", changes.join("\n"));
    });
}

#[test]
fn rules_are_listed_with_their_comments_and_without_their_counters() {
    rscni_test::run(|lab| {
        let mut nft = Nft::open().unwrap();
        let table = Table::new(Family::Inet, "cni");
        let before = lab.snapshot();
        let rule = Rule::new().counter().comment("net ctr-a eth0");
        let mut tx = nft.transaction();
        tx.add_table(&table).add_chain(&table, "post", Some(&BaseChain::srcnat()));
        tx.add_rule(&table, "post", &rule).add_rule(&table, "post", &rule);
        tx.commit().unwrap();

        let with_rules = lab.snapshot();
        let expected = [
            "+ host: nft chain inet cni post (type nat hook postrouting priority srcnat; policy accept)",
            "+ host: nft rule inet cni post: counter comment \"net ctr-a eth0\"",
            "+ host: nft rule inet cni post: counter comment \"net ctr-a eth0\" (number 2)",
            "+ host: nft table inet cni",
        ];
        assert_eq!(before.changes_to(&with_rules), expected);

        let server = lab.host().serve_udp(0);
        lab.host().udp(SocketAddr::from(([127, 0, 0, 1], server.port()))).assert_by(&server);
        lab.assert_unchanged_since(&with_rules);
    });
}

#[test]
fn processes_are_listed_until_they_end() {
    rscni_test::run(|lab| {
        let before = lab.snapshot();
        let mut daemon = Command::new("sleep").arg("1234").stdout(Stdio::null()).spawn().unwrap();
        // The process has no arguments until it has executed the program.
        let expected = ["+ process sleep 1234"];
        rscni_test::eventually("the process is listed", || {
            (before.changes_to(&lab.snapshot()) == expected).then_some(())
        });
        let running = lab.snapshot();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        lab.assert_unchanged_since(&before);
        lab.assert_unchanged_since(&running);
    });
}

#[test]
fn an_added_or_removed_namespace_is_one_line() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let before = lab.snapshot();
        lab.remove_namespace(&a);
        lab.container("b");
        assert_eq!(before.changes_to(&lab.snapshot()), ["- namespace a", "+ namespace b"]);
    });
}

#[test]
fn objects_that_vanish_with_a_namespace_are_waited_for() {
    rscni_test::run(|lab| {
        let before = lab.snapshot();
        let a = lab.container("a");
        attach(lab, &a);
        lab.remove_namespace(&a);
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn leftovers_that_the_kernel_does_not_remove_are_not_waited_for() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let before = lab.snapshot();
        attach(lab, &a);
        let index = lab.host().netlink().link_by_name("veth-a").unwrap().index;
        let (is_told, told) = channel::<()>();
        std::thread::scope(|scope| {
            // Ends the difference, should it be waited for.
            scope.spawn(move || {
                if told.recv_timeout(Duration::from_secs(30)) == Err(RecvTimeoutError::Timeout) {
                    lab.host().netlink().del_link(index).unwrap();
                }
            });
            let changes = lab.changes_since(&before);
            drop(is_told);
            find(&changes, "+ host: link veth-a (veth up");
        });
    });
}

#[test]
#[should_panic(expected = "+ host: link cni0 (bridge")]
fn leftovers_fail_the_test_with_their_names() {
    rscni_test::run(|lab| {
        let before = lab.snapshot();
        lab.host().netlink().add_bridge(&Bridge::new("cni0")).unwrap();
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn intended_leftovers_can_be_ignored() {
    rscni_test::run(|lab| {
        let before = lab.snapshot().ignoring("cni0").ignoring("ip_forward");
        lab.host().netlink().add_bridge(&Bridge::new("cni0")).unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        lab.snapshot().assert_same(&before);
    });
}
