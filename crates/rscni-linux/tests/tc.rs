//! Queueing disciplines, classes and filters, compared with the output of `tc`.

mod support;

use rscni_linux::{
    Ifb, Netlink, Veth,
    tc::{Filter, Handle, HtbClass, Qdisc, Tbf, U32},
};
use support::{json, private_network, run};

const FIRST: Handle = Handle::new(1, 0);

/// A link to shape.
fn link() -> (Netlink, u32) {
    let mut netlink = Netlink::open().unwrap();
    let index = netlink.add_veth(&Veth::new("veth0", "veth1")).unwrap().index;
    (netlink, index)
}

#[test]
fn token_bucket_equals_that_of_tc() {
    private_network(|| {
        let (mut netlink, index) = link();
        assert_eq!(netlink.find_qdisc(index, Handle::ROOT).unwrap(), None);
        // Bytes per second and bytes; the last rate takes more than 32 bits.
        for (rate, burst) in [(1_000_000, 102_400), (125_000, 1514), (12_500_000_000, 50_000_000)] {
            run(
                "tc",
                &format!("qdisc add dev veth1 root tbf rate {rate}bps burst {burst}b latency 25ms"),
            );
            let other = netlink.link_by_name("veth1").unwrap().index;
            let Some(Qdisc::Tbf(theirs)) = netlink.find_qdisc(other, Handle::ROOT).unwrap() else {
                panic!()
            };
            let ours = Tbf::new(rate, burst, 25);
            netlink.add_qdisc(index, Handle::ROOT, FIRST, &Qdisc::Tbf(ours)).unwrap();
            assert_eq!(netlink.find_qdisc(index, Handle::ROOT).unwrap(), Some(Qdisc::Tbf(ours)));
            assert_eq!((ours.rate, ours.limit), (theirs.rate, theirs.limit));
            // `tc` also sends the burst in bytes, which the kernel rounds differently.
            assert!(ours.buffer.abs_diff(theirs.buffer) <= 16, "{ours:?} {theirs:?}");
            let shown = &json("tc", "-j qdisc show dev veth0")[0];
            assert_eq!((&shown["kind"], &shown["options"]["rate"]), (&"tbf".into(), &rate.into()));
            let error =
                netlink.add_qdisc(index, Handle::ROOT, FIRST, &Qdisc::Tbf(ours)).unwrap_err();
            assert!(error.is_exists(), "{error}");
            assert!(error.to_string().starts_with("add qdisc tbf at root of veth0: "), "{error}");
            for index in [index, other] {
                netlink.del_qdisc(index, Handle::ROOT).unwrap();
            }
            assert!(netlink.del_qdisc(index, Handle::ROOT).unwrap_err().is_not_found());
        }
    });
}

#[test]
fn token_bucket_supports_bursts_of_any_length() {
    private_network(|| {
        let (mut netlink, index) = link();
        let other = netlink.link_by_name("veth1").unwrap().index;
        // 10 s, 214 s, 429 s and more than an hour.
        let bursts = [
            (1_250_000, 12_500_000),
            (1_250_000, 268_435_455),
            (1_250_000, 536_870_911),
            (12_500, 268_435_455),
        ];
        for (rate, burst) in bursts {
            run(
                "tc",
                &format!("qdisc add dev veth1 root tbf rate {rate}bps burst {burst}b limit 9000"),
            );
            let Some(Qdisc::Tbf(theirs)) = netlink.find_qdisc(other, Handle::ROOT).unwrap() else {
                panic!()
            };
            let ours = Tbf { limit: 9000, largest: Some(9000), ..Tbf::new(rate, burst, 25) };
            netlink.add_qdisc(index, Handle::ROOT, FIRST, &Qdisc::Tbf(ours)).unwrap();
            let Some(Qdisc::Tbf(found)) = netlink.find_qdisc(index, Handle::ROOT).unwrap() else {
                panic!()
            };
            let difference = found.buffer.wrapping_sub(theirs.buffer).cast_signed();
            assert!(difference.abs() <= 16, "{found:?} {theirs:?}");
            assert_eq!((found.rate, found.limit), (rate, 9000));
            let largest = found.largest.unwrap();
            assert!((8725..=9000).contains(&largest), "{found:?}");
            for index in [index, other] {
                netlink.del_qdisc(index, Handle::ROOT).unwrap();
            }
        }
    });
}

#[test]
fn default_queue_of_a_token_bucket_is_found_until_replaced() {
    private_network(|| {
        let (mut netlink, index) = link();
        let class = Handle::new(1, 1);
        assert_eq!(netlink.find_default_qdisc(index, class).unwrap(), None);
        let bucket = Qdisc::Tbf(Tbf::new(1_000_000, 102_400, 25));
        netlink.add_qdisc(index, Handle::ROOT, FIRST, &bucket).unwrap();
        let default = netlink.find_default_qdisc(index, class).unwrap();
        assert_eq!(default, Some(Qdisc::Bfifo { limit: 127_400 }));
        assert_eq!(netlink.find_qdisc(index, class).unwrap(), None);
        let queue = Qdisc::Bfifo { limit: 25_000 };
        netlink.add_qdisc(index, class, Handle::new(2, 0), &queue).unwrap();
        assert_eq!(netlink.find_qdisc(index, class).unwrap(), Some(queue));
        assert_eq!(netlink.find_default_qdisc(index, class).unwrap(), None);
        netlink.del_qdisc(index, class).unwrap();
        assert_eq!(netlink.find_qdisc(index, class).unwrap(), None);
        assert_eq!(netlink.find_default_qdisc(index, class).unwrap(), None);
    });
}

#[test]
fn missing_objects_are_not_found() {
    private_network(|| {
        let (mut netlink, index) = link();
        for place in [Handle::ROOT, Handle::INGRESS] {
            assert_eq!(netlink.find_qdisc(index, place).unwrap(), None);
        }
        assert_eq!(netlink.find_qdisc(4711, Handle::ROOT).unwrap(), None);
        assert!(netlink.htb_classes(index).unwrap().is_empty());
        assert!(netlink.filters(index, Handle::new(0xffff, 0)).unwrap_or_default().is_empty());
        // The socket is still in sync.
        assert_eq!(netlink.link_by_index(index).unwrap().name, "veth0");
    });
}

#[test]
fn incoming_packets_are_redirected() {
    private_network(|| {
        let (mut netlink, index) = link();
        let ifb = Ifb { mtu: Some(1400), alias: Some("x".into()), up: true, ..Ifb::new("ifb7") };
        let ifb = netlink.add_link(&ifb).unwrap();
        assert_eq!((ifb.kind.as_deref(), ifb.mtu, ifb.up), (Some("ifb"), 1400, true));
        let ingress = Handle::new(0xffff, 0);
        netlink.add_qdisc(index, Handle::INGRESS, ingress, &Qdisc::Ingress).unwrap();
        assert_eq!(netlink.find_qdisc(index, Handle::INGRESS).unwrap(), Some(Qdisc::Ingress));
        let filter = U32::redirect_all(ingress, ifb.index);
        netlink.add_filter(index, &filter).unwrap();
        assert_eq!(netlink.filters(index, ingress).unwrap(), [Filter::U32(filter)]);
        let shown = run("tc", "filter show dev veth0 ingress");
        assert!(shown.contains("mirred (Egress Redirect to device ifb7) stolen"), "{shown}");
        netlink.del_qdisc(index, Handle::INGRESS).unwrap();
        assert_eq!(netlink.find_qdisc(index, Handle::INGRESS).unwrap(), None);
    });
}

#[test]
fn filters_classify_packets_by_address() {
    private_network(|| {
        let (mut netlink, index) = link();
        netlink.add_qdisc(index, Handle::ROOT, FIRST, &Qdisc::Htb { default: 0x30 }).unwrap();
        assert_eq!(
            netlink.find_qdisc(index, Handle::ROOT).unwrap(),
            Some(Qdisc::Htb { default: 0x30 })
        );
        let [slow, fast] = [Handle::new(1, 0x30), Handle::new(1, 1)];
        let classes =
            [HtbClass::new(slow, 1_000_000, 102_400), HtbClass::new(fast, 100_000_000_000, 0)];
        for class in &classes {
            netlink.add_htb_class(index, class).unwrap();
        }
        let leaf = Qdisc::Bfifo { limit: 5000 };
        netlink.add_qdisc(index, slow, Handle::new(0x30, 0), &leaf).unwrap();
        let mut found = netlink.htb_classes(index).unwrap();
        found.sort_by_key(|class| class.handle.minor());
        assert_eq!(
            found.iter().map(|class| class.rate).collect::<Vec<_>>(),
            [100_000_000_000, 1_000_000]
        );
        assert_eq!(found[1], classes[0]);
        assert_eq!(netlink.find_qdisc(index, slow).unwrap(), Some(leaf));

        let subnets = [
            "10.9.0.0/16",
            "10.9.1.1/32",
            "fd00:9::/32",
            "fd00::9/128",
            "0.0.0.0/0",
            "::/0",
            "fd00:9::/48",
        ];
        let mut filters = Vec::new();
        for subnet in subnets.map(|subnet| subnet.parse().unwrap()) {
            filters.extend([U32::to_subnet(subnet, fast), U32::from_subnet(subnet, slow)]);
        }
        for filter in &filters {
            netlink.add_filter(index, filter).unwrap();
        }
        let found = netlink.filters(index, FIRST).unwrap();
        assert_eq!(found.len(), 2 * subnets.len());
        assert!(
            filters.into_iter().all(|filter| found.contains(&Filter::U32(filter))),
            "{found:#?}"
        );
        let shown = run("tc", "-p filter show dev veth0");
        for text in
            ["match IP dst 10.9.0.0/16", "match IP src 10.9.0.0/16", "match IP dst 10.9.1.1/32"]
        {
            assert!(shown.contains(text), "{text} in {shown}");
        }
    });
}
