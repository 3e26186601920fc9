//! The bandwidth plugin after bridge or ptp, with real traffic.

mod support;

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use rscni_linux::{
    Bridge, Ifb, Link, Netlink,
    tc::{Handle, HtbClass, Qdisc, Tbf, U32},
};
use rscni_test::{Container, Lab, Namespace, Outcome, VERSIONS, Versions};
use rstest::rstest;
use serde_json::{Value, json};

use support::{Attached, Network, V4, V6, add_address, assert_gone, host_link, up};

/// Limits in bits per second. They differ so that a test notices when they are swapped.
const INGRESS: u32 = 8_000_000;
const EGRESS: u32 = 4_000_000;

/// Both limits, with short bursts.
fn limits() -> Value {
    json!({ "ingressRate": INGRESS, "ingressBurst": 800_000, "egressRate": EGRESS, "egressBurst": 800_000 })
}

fn bandwidth(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "bandwidth", keys)
}

fn bridged(lab: &Lab, name: &str) -> Attached {
    Network::bridge(lab, &[V4, V6], &json!({ "isDefaultGateway": true })).attach(lab, name)
}

/// The name of the ifb in the result of ADD.
fn ifb_name(a: &Attached) -> String {
    let interfaces = a.reply.interfaces();
    interfaces
        .last()
        .filter(|name| name.starts_with("bwp"))
        .expect("an ifb in the result")
        .to_string()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Direction {
    ToContainer,
    FromContainer,
}

const BOTH: [(Direction, u32); 2] =
    [(Direction::ToContainer, INGRESS), (Direction::FromContainer, EGRESS)];

/// The bytes received over a TCP connection so far.
#[derive(Clone, Copy, Debug)]
struct Received {
    bits: f64,
    /// Since before the first packet.
    seconds: f64,
}

/// Timeout of a transfer in seconds.
const TIMEOUT: f64 = 60.0;

/// Sends over a TCP connection between the container and this address of the host until `enough`
/// returns true or an error.
#[track_caller]
fn transfer(
    lab: &Lab,
    container: &Container,
    address: &str,
    direction: Direction,
    mut enough: impl FnMut(Received) -> Result<bool, String>,
) {
    let address: IpAddr = address.parse().unwrap();
    let listener = lab.host().run(|| TcpListener::bind((address, 0))).unwrap();
    let to = listener.local_addr().unwrap();
    let start = Instant::now();
    let inside =
        container.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(60))).unwrap();
    let (outside, _) = listener.accept().unwrap();
    let (mut from, mut to) =
        if direction == Direction::ToContainer { (outside, inside) } else { (inside, outside) };
    to.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    std::thread::scope(|scope| {
        // The write fails when the other side closes the connection.
        scope.spawn(move || while from.write_all(&[0; 16 * 1024]).is_ok() {});
        let mut buffer = vec![0; 64 * 1024];
        let mut received = Received { bits: 0.0, seconds: 0.0 };
        let end = loop {
            match to.read(&mut buffer) {
                Ok(length) => received.bits += f64::from(u32::try_from(length).unwrap()) * 8.0,
                Err(error) => break Err(format!("no packets come through any more: {error}")),
            }
            received.seconds = start.elapsed().as_secs_f64();
            match enough(received) {
                Ok(false) if received.seconds > TIMEOUT => {
                    break Err("that is not enough".to_owned());
                }
                Ok(false) => {}
                end => break end,
            }
        };
        // Errors are reported by the other side.
        let _ = to.shutdown(Shutdown::Both);
        drop(to);
        assert!(end.is_ok(), "{direction:?} by {address}: {received:?}: {end:?}");
    });
}

/// Asserts that a limit holds within 20 %. The received bits never exceed the limit and a burst,
/// and reach almost that for a while. Delays of a busy machine do not matter, since only the total
/// counts.
#[track_caller]
fn assert_limited(
    lab: &Lab,
    container: &Container,
    address: &str,
    (direction, limit): (Direction, u32),
) {
    /// The burst, and the packet that exceeds the rest of it.
    const BURST: f64 = 2.0 * 800_000.0;
    const WHILE: f64 = 1.0;
    let limit = f64::from(limit);
    let mut begin: Option<Received> = None;
    transfer(lab, container, address, direction, |now| {
        if now.bits > BURST + limit * 1.2 * now.seconds {
            return Err(format!("that is too much at {limit} bit/s"));
        }
        // Ignore the burst at the beginning.
        let Some(then) = begin else {
            begin = (now.bits > BURST).then_some(now);
            return Ok(false);
        };
        let (bits, seconds) = (now.bits - then.bits, now.seconds - then.seconds);
        if seconds < WHILE {
            return Ok(false);
        }
        begin = Some(now);
        // Long enough to make the burst negligible.
        Ok(bits > limit * 0.8 * seconds && now.seconds > 2.0)
    });
}

/// Asserts that the rate exceeds five times the limit.
#[track_caller]
fn assert_unlimited(
    lab: &Lab,
    container: &Container,
    address: &str,
    (direction, limit): (Direction, u32),
) {
    let limit = f64::from(limit);
    transfer(lab, container, address, direction, |now| {
        Ok(now.bits > 5.0 * limit * now.seconds.max(0.5))
    });
}

#[rstest]
fn limits_hold_in_both_directions(
    #[values("bridge", "ptp")] plugin: &str,
    #[values(V4, V6)] subnet: &str,
) {
    rscni_test::run(|lab| {
        let first = match plugin {
            "bridge" => Network::bridge(lab, &[subnet], &json!({})),
            _ => Network::ptp(lab, &[subnet], &json!({})),
        };
        let first = first.attach(lab, "a");
        let before = lab.snapshot();
        let gateway = first.reply.gateways()[0].to_string();
        let a = bandwidth(lab, &limits()).after(&first);
        for limit in BOTH {
            assert_limited(lab, &a, &gateway, limit);
        }
        a.check().success();
        a.del().success();
        for limit in BOTH {
            assert_unlimited(lab, &a, &gateway, limit);
        }
        lab.assert_unchanged_since(&before);
        a.del().success();
        first.del().success();
    });
}

#[test]
fn the_runtime_may_set_limits_for_one_direction() {
    rscni_test::run(|lab| {
        let ingress = json!({ "ingressRate": INGRESS, "ingressBurst": 800_000 });
        let keys = json!({ "runtimeConfig": { "bandwidth": ingress } });
        let first = bridged(lab, "a");
        let before = lab.snapshot();
        let a = bandwidth(lab, &keys).after(&first);
        assert_eq!(a.reply.json(), first.reply.json());
        assert_limited(lab, &a, "10.1.0.1", BOTH[0]);
        assert_unlimited(lab, &a, "10.1.0.1", BOTH[1]);
        a.check().success();
        a.del().success();
        lab.assert_unchanged_since(&before);

        let egress = json!({ "egressRate": EGRESS, "egressBurst": 800_000 });
        let b = bandwidth(lab, &json!({ "runtimeConfig": { "bandwidth": egress } }))
            .after(&bridged(lab, "b"));
        assert_unlimited(lab, &b, "10.1.0.1", BOTH[0]);
        assert_limited(lab, &b, "10.1.0.1", BOTH[1]);
        b.check().success();
    });
}

/// Addresses of the host in no subnet of the container.
fn add_far_addresses(lab: &Lab) {
    for address in ["192.0.2.1/32", "2001:db8::1/128"] {
        add_address(lab.host(), "lo", address);
    }
}

#[rstest]
#[case::excluded("unshapedSubnets", ["10.1.0.1", "fd01::1"], ["192.0.2.1", "2001:db8::1"])]
#[case::included("shapedSubnets", ["192.0.2.1", "2001:db8::1"], ["10.1.0.1", "fd01::1"])]
fn limits_apply_to_configured_subnets(
    #[case] key: &str,
    #[case] limited: [&str; 2],
    #[case] unlimited: [&str; 2],
) {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        add_far_addresses(lab);
        let before = lab.snapshot();
        let keys = json!({ key: ["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"] });
        let a = bandwidth(lab, &limits()).with(&keys).after(&first);
        a.check().success();
        for limit in BOTH {
            for (limited, unlimited) in limited.iter().zip(unlimited) {
                assert_limited(lab, &a, limited, limit);
                assert_unlimited(lab, &a, unlimited, limit);
            }
        }
        a.del().success();
        lab.assert_unchanged_since(&before);
    });
}

/// Bytes queued on a link, and packets dropped there.
#[track_caller]
fn queued(lab: &Lab, link: &str) -> (u64, u64) {
    let show = || Command::new("tc").args(["-s", "-j", "qdisc", "show", "dev", link]).output();
    let output = lab.host().run(show).expect("run tc");
    let qdiscs: Value = serde_json::from_slice(&output.stdout).expect("tc prints JSON");
    let root = qdiscs.as_array().unwrap().iter().find(|qdisc| qdisc["root"] == true);
    let root = root.expect("a qdisc at root");
    (root["backlog"].as_u64().unwrap(), root["drops"].as_u64().unwrap())
}

/// Size of a datagram in bytes with its headers, and its payload.
const FRAME: u64 = 1442;
const DATAGRAM: [u8; 1400] = [0; 1400];

/// Returns a socket in the namespace, and the address of a listener to which it sends datagrams.
fn datagrams(
    lab: &Lab,
    container: &Attached,
    direction: Direction,
) -> (UdpSocket, UdpSocket, SocketAddr) {
    let (host, inside): (&Namespace, &Namespace) = (lab.host(), container);
    let (from, to, address) = match direction {
        Direction::ToContainer => (host, inside, container.v4()),
        Direction::FromContainer => (inside, host, container.reply.gateways()[0]),
    };
    let receiver = to.run(|| UdpSocket::bind((address, 0))).unwrap();
    let address = receiver.local_addr().unwrap();
    (from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap(), receiver, address)
}

#[rstest]
#[case::to_the_container(i32::MAX.unsigned_abs(), Direction::ToContainer, "")]
#[case::from_the_container(i32::MAX.unsigned_abs(), Direction::FromContainer, "")]
#[case::with_the_largest_burst(u32::MAX, Direction::ToContainer, "")]
#[case::of_a_class(i32::MAX.unsigned_abs(), Direction::FromContainer, "shapedSubnets")]
fn the_queue_is_25_ms_long_for_any_burst(
    #[case] burst: u32,
    #[case] direction: Direction,
    #[case] key: &str,
) {
    const RATE: u32 = 10_000_000;
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let mut keys = match direction {
            Direction::ToContainer => json!({ "ingressRate": RATE, "ingressBurst": burst }),
            Direction::FromContainer => json!({ "egressRate": RATE, "egressBurst": burst }),
        };
        let mut longest = u64::from(RATE) / 8 * 25 / 1000;
        if !key.is_empty() {
            keys[key] = json!([V4]);
            // A packet of 64 KiB fits into the burst.
            longest = 72 * 1024;
        }
        let a = bandwidth(lab, &keys).after(&first);
        a.check().success();
        let link = match direction {
            Direction::ToContainer => first.port_name(),
            Direction::FromContainer => ifb_name(&a),
        };
        let (sender, _receiver, address) = datagrams(lab, &a, direction);
        sender.set_nonblocking(true).unwrap();
        // A datagram that would block is not sent.
        let send =
            |count| (0..count).filter(|_| sender.send_to(&DATAGRAM, address).is_ok()).count();
        let mut sent = 0;
        while sent < u64::from(burst) / 4 && queued(lab, &link).0 <= longest / 2 {
            sent += FRAME * u64::try_from(send(5000)).unwrap();
        }
        let mut seen = 0;
        for _ in 0..30 {
            send(200);
            let (bytes, _) = queued(lab, &link);
            assert!(bytes <= longest, "{bytes} bytes wait on {link}");
            seen = seen.max(bytes);
        }
        assert!(seen > longest / 2, "no more than {seen} bytes waited on {link}");
        a.check().success();
        a.del().success();
    });
}

#[rstest]
// 10 s of the rate. The kernel's messages for a class have 32 bits for it.
#[case::of_ten_seconds(80_000, 800_000, "")]
#[case::of_ten_seconds_in_a_class(80_000, 800_000, "shapedSubnets")]
// 300 s, beyond those 32 bits.
#[case::of_five_minutes(8_000, 2_400_000, "")]
fn a_burst_passes_at_once(
    #[case] rate: u32,
    #[case] burst: u32,
    #[case] key: &str,
    #[values(Direction::ToContainer, Direction::FromContainer)] direction: Direction,
) {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let mut keys = json!({
            "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst
        });
        if !key.is_empty() {
            keys[key] = json!([V4]);
        }
        let a = bandwidth(lab, &keys).after(&first);
        let link = match direction {
            Direction::ToContainer => first.port_name(),
            Direction::FromContainer => ifb_name(&a),
        };
        let (sender, receiver, address) = datagrams(lab, &a, direction);
        receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The rest is left for packets of the kernel.
        let count = u64::from(burst) / 8 * 9 / 10 / FRAME;
        for _ in 0..count {
            sender.send_to(&DATAGRAM, address).unwrap();
            assert_eq!(queued(lab, &link), (0, 0), "bytes that wait and packets that were dropped");
            receiver.recv(&mut [0; 1500]).expect("a datagram");
        }
    });
}

#[test]
fn check_accepts_any_burst_that_the_go_plugin_made_and_the_other_way_round() {
    const VERSION: &str = "1.0.0";
    rscni_test::run(|lab| {
        support::install(lab);
        let go = lab.plugin("/usr/lib/cni/bandwidth").cni_path(["/usr/lib/cni"]);
        let keys = json!({ "cniVersion": VERSION, "isDefaultGateway": true });
        let first = Network::bridge(lab, &[V4], &keys).attach(lab, "a");
        for (rate, burst) in [
            (8_000_000, 800_000),
            (10_000_000, i32::MAX.unsigned_abs()),
            (10_000_000, u32::MAX),
            (1_000_000, i32::MAX.unsigned_abs()),
            (1_000_000, u32::MAX),
            (100_000, i32::MAX.unsigned_abs()),
            (100_000, u32::MAX),
            (1_000_000_000, u32::MAX),
            (40_000_000_000_u64, u32::MAX),
        ] {
            let keys = json!({
                "cniVersion": VERSION, "ingressRate": rate, "ingressBurst": burst,
                "egressRate": rate, "egressBurst": burst,
            });
            let ours = bandwidth(lab, &keys);
            let theirs = Network { plugin: go.clone(), ..ours.clone() };
            let mut a = theirs.after(&first);
            a.check().success();
            a.network = ours.clone();
            a.check().success();
            a.del().success();
            let mut a = ours.after(&first);
            a.check().success();
            // With a longer burst the numbers of the Go plugin overflow.
            if u64::from(burst) / rate < 274 {
                a.network = theirs;
                a.check().success();
                a.network = ours;
            }
            a.del().success();
        }
    });
}

#[test]
fn check_accepts_what_earlier_releases_made() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let keys = json!({ "ingressRate": 80_000, "ingressBurst": i32::MAX });
        let a = bandwidth(lab, &keys).after(&first);
        let veth = host_link(lab, &first.port_name());
        let earlier = Tbf {
            rate: 10_000,
            buffer: u32::MAX / 64,
            burst: None,
            limit: 268_435_455 + 250,
            largest: None,
        };
        replace(&mut lab.host().netlink(), &veth, &Qdisc::Tbf(earlier));
        a.check().success();
        replace(
            &mut lab.host().netlink(),
            &veth,
            &Qdisc::Tbf(Tbf { buffer: u32::MAX / 65, ..earlier }),
        );
        a.check_misses("ADD left qdisc tbf with rate 80000");
    });
}

#[test]
fn the_result_has_the_ifb_which_has_the_mtu_of_the_veth() {
    rscni_test::run(|lab| {
        let first = Network::bridge(lab, &[V4], &json!({ "mtu": 1400 })).attach(lab, "a");
        let a = bandwidth(lab, &limits()).after(&first);
        let ifb = host_link(lab, &ifb_name(&a));
        // printf %s netctr-a | sha512sum
        assert_eq!(ifb.name, "bwp0b3cbcd23807");
        let mut expected = first.reply.json().clone();
        let shown = json!({ "name": ifb.name, "mac": ifb.mac.unwrap().to_string(), "mtu": 1400 });
        expected["interfaces"].as_array_mut().unwrap().push(shown);
        assert_eq!(*a.reply.json(), expected);
        assert_eq!((ifb.kind.as_deref(), ifb.mtu, ifb.up), (Some("ifb"), 1400, true));
        assert_eq!(ifb.alias.as_deref(), Some("rscni net ctr-a eth0"));
        // The previous plugin's CHECK still succeeds.
        first.network.plugin.check(&a, "eth0", &a.reply.follow(&first.network.config)).success();
    });
}

#[test]
fn a_late_del_keeps_the_next_container_at_the_same_path() {
    rscni_test::run(|lab| {
        let network = bandwidth(lab, &limits());
        let old = network.after(&bridged(lab, "a"));
        lab.remove_namespace(&old);
        let path = lab.container("a");
        let bridge = Network::bridge(lab, &[V4, V6], &json!({ "isDefaultGateway": true }));
        let call = |network: &Network, command: &str, config: &Value| {
            let call = network.plugin.call(command).attachment(&path, "eth0");
            call.env("CNI_CONTAINERID", "next").config(config).run().success()
        };
        let reply = call(&bridge, "ADD", &bridge.config);
        let reply = call(&network, "ADD", &reply.follow(&network.config));
        old.del().success();
        old.del_without_result().success();
        call(&network, "CHECK", &reply.follow(&network.config));
    });
}

#[rstest]
#[case(json!({}))]
#[case(json!({ "ingressRate": 0, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0 }))]
#[case(json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 0 } }, "unshapedSubnets": ["10.0.0.0/8"] }))]
fn without_limits_nothing_changes(#[case] keys: Value) {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        // A qdisc of another program.
        let port = host_link(lab, &first.port_name()).index;
        let bucket = Qdisc::Tbf(Tbf::new(1_000_000, 100_000, 25));
        lab.host().netlink().add_qdisc(port, Handle::ROOT, Handle::new(1, 0), &bucket).unwrap();
        let before = lab.snapshot();
        let a = bandwidth(lab, &keys).after(&first);
        assert_eq!(a.reply.json(), first.reply.json());
        lab.assert_unchanged_since(&before);
        a.check().success();
        a.del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_second_interface_on_the_same_network_has_its_own_limits() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let first = network.attach(lab, "a");
        let second = network.attach_as(&first, "net1");
        let bandwidth = bandwidth(lab, &limits());
        let [one, two] = [&first, &second].map(|attached| bandwidth.after(attached));
        assert_ne!(ifb_name(&one), ifb_name(&two));
        for attached in [&one, &two] {
            attached.check().success();
        }
        one.del().success();
        two.check().success();
        one.del().success();
        two.check().success();
        let again = bandwidth.after(&first);
        two.del().success();
        again.check().success();
        again.del().success();
        assert_gone(lab, &["bwp"]);
    });
}

#[rstest]
#[case::with_the_result(Attached::del)]
#[case::without_the_result(Attached::del_without_result)]
#[case::without_the_namespace(Attached::del_without_netns)]
fn del_finds_what_the_attachment_has(
    #[case] del: fn(&Attached) -> Outcome,
    #[values("", "unshapedSubnets")] key: &str,
) {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let before = lab.snapshot();
        let keys = if key.is_empty() { json!({}) } else { json!({ key: ["192.0.2.0/24"] }) };
        let a = bandwidth(lab, &limits()).with(&keys).after(&first);
        for _ in 0..2 {
            del(&a).success();
            lab.assert_unchanged_since(&before);
        }
        a.ping("10.1.0.1");
        a.ping("fd01::1");
    });
}

#[rstest]
fn del_cleans_up_after_a_container_that_is_gone(#[values(true, false)] has_result: bool) {
    rscni_test::run(|lab| {
        support::install(lab);
        let before = support::snapshot(lab).ignoring("br0");
        let first = bridged(lab, "a");
        let a = bandwidth(lab, &limits()).after(&first);
        lab.remove_namespace(&a);
        for _ in 0..2 {
            if has_result { a.del() } else { a.del_without_result() }.success();
        }
        first.del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn del_takes_half_of_an_attachment_and_a_configuration_that_has_become_invalid() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let before = lab.snapshot();
        let port = first.port_name();
        let halves: [Damage; 5] = [
            empty_ingress,
            |host, veth, _| host.del_qdisc(veth.index, Handle::ROOT).unwrap(),
            |host, veth, _| host.del_qdisc(veth.index, Handle::INGRESS).unwrap(),
            |host, _, ifb| host.del_qdisc(ifb.index, Handle::ROOT).unwrap(),
            |host, _, ifb| host.del_link(ifb.index).unwrap(),
        ];
        for half in halves {
            let a = bandwidth(lab, &limits()).after(&first);
            half(&mut lab.host().netlink(), &host_link(lab, &port), &host_link(lab, &ifb_name(&a)));
            a.del().success();
            lab.assert_unchanged_since(&before);
        }
        let a = bandwidth(lab, &limits()).after(&first);
        let invalid = a.network.with(&json!({ "ingressBurst": null }));
        invalid.del(&a).success();
        lab.assert_unchanged_since(&before);
        // The runtime lost its arguments.
        let a =
            bandwidth(lab, &json!({ "runtimeConfig": { "bandwidth": limits() } })).after(&first);
        let lost = bandwidth(lab, &json!({}));
        lost.del(&a).success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn add_rolls_back_when_it_fails() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let bandwidth = bandwidth(lab, &limits());
        let veth = host_link(lab, &first.port_name());
        let mut host = lab.host().netlink();
        let fails = |code: u64, word: &str| {
            let before = lab.snapshot();
            bandwidth.call_after(&first).error(code).mentions(word);
            lab.assert_unchanged_since(&before);
        };
        let bucket = Qdisc::Tbf(Tbf::new(1_000_000, 100_000, 25));
        host.add_qdisc(veth.index, Handle::ROOT, Handle::new(1, 0), &bucket).unwrap();
        fails(11, "qdisc at root already");
        host.del_qdisc(veth.index, Handle::ROOT).unwrap();
        // This fails after the other limit and the ifb exist.
        host.add_qdisc(veth.index, Handle::INGRESS, Handle::new(0xffff, 0), &Qdisc::Ingress)
            .unwrap();
        fails(11, "qdisc at ingress already");
        host.del_qdisc(veth.index, Handle::INGRESS).unwrap();
        let a = bandwidth.after(&first);
        fails(11, "DEL");
        a.check().success();
        a.del().success();
        // Both names of the ifb are taken.
        let names = [ifb_name(&a), {
            host.add_link(&Ifb::new(ifb_name(&a))).unwrap();
            let other = bandwidth.after(&first);
            other.del().success();
            ifb_name(&other)
        }];
        assert_ne!(names[0], names[1]);
        host.add_link(&Ifb::new(&names[1])).unwrap();
        fails(11, "ifb");
    });
}

#[rstest]
#[case(json!({ "ingressRate": 8000 }), "ingressBurst")]
#[case(json!({ "egressBurst": 8000 }), "egressRate")]
#[case(json!({ "ingressRate": 8000, "ingressBurst": 34_359_738_360_u64 }), "4 GiB")]
#[case(json!({ "egressRate": 8000, "egressBurst": 8000, "shapedSubnets": ["x"] }), "\"x\"")]
#[case(
    json!({ "egressRate": 8000, "egressBurst": 8000, "shapedSubnets": ["::/0"], "unshapedSubnets": ["::/0"] }),
    "exclude"
)]
fn invalid_config_is_rejected(#[case] keys: Value, #[case] word: &str) {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let before = lab.snapshot();
        let bandwidth = bandwidth(lab, &keys);
        bandwidth.call_after(&first).error(7).mentions(word);
        bandwidth.status().error(7).mentions(word);
        bandwidth.del(&first).success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn the_previous_plugin_must_have_created_a_veth_pair() {
    rscni_test::run(|lab| {
        let bandwidth = bandwidth(lab, &limits());
        bandwidth.status().success();
        let first = bridged(lab, "a");
        bandwidth.add(&first).error(7).mentions("prevResult");
        bandwidth.check(&first).error(7).mentions("prevResult");
        let mut config = first.reply.follow(&bandwidth.config);
        // The result names another veth.
        config["prevResult"]["interfaces"][1]["name"] = "veth0".into();
        bandwidth.plugin.add(&first, "eth0", &config).error(7).mentions("veth");
        first.netlink().add_bridge(&Bridge::new("br7")).unwrap();
        bandwidth
            .plugin
            .add(&first, "br7", &first.reply.follow(&bandwidth.config))
            .error(7)
            .mentions("br7");
        lab.remove_namespace(&first);
        bandwidth.call_after(&first).error(8);
    });
}

/// A change of the host's end of the veth and of the ifb.
type Damage = fn(&mut Netlink, &Link, &Link);

fn empty_ingress(host: &mut Netlink, veth: &Link, _: &Link) {
    host.del_qdisc(veth.index, Handle::INGRESS).unwrap();
    host.add_qdisc(veth.index, Handle::INGRESS, Handle::new(0xffff, 0), &Qdisc::Ingress).unwrap();
}

fn replace(host: &mut Netlink, link: &Link, qdisc: &Qdisc) {
    host.del_qdisc(link.index, Handle::ROOT).unwrap();
    host.add_qdisc(link.index, Handle::ROOT, Handle::new(1, 0), qdisc).unwrap();
}

#[track_caller]
fn assert_all_noticed(keys: &Value, damages: &[(Damage, &str)]) {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let port = first.port_name();
        for (damage, word) in damages {
            let a = bandwidth(lab, &limits()).with(keys).after(&first);
            a.check().success();
            damage(
                &mut lab.host().netlink(),
                &host_link(lab, &port),
                &host_link(lab, &ifb_name(&a)),
            );
            a.check_misses(word);
            a.del().success();
        }
    });
}

#[test]
fn check_names_changes() {
    assert_all_noticed(
        &json!({}),
        &[
            (
                |host, veth, _| host.del_qdisc(veth.index, Handle::ROOT).unwrap(),
                "qdisc tbf with rate 8000000 bit/s",
            ),
            (
                |host, veth, _| replace(host, veth, &Qdisc::Tbf(Tbf::new(999_999, 100_000, 25))),
                "rate 7999992 bit/s",
            ),
            (
                |host, veth, _| replace(host, veth, &Qdisc::Tbf(Tbf::new(1_000_000, 90_000, 25))),
                "burst of 90000 us",
            ),
            (
                |host, veth, _| replace(host, veth, &Qdisc::Tbf(Tbf::new(1_000_000, 100_000, 30))),
                "limit 130000",
            ),
            (|host, veth, _| replace(host, veth, &Qdisc::Htb { default: 1 }), "qdisc tbf"),
            (
                |host, veth, _| host.del_qdisc(veth.index, Handle::new(1, 1)).unwrap(),
                "has no queue, ADD left a queue of 25000 bytes",
            ),
            (
                |host, _, ifb| {
                    host.del_qdisc(ifb.index, Handle::new(1, 1)).unwrap();
                    let queue = Qdisc::Bfifo { limit: 1_000_000 };
                    host.add_qdisc(ifb.index, Handle::new(1, 1), Handle::new(2, 0), &queue)
                        .unwrap();
                },
                "has a queue of 1000000 bytes, ADD left a queue of 12500 bytes",
            ),
            (|host, _, ifb| host.del_qdisc(ifb.index, Handle::ROOT).unwrap(), "missing on bwp"),
            (
                |host, _, ifb| replace(host, ifb, &Qdisc::Tbf(Tbf::new(1, 1, 1))),
                "ADD left qdisc tbf with rate 4000000",
            ),
            (
                |host, veth, _| host.del_qdisc(veth.index, Handle::INGRESS).unwrap(),
                "qdisc ingress is missing on veth",
            ),
            (
                |host, _, ifb| host.del_link(ifb.index).unwrap(),
                "the ifb bwp0b3cbcd23807 is missing",
            ),
            (
                |host, _, ifb| host.set_link(ifb.index, &up(false)).unwrap(),
                "the ifb bwp0b3cbcd23807 is down",
            ),
            (empty_ingress, "the filter that redirects from veth"),
            (|host, veth, _| host.set_link(veth.index, &up(false)).unwrap(), "is down"),
        ],
    );
}

/// Creates the classes and all filters except one again.
fn rebuild(host: &mut Netlink, link: &Link, classes: &[HtbClass]) {
    replace(host, link, &Qdisc::Htb { default: 48 });
    for class in classes {
        host.add_htb_class(link.index, class).unwrap();
    }
    if let [shaped, ..] = classes {
        let queue = Qdisc::Bfifo { limit: 73_728 };
        host.add_qdisc(link.index, shaped.handle, Handle::new(48, 0), &queue).unwrap();
    }
    host.add_filter(
        link.index,
        &U32::from_subnet("192.0.2.0/24".parse().unwrap(), Handle::new(1, 1)),
    )
    .unwrap();
}

#[test]
fn check_names_changes_of_subnets() {
    const SHAPED: Handle = Handle::new(1, 48);
    assert_all_noticed(
        &json!({ "unshapedSubnets": ["192.0.2.0/24", "2001:db8::/32"] }),
        &[
            (
                |host, veth, _| host.del_qdisc(veth.index, Handle::ROOT).unwrap(),
                "qdisc htb with default class 30",
            ),
            (|host, veth, _| replace(host, veth, &Qdisc::Htb { default: 1 }), "default class 1,"),
            (|host, veth, _| rebuild(host, veth, &[]), "class htb 1:30 is missing on veth"),
            (
                |host, veth, _| rebuild(host, veth, &[HtbClass::new(SHAPED, 5000, 5000)]),
                "has rate 40000 bit/s",
            ),
            (
                |host, veth, _| rebuild(host, veth, &[HtbClass::new(SHAPED, 1_000_000, 100_000)]),
                "class htb 1:1 is missing",
            ),
            (
                |host, veth, _| {
                    let unshaped = HtbClass::new(Handle::new(1, 1), 100_000_000_000, 0);
                    rebuild(host, veth, &[HtbClass::new(SHAPED, 1_000_000, 100_000), unshaped]);
                },
                "the filter for 2001:db8::/32 is missing on veth",
            ),
            (
                |host, veth, _| host.del_qdisc(veth.index, SHAPED).unwrap(),
                "the queue of class htb 1:30 is missing on veth",
            ),
            (|host, _, ifb| host.del_qdisc(ifb.index, Handle::ROOT).unwrap(), "missing on bwp"),
        ],
    );
}

#[test]
fn gc_removes_ifbs_of_stale_attachments() {
    rscni_test::run(|lab| {
        let network = bandwidth(lab, &limits());
        let [kept, gone] = ["a", "b"].map(|name| network.after(&bridged(lab, name)));
        let other = network.with(&json!({ "name": "net2" })).after(&bridged(lab, "c"));
        lab.remove_namespace(&gone);
        network.gc(&[&kept]).success();
        let exists = |a: &Attached| lab.host().netlink().find_link(&ifb_name(a)).unwrap().is_some();
        assert!(exists(&kept) && !exists(&gone) && exists(&other));
        kept.check().success();
        other.check().success();
        network.plugin.gc(&network.config).success();
        assert!(!exists(&kept) && exists(&other));
    });
}

#[test]
fn every_version_works() {
    rscni_test::run(|lab| {
        let versions = Versions::of(bandwidth(lab, &json!({})).plugin.program()).must_be_chained();
        versions.key("cni.dev/valid-attachments", json!([])).speak();
    });
}

#[test]
fn limits_are_set_in_every_version() {
    rscni_test::run(|lab| {
        for version in VERSIONS {
            let keys = json!({ "cniVersion": version });
            let first = Network::bridge(lab, &[V4, V6], &keys).attach(lab, version);
            let a = bandwidth(lab, &limits()).with(&keys).after(&first);
            let mut expected = first.reply.json().clone();
            if let Some(interfaces) = expected.get_mut("interfaces") {
                let ifb = host_link(lab, &ifb_name(&a));
                let mut shown = json!({ "name": ifb.name, "mac": ifb.mac.unwrap().to_string() });
                if version == "1.1.0" {
                    shown["mtu"] = 1500.into();
                }
                interfaces.as_array_mut().unwrap().push(shown);
            }
            assert_eq!(*a.reply.json(), expected, "{version}");
            let left = lab.snapshot().to_string();
            assert!(
                left.contains("qdisc tbf on bwp") && left.contains("qdisc tbf on veth"),
                "{left}"
            );
            if VERSIONS[4..].contains(&version) {
                a.check().success();
            }
            a.del().success();
            assert_gone(lab, &["bwp", "qdisc"]);
        }
    });
}

#[rstest]
fn either_plugin_undoes_changes_of_the_other(
    #[values(true, false)] is_ours_first: bool,
    #[values("with_result", "without_result", "without_netns", "netns_gone")] how: &str,
) {
    rscni_test::run(|lab| {
        support::install(lab);
        let before = support::snapshot(lab).ignoring("br0");
        let mut bridge = Network::bridge(lab, &[V4], &json!({ "cniVersion": "1.0.0" }));
        if !is_ours_first {
            // Its veth has a random name.
            bridge = bridge.with_go(lab);
        }
        let first = bridge.attach(lab, "a");
        let ours = bandwidth(lab, &limits()).with(&json!({ "cniVersion": "1.0.0" }));
        let theirs = ours.with_go(lab);
        let (adds, deletes) = if is_ours_first { (&ours, &theirs) } else { (&theirs, &ours) };
        let mut a = adds.after(&first);
        a.network = deletes.clone();
        a.check().success();
        if how == "without_netns" {
            let call = a.network.plugin.call("DEL").attachment(&a, "eth0").without("CNI_NETNS");
            call.config(&a.config()).run().success();
        } else {
            a.end(lab, how).success();
        }
        assert_gone(lab, &["bwp"]);
        // The Go plugin leaves these; they go with the veth.
        if !is_ours_first {
            assert_gone(lab, &["qdisc"]);
        }
        first.del().success();
        if how != "netns_gone" {
            lab.remove_namespace(&first);
        }
        lab.assert_unchanged_since(&before);
    });
}
