//! The shim without a daemon, and with one that does not answer.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread,
    time::Duration,
};

use rscni::{
    PluginInfo, Request, SpecVersion,
    shim::{Shim, listen},
};
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Actor, call, code, details};

const NOWHERE: &str = "/nowhere/my.sock";

#[test]
fn version_and_about_are_answered_without_the_daemon() {
    let info = PluginInfo::since(SpecVersion::V1_0_0);
    let shim = Shim::new(NOWHERE).about("my network").versions(info);
    let about = shim.reply(&Request::default());
    assert_eq!(about.stderr, "my network\nCNI protocol versions supported: 1.0.0, 1.1.0\n");
    let version = shim.reply(&call("VERSION", "a", ""));
    let json: Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(json["supportedVersions"], json!(["1.0.0", "1.1.0"]));
}

#[test]
fn an_invalid_call_is_rejected_without_the_daemon() {
    let shim = Shim::new(NOWHERE);
    assert_eq!(code(&shim.reply(&call("ADD", "a", ""))), 4, "without a namespace");
    assert_eq!(code(&shim.reply(&call("DEL", "a/b", ""))), 4);
    let mut invalid = call("DEL", "a", "");
    invalid.stdin = b"{".to_vec();
    assert_eq!(code(&shim.reply(&invalid)), 6);
}

/// A socket that does not exist, one whose daemon was killed, and a file.
#[rstest]
fn an_unreachable_daemon_is_code_11_or_50(#[values("none", "stale", "file")] state: &str) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("my.sock");
    match state {
        "stale" => drop(listen(&socket).unwrap()),
        "file" => std::fs::write(&socket, "").unwrap(),
        _ => {}
    }
    let shim = Shim::new(&socket);
    for (command, expected) in [("ADD", 11), ("CHECK", 11), ("DEL", 11), ("GC", 11), ("STATUS", 50)]
    {
        let mut request = call(command, "a", "");
        request.vars.insert("CNI_NETNS".into(), "/proc/1/nowhere".into());
        let reply = shim.reply(&request);
        assert_eq!(code(&reply), expected, "{request:?}");
        let start = format!("daemon at {}: cannot connect: ", socket.display());
        assert!(details(&reply).starts_with(&start), "{}", details(&reply));
    }
}

#[test]
fn the_fallback_does_the_work_if_the_daemon_is_unreachable() {
    let actor = Actor::default();
    let shim = Shim::new(NOWHERE).fallback(actor.clone());
    assert_eq!(shim.reply(&call("DEL", "a", "")).error, None);
    assert_eq!(code(&shim.reply(&call("DEL", "a", "fail"))), 123);
    assert_eq!(actor.events().len(), 4);
}

/// Answers one connection with `answer`, after the request or part of it.
fn daemon_that(answer: Vec<u8>, socket: &Path) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        connection.read_exact(&mut [0; 100]).unwrap();
        connection.write_all(&answer).unwrap();
    })
}

/// A daemon that restarts before or while it answers.
#[rstest]
#[case(b"")]
#[case(b"\0\0")]
#[case(b"\0\0\0\x20{\"version\":1,")]
fn a_connection_that_ends_during_the_call_is_retried(#[case] part: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("my.sock");
    for (command, expected) in [("DEL", 11), ("STATUS", 50)] {
        let _ = std::fs::remove_file(&socket);
        let daemon = daemon_that(part.to_vec(), &socket);
        let actor = Actor::default();
        let reply = Shim::new(&socket).fallback(actor.clone()).reply(&call(command, "a", ""));
        assert_eq!(code(&reply), expected);
        assert!(details(&reply).contains("ended during the call"), "{}", details(&reply));
        assert!(actor.events().is_empty(), "the daemon may have begun the call");
        daemon.join().unwrap();
    }
}

#[rstest]
#[case(b"\0\0\0\x02no", "invalid answer")]
#[case(b"\0\0\0\x02{}", "an answer without a version")]
#[case(b"\0\0\0\x1a{\"version\":1,\"exitCode\":1}", "a failure without an error reply")]
fn an_answer_of_another_program_is_code_6_or_50(#[case] answer: &[u8], #[case] text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("my.sock");
    for (command, expected) in [("DEL", 6), ("STATUS", 50)] {
        let _ = std::fs::remove_file(&socket);
        let daemon = daemon_that(answer.to_vec(), &socket);
        let reply = Shim::new(&socket).reply(&call(command, "a", ""));
        assert_eq!(code(&reply), expected);
        assert!(details(&reply).contains(text), "{}", details(&reply));
        daemon.join().unwrap();
    }
}

#[test]
fn a_daemon_that_accepts_and_hangs_is_timed_out() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("my.sock");
    // The kernel accepts the connections.
    let _listener = UnixListener::bind(&socket).unwrap();
    let shim = Shim::new(&socket).timeout(Duration::from_millis(50));
    for (command, expected) in [("DEL", 11), ("STATUS", 50)] {
        let reply = shim.reply(&call(command, "a", ""));
        assert_eq!(code(&reply), expected);
        assert!(details(&reply).ends_with("no answer after 50ms"), "{}", details(&reply));
    }
}

#[test]
fn a_daemon_whose_queue_is_full_is_timed_out() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("my.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let shim = Shim::new(&socket).timeout(Duration::from_millis(50));
    // The clients stay in the queue although they are gone.
    let mut replies = (0..5).map(|_| details(&shim.reply(&call("DEL", "a", ""))));
    assert!(replies.any(|text| text.contains("cannot connect: timed out")));
}
