//! Calls through both servers.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rscni::CNIResult;
use rscni_test::run;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Daemon, Kind, call, code, details, request};

fn config(act: &str) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "type": "my", "act": act })
}

#[rstest]
fn the_plugin_gets_the_namespace_and_the_runtime_its_path(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    run(|lab| {
        let (daemon, a) = (Daemon::start(kind), lab.container("a"));
        let reply = daemon.shim().reply(&request("ADD", "a", Some(a.path()), &config("")));
        assert_eq!(reply.error, None);
        let result = CNIResult::from_json(&reply.stdout).unwrap();
        let path = a.path().to_str();
        assert_eq!(result.interfaces[0].sandbox.as_deref(), path, "the path of the runtime");
        assert_eq!(reply.stderr, "log of ADD a\n");
        let inside = daemon.actor.last().netns.unwrap();
        assert!(inside.starts_with("/proc"), "{}", inside.display());

        // A chained plugin sees the same path in the result of the previous plugin.
        let mut chained = config("");
        chained["prevResult"] = serde_json::from_slice(&reply.stdout).unwrap();
        let reply = daemon.shim().reply(&request("ADD", "a", Some(a.path()), &chained));
        let args = daemon.actor.last();
        let previous = args.config.unwrap().prev_result.unwrap();
        assert_eq!(previous.interfaces[0].sandbox.as_deref(), args.netns.unwrap().to_str());
        assert_eq!(CNIResult::from_json(&reply.stdout).unwrap(), result);
    });
}

#[rstest]
fn the_namespace_is_open_during_the_call_only(#[values(Kind::Blocking, Kind::Async)] kind: Kind) {
    run(|lab| {
        let (daemon, a) = (Daemon::start(kind), lab.container("a"));
        let add = request("ADD", "a", Some(a.path()), &config("wait"));
        std::thread::scope(|scope| {
            let shim = daemon.shim();
            let thread = scope.spawn(move || shim.reply(&add));
            daemon.actor.wait_for("ADD a begins");
            let inside = daemon.actor.last().netns.unwrap();
            let inode = |path: &Path| fs::metadata(path).unwrap().ino();
            assert_eq!(inode(&inside), inode(a.path()));
            daemon.actor.open("a");
            assert_eq!(thread.join().unwrap().error, None);
        });
        // Many calls, so that a descriptor per call would be noticed.
        let count = || fs::read_dir("/proc/self/fd").unwrap().count();
        let fail = request("ADD", "a", Some(a.path()), &config("fail"));
        let before = count();
        for _ in 0..50 {
            daemon.shim().reply(&fail);
        }
        rscni_test::eventually("descriptors to be closed", || {
            (count() <= before + 5).then_some(())
        });
    });
}

#[rstest]
fn errors_have_the_code_of_the_plugin_and_the_path_of_the_runtime(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    run(|lab| {
        let (daemon, a) = (Daemon::start(kind), lab.container("a"));
        let reply = daemon.shim().reply(&request("ADD", "a", Some(a.path()), &config("fail")));
        assert_eq!(code(&reply), 123);
        assert_eq!(details(&reply), format!("cannot use Some({:?})", a.path()));
        assert_eq!(reply.stderr, "log of ADD a\n");
        let reply = daemon.shim().reply(&request("CHECK", "a", Some(a.path()), &config("panic")));
        assert_eq!(code(&reply), 999);
        assert_eq!(details(&reply), "the plugin panicked: as configured");
        // The daemon goes on.
        assert_eq!(daemon.shim().reply(&call("STATUS", "", "")).error, None);
    });
}

#[rstest]
fn a_file_that_is_not_a_namespace_is_code_8_and_no_obstacle_to_del(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    let daemon = Daemon::start(kind);
    // A file that a namespace was bound to, and the namespace of another kind.
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path(), "/proc/self/ns/mnt".as_ref(), "/nowhere/netns".as_ref()] {
        let ask = |command| daemon.shim().reply(&request(command, "a", Some(path), &config("")));
        for command in ["ADD", "CHECK"] {
            let reply = ask(command);
            assert_eq!(code(&reply), 8);
            assert!(details(&reply).contains(path.to_str().unwrap()), "{}", details(&reply));
        }
        assert_eq!(ask("DEL").error, None);
        assert_eq!(daemon.actor.last().netns, None);
    }
    assert!(!daemon.actor.events().iter().any(|event| event.starts_with("ADD")));
}

#[rstest]
fn a_large_call_and_a_large_answer_arrive_complete(
    #[values(Kind::Blocking, Kind::Async)] kind: Kind,
) {
    let daemon = Daemon::start(kind);
    let mut config = config("flood");
    config["filler"] = "y".repeat(3 << 20).into();
    let reply = daemon.shim().reply(&request("DEL", "a", None, &config));
    assert_eq!(reply.error, None);
    assert_eq!(reply.stderr.len(), "log of DEL a\n".len() + (3 << 20));
    assert_eq!(daemon.actor.last().stdin, config.to_string().into_bytes());
}
