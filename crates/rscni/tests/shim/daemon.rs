//! The order of calls, hostile clients, and the end of a daemon.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use rscni::{Reply, Request};
use rscni_test::{eventually, run};
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Daemon, Kind, call, code, details, request};

/// Makes a call on a thread.
fn ask(daemon: &Daemon, request: Request) -> thread::JoinHandle<Reply> {
    let shim = daemon.shim();
    thread::spawn(move || shim.reply(&request))
}

fn position(daemon: &Daemon, event: &str) -> usize {
    let events = daemon.actor.events();
    events.iter().position(|e| e == event).unwrap_or_else(|| panic!("no {event} in {events:?}"))
}

/// Waits until the daemon has `count` connections.
fn connections(daemon: &Daemon, count: usize) {
    let path = daemon.socket.to_str().unwrap();
    eventually("connections", || {
        let table = std::fs::read_to_string("/proc/net/unix").unwrap();
        // The listener has the path too.
        (table.lines().filter(|line| line.ends_with(path)).count() == count + 1).then_some(())
    });
}

#[rstest]
fn calls_of_one_attachment_are_serialized_and_others_are_not(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    let daemon = Daemon::start(kind);
    let first = ask(&daemon, call("DEL", "a", "wait"));
    daemon.actor.wait_for("DEL a begins");
    let second = ask(&daemon, call("DEL", "a", "fail"));
    connections(&daemon, 2);
    // Another container is served meanwhile.
    assert_eq!(daemon.shim().reply(&call("DEL", "b", "")).error, None);
    daemon.actor.open("a");
    assert_eq!(first.join().unwrap().error, None);
    assert_eq!(code(&second.join().unwrap()), 123);
    let begins: Vec<_> =
        daemon.actor.events().into_iter().filter(|e| e.starts_with("DEL a")).collect();
    assert_eq!(begins, ["DEL a begins", "DEL a ends", "DEL a begins", "DEL a ends"]);
}

#[rstest]
fn gc_waits_for_the_calls_of_its_network_and_later_ones_wait_for_it(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    let daemon = Daemon::start(kind);
    let first = ask(&daemon, call("DEL", "a", "wait"));
    daemon.actor.wait_for("DEL a begins");
    let gc = ask(&daemon, call("GC", "", ""));
    connections(&daemon, 2);
    // STATUS is never blocked.
    assert_eq!(daemon.shim().reply(&call("STATUS", "", "")).error, None);
    assert!(!daemon.actor.events().contains(&"GC  begins".to_owned()));
    daemon.actor.open("a");
    assert_eq!(first.join().unwrap().error, None);
    assert_eq!(gc.join().unwrap().error, None);
    assert!(position(&daemon, "DEL a ends") < position(&daemon, "GC  begins"));
}

#[rstest]
fn a_call_whose_shim_is_gone_is_not_begun(#[values(Kind::Blocking, Kind::Async)] kind: Kind) {
    let daemon = Daemon::start(kind);
    let first = ask(&daemon, call("DEL", "a", "wait"));
    daemon.actor.wait_for("DEL a begins");
    // Its runtime has given up when its turn comes.
    let impatient = daemon.shim().timeout(Duration::from_millis(50));
    assert_eq!(code(&impatient.reply(&call("DEL", "a", "impatient"))), 11);
    daemon.actor.open("a");
    assert_eq!(first.join().unwrap().error, None);
    assert_eq!(daemon.shim().reply(&call("DEL", "a", "")).error, None);
    let begun = daemon.actor.events().iter().filter(|e| *e == "DEL a begins").count();
    assert_eq!(begun, 2);
}

/// Sends a message and reads the answer.
fn raw(daemon: &Daemon, message: &[u8]) -> Value {
    let mut connection = UnixStream::connect(&daemon.socket).unwrap();
    // The daemon may refuse the message before it is complete.
    let _ = connection.write_all(message);
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    serde_json::from_slice(&answer[4..]).unwrap()
}

fn message(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

#[rstest]
fn hostile_clients_are_refused_and_block_no_other_call(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    let daemon = Daemon::start(kind);
    let silent: Vec<_> = (0..50).map(|_| UnixStream::connect(&daemon.socket).unwrap()).collect();
    for mut connection in &silent[..25] {
        connection.write_all(&[0, 0, 0, 9, b'{']).unwrap();
    }
    assert_eq!(daemon.shim().reply(&call("DEL", "a", "")).error, None);

    let answer = raw(&daemon, &message("garbage"));
    assert_eq!(answer["refusal"]["code"], 6);
    let answer = raw(&daemon, &[0xff; 100]);
    assert_eq!(answer["refusal"]["code"], 7);
    assert_eq!(
        answer["refusal"]["details"],
        "a message of 4294967295 bytes exceeds the limit of 8388608"
    );
    drop(silent);
    assert_eq!(daemon.shim().reply(&call("DEL", "a", "")).error, None);
}

#[rstest]
fn a_request_over_the_limit_is_an_error_of_the_configuration(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    let daemon = Daemon::start(kind);
    let reply = daemon.shim().reply(&call("DEL", "a", &"x".repeat(9 << 20)));
    assert_eq!(code(&reply), 7);
    assert!(details(&reply).ends_with("exceeds the limit of 8388608"), "{}", details(&reply));
}

#[rstest]
fn a_newer_version_is_refused_and_the_runtime_retries(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    let daemon = Daemon::start(kind);
    // The fields of a newer version may have other types.
    for text in [r#"{ "version": 2 }"#, r#"{ "version": 2, "vars": [], "stdin": {} }"#] {
        let answer = raw(&daemon, &message(text));
        assert_eq!((&answer["version"], &answer["refusal"]["code"]), (&1.into(), &11.into()));
        assert_eq!(
            answer["refusal"]["details"],
            "the shim uses version 2 of the wire format, the daemon 1; update the daemon"
        );
    }
}

#[rstest]
fn unknown_fields_of_an_older_or_newer_shim_are_ignored(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    let daemon = Daemon::start(kind);
    let text = r#"{ "version": 1, "added": { "later": [1] }, "stdin":
        "{\"cniVersion\":\"1.1.0\",\"name\":\"net\",\"type\":\"my\"}",
        "vars": { "CNI_COMMAND": "STATUS" } }"#;
    let answer = raw(&daemon, &message(text));
    assert_eq!(answer["exitCode"], 0, "{answer}");
    assert_eq!(answer["stderr"], "log of STATUS \n");
}

#[rstest]
fn a_daemon_that_stops_finishes_its_calls(#[values(Kind::Blocking, Kind::Async)] kind: Kind) {
    let mut daemon = Daemon::start(kind);
    let running = ask(&daemon, call("DEL", "a", "wait"));
    daemon.actor.wait_for("DEL a begins");
    daemon.stop();
    // New calls are refused.
    eventually("the listener to close", || {
        let reply = daemon.shim().reply(&call("STATUS", "", ""));
        reply.error.filter(|error| error.code() == 50)
    });
    assert!(!daemon.has_ended());
    daemon.actor.open("a");
    assert_eq!(running.join().unwrap().error, None);
    eventually("the daemon to end", || daemon.has_ended().then_some(()));
}

#[test]
fn calls_in_sequence_share_few_threads() {
    let daemon = Daemon::start(Kind::Blocking);
    let threads: BTreeSet<_> = (0..50)
        .map(|_| {
            assert_eq!(daemon.shim().reply(&call("DEL", "a", "")).error, None);
            format!("{:?}", daemon.actor.thread().0)
        })
        .collect();
    // A thread may still end its call when the next connection arrives.
    assert!(threads.len() <= 16, "{threads:?}");
}

#[test]
fn a_thread_that_a_call_moved_to_another_namespace_serves_no_other_call() {
    run(|lab| {
        let (daemon, a) = (Daemon::start(Kind::Blocking), lab.container("a"));
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let config =
            |act: &str| json!({ "cniVersion": "1.1.0", "name": "net", "type": "my", "act": act });
        for _ in 0..40 {
            let add = request("ADD", "a", Some(a.path()), &config("enter"));
            assert_eq!(daemon.shim().reply(&add).error, None);
            assert_eq!(daemon.actor.thread().1, own);
        }
    });
}
