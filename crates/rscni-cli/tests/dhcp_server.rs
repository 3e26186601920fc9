//! The dhcp plugin with servers that are slow, forgetful, gone, or hostile.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rscni_test::{Lab, eventually};
use rstest::rstest;
use serde_json::{Value, json};

use support::{
    Attached, Network,
    dhcp::{self, Running, SOCKET, address, kept},
    dhcp_server::{
        ACK, DISCOVER, GIVEN, Heard, NAK, OFFER, RELEASE, REQUEST, Server, options, proper,
    },
};

const HOUR: (u32, u32, u32) = (3600, 1800, 3150);

/// Sets up a LAN with such a server, and a daemon.
fn set_up(
    lab: &Lab,
    answers: impl Fn(&Heard) -> Vec<Vec<u8>> + Send + 'static,
) -> (Server, Running, Network) {
    dhcp::lan(lab);
    let server = Server::start(answers);
    (server, dhcp::daemon(lab, &["-timeout", "1s"]), dhcp::network(lab, &json!({})))
}

fn is_up(a: &Attached) -> bool {
    a.link().up
}

#[test]
fn a_lease_is_renewed_and_released_from_its_address() {
    rscni_test::run(|lab| {
        let (server, _daemon, network) = set_up(lab, |heard| proper(heard, (60, 2, 50)));
        let a = network.attach(lab, "a");
        assert_eq!(address(&a), "10.50.0.9");
        let renewal = server.hears("a renewal", Heard::asks_for_more_time);
        assert_eq!((renewal.from, renewal.ciaddr), (GIVEN.into(), GIVEN.into()));
        // Neither is repeated (RFC 2131, table 5).
        assert_eq!((renewal.options.get(&50), renewal.options.get(&54)), (None, None));
        a.check().success();
        a.del().success();
        let release = server.hears("the release", |heard| heard.kind == RELEASE);
        assert_eq!((release.from, release.ciaddr), (GIVEN.into(), GIVEN.into()));
        assert_eq!(release.options.get(&61), renewal.options.get(&61));
        assert_eq!(release.options.get(&54).map(Vec::as_slice), Some(&[10, 50, 0, 1][..]));
    });
}

#[test]
fn a_lease_rebinds_with_another_server_when_its_own_is_silent() {
    rscni_test::run(|lab| {
        // This server does not answer unicast requests. The other has the same address and another
        // identifier.
        let asked = AtomicUsize::new(0);
        let (server, daemon, network) = set_up(lab, move |heard| {
            if !heard.asks_for_more_time() {
                return proper(heard, (30, 2, 4));
            }
            // Renewing, and before T2.
            if asked.fetch_add(1, Ordering::SeqCst) < 2 {
                return Vec::new();
            }
            let mut answers = proper(heard, HOUR);
            for answer in &mut answers {
                let at = answer.windows(4).rposition(|four| four == [54, 4, 10, 50]).unwrap();
                answer[at + 5] = 2;
            }
            answers
        });
        let a = network.attach(lab, "a");
        daemon.says("10.50.0.9/24 of 10.50.0.2 for 3600 s");
        assert!(server.heard().iter().filter(|heard| heard.asks_for_more_time()).count() >= 2);
        a.check().success();
        a.ping(dhcp::SERVER);
        a.del().success();
    });
}

#[test]
fn a_server_that_forgot_the_lease_grants_it_again() {
    rscni_test::run(|lab| {
        let refused = AtomicUsize::new(0);
        let (server, daemon, network) = set_up(lab, move |heard| {
            if heard.asks_for_more_time() && refused.fetch_add(1, Ordering::SeqCst) == 0 {
                return vec![heard.answer(NAK, [0; 4], &[])];
            }
            proper(heard, if heard.asks_for_more_time() { HOUR } else { (60, 2, 50) })
        });
        let a = network.attach(lab, "a");
        let again = server.hears("another search", |heard| {
            heard.kind == DISCOVER && heard.options.contains_key(&50)
        });
        assert_eq!(again.options[&50], GIVEN);
        daemon.says_times("10.50.0.9/24 of 10.50.0.1", 2);
        assert!(is_up(&a));
        a.check().success();
        a.ping(dhcp::SERVER);
        a.del().success();
    });
}

#[rstest]
#[case::silence(0)]
#[case::a_refusal(NAK)]
#[case::another_address(ACK)]
fn an_expired_lease_removes_the_address(#[case] answer: u8) {
    rscni_test::run(|lab| {
        // Until then the lease lasts, however long that takes.
        let is_attached = Arc::new(AtomicBool::new(false));
        let is_proper = Arc::clone(&is_attached);
        let (_server, daemon, network) =
            set_up(lab, move |heard| match (is_proper.load(Ordering::SeqCst), answer) {
                (false, _) => proper(heard, (10, 2, 4)),
                (true, 0) => Vec::new(),
                (true, NAK) if heard.asks_for_more_time() => vec![heard.answer(NAK, [0; 4], &[])],
                // The container has 10.50.0.9 and would not learn of another address.
                _ => {
                    let kind = if heard.kind == DISCOVER { OFFER } else { ACK };
                    vec![heard.answer(kind, [10, 50, 0, 77], &options(&[[0, 0, 14, 16]; 3]))]
                }
            });
        let a = network.attach(lab, "a");
        is_attached.store(true, Ordering::SeqCst);
        daemon.says("the interface was set down");
        assert!(!is_up(&a));
        assert_eq!(kept(SOCKET).len(), 0);
        a.check_misses("there is no DHCP lease");
        a.del().success();
    });
}

/// Changes the start of every lease on disk so that it has expired.
fn age_leases() {
    for file in kept(SOCKET) {
        let mut lease: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        // Times count from boot, so a lease from before it has expired.
        lease["held"]["since"] = json!({ "secs": 0, "nanos": 0 });
        lease["held"]["terms"] = json!({
            "renew": { "secs": 0, "nanos": 1 }, "rebind": { "secs": 0, "nanos": 2 }, "expire": { "secs": 0, "nanos": 3 },
        });
        std::fs::write(&file, lease.to_string()).unwrap();
    }
}

#[test]
fn a_lease_that_expired_without_a_daemon_is_requested_again() {
    rscni_test::run(|lab| {
        let (server, mut daemon, network) = set_up(lab, |heard| proper(heard, HOUR));
        let a = network.attach(lab, "a");
        daemon.kill();
        age_leases();
        let daemon = dhcp::daemon(lab, &[]);
        daemon.says("10.50.0.9/24 of 10.50.0.1 for 3600 s");
        let again = server.hears("another search", |heard| {
            heard.kind == DISCOVER && heard.options.contains_key(&50)
        });
        assert_eq!(again.options[&50], GIVEN);
        a.check().success();
        a.ping(dhcp::SERVER);
        a.del().success();
    });
}

#[test]
fn an_expired_lease_is_lost_without_a_new_offer() {
    rscni_test::run(|lab| {
        let (mut server, mut daemon, network) = set_up(lab, |heard| proper(heard, HOUR));
        let a = network.attach(lab, "a");
        daemon.kill();
        server.stop();
        age_leases();
        let daemon = dhcp::daemon(lab, &["-resendtimeout", "2s"]);
        a.check_misses("there is no DHCP lease");
        daemon.says("the interface was set down");
        assert!(!is_up(&a));
        a.del().success();
    });
}

#[test]
fn a_silent_server_does_not_delay_other_containers() {
    rscni_test::run(|lab| {
        dhcp::lan(lab);
        // The first container that asks gets no answer.
        let silenced = std::sync::OnceLock::new();
        let server = Server::start(move |heard| {
            let id = &heard.options[&61];
            if silenced.get_or_init(|| id.clone()) == id { Vec::new() } else { proper(heard, HOUR) }
        });
        let _daemon = dhcp::daemon(lab, &[]);
        let network = dhcp::network(lab, &json!({}));
        let slow = lab.container("slow");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| network.add(&slow));
            server.hears("the slow one", |heard| heard.kind == DISCOVER);
            let quick = network.attach(lab, "quick");
            quick.check().success();
            quick.del().success();
            assert!(!waiting.is_finished());
            network.del(&slow).success();
            waiting.join().unwrap().error(11).mentions("DEL");
        });
    });
}

#[rstest]
#[case::no_mask("no subnet mask")]
#[case::no_host("which is not a host address")]
#[case::no_answer_to_the_request("did not answer the request")]
#[case::a_refusal("refused the address that it had offered")]
fn a_failed_add_reports_why_each_server_was_unusable(#[case] why: &'static str) {
    rscni_test::run(|lab| {
        dhcp::lan(lab);
        let _server = Server::start(move |heard| {
            let offer = &options(&[[0, 0, 14, 16]; 3]);
            let (address, options) = match why {
                "no subnet mask" => (GIVEN, &offer[1..]),
                "which is not a host address" => ([224, 0, 0, 9], &offer[..]),
                _ => (GIVEN, &offer[..]),
            };
            match heard.kind {
                DISCOVER => vec![heard.answer(OFFER, address, options)],
                REQUEST if why.starts_with("refused") => vec![heard.answer(NAK, [0; 4], &[])],
                _ => Vec::new(),
            }
        });
        // The daemon times out after the server was heard.
        let _daemon = dhcp::daemon(lab, &["-timeout", "1s", "-resendtimeout", "8s"]);
        let network = dhcp::network(lab, &json!({}));
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.add(&a).error(11).mentions(why);
        lab.assert_unchanged_since(&before);
    });
}

/// Invalid answers, followed by a valid one.
fn hostile(heard: &Heard) -> Vec<Vec<u8>> {
    let proper = proper(heard, HOUR);
    let Some(good) = proper.first() else { return proper };
    let spoiled = |at: usize, byte: u8| {
        let mut answer = good.clone();
        answer[at] = byte;
        answer
    };
    let mut all = vec![
        Vec::new(),
        vec![0xff; 1400],
        good[..200].to_vec(),
        good[..good.len() - 3].to_vec(),
        // A request, another link, transaction or client, no cookie, and a truncated option.
        spoiled(0, 1),
        spoiled(1, 6),
        spoiled(4, !good[4]),
        spoiled(28, !good[28]),
        spoiled(236, 0),
        spoiled(241, 255),
        // Another address from another server.
        heard.answer(if heard.kind == DISCOVER { ACK } else { OFFER }, [10, 50, 0, 66], &[]),
        heard.answer(NAK, [0; 4], &[(54, &[10, 50, 0, 66])]),
    ];
    all.extend(proper);
    all
}

#[test]
fn hostile_answers_change_nothing() {
    rscni_test::run(|lab| {
        let (server, daemon, network) = set_up(lab, hostile);
        let a = network.attach(lab, "a");
        assert_eq!(address(&a), "10.50.0.9");
        a.ping(dhcp::SERVER);
        a.del().success();
        server.hears("the release", |heard| heard.kind == RELEASE);
        assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
        eventually("the end of the lease", || kept(SOCKET).is_empty().then_some(()));
    });
}

#[test]
fn the_broadcast_flag_is_set_when_configured() {
    rscni_test::run(|lab| {
        dhcp::lan(lab);
        let server = dhcp::dnsmasq(lab, &[]);
        let _daemon = dhcp::daemon(lab, &["-broadcast"]);
        let a = dhcp::network(lab, &json!({})).attach(lab, "a");
        server.says("broadcast response");
        a.del().success();
    });
}
