//! Networks with shell scripts as plugins, which hang, print too much, or detect concurrent calls.

#[cfg(feature = "async")]
mod asynchronous;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rscni::{
    Attachment, Error,
    invoke::{Exec, Process},
    runtime::{AttachmentParams, Cache, NetConfList, Runtime, TraceContext},
};
use tempfile::TempDir;

/// A timeout that no test reaches.
const LONG: Duration = Duration::from_secs(120);

/// Installs the plugin `script`; `$DIR` is its directory.
fn install(dir: &Path, script: &str) {
    let file = dir.join("script");
    fs::write(&file, format!("#!/bin/sh\nDIR={}\n{script}\n", dir.display())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

fn installed(script: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), script);
    dir
}

fn network() -> NetConfList {
    NetConfList::from_json(
        br#"{ "cniVersion": "1.1.0", "name": "net", "plugins": [{ "type": "script" }] }"#,
    )
    .unwrap()
}

fn runtime(dir: &Path) -> Runtime<Process> {
    Runtime::new(Process, [dir]).with_cache(Cache::new(dir.join("cache")))
}

fn params(container_id: &str) -> AttachmentParams {
    AttachmentParams::new(container_id, "/run/netns/none", "eth0")
}

/// Whether a process exists and is not a zombie.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until the process whose PID is in `file` has exited.
fn wait_for_exit(file: &Path) {
    let pid = fs::read_to_string(file).unwrap();
    let begin = Instant::now();
    while is_alive(pid.trim()) {
        assert!(begin.elapsed() < LONG, "process {pid} of the plugin has not exited");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A plugin that hangs with a child in all commands but DEL; both ignore SIGTERM.
fn hanging() -> TempDir {
    installed(
        "trap '' TERM\n\
         [ $CNI_COMMAND = DEL ] && exit 0\n\
         echo 'waiting for a server' >&2\n\
         sh -c 'echo $$ >$0/child; while :; do sleep 1; done' $DIR &\n\
         echo $$ >$DIR/own; while :; do sleep 1; done",
    )
}

/// Checks the error of the plugin [`hanging`] and that its processes are killed.
fn check_timeout(error: &Error, call: &str, dir: &TempDir) {
    for part in [call, "took longer than 5s", "waiting for a server"] {
        assert!(error.details().contains(part), "{error}");
    }
    for file in ["child", "own"] {
        wait_for_exit(&dir.path().join(file));
    }
}

#[test]
fn a_hanging_plugin_is_killed_with_its_children() {
    let dir = hanging();
    let limited = runtime(dir.path()).with_time_limit(Duration::from_secs(5));
    let error = limited.add(&network(), &params("box")).unwrap_err();
    check_timeout(&error, "ADD of script (plugin 1 of 1)", &dir);
}

#[test]
fn a_plugin_can_clean_up_on_sigterm() {
    let dir = installed("trap 'echo cleaned >$DIR/cleaned; exit 0' TERM; sleep 1000 & wait");
    let limited = Process.with_time_limit(Duration::from_secs(3));
    let limited =
        Runtime::new(limited, [dir.path()]).with_cache(Cache::new(dir.path().join("cache")));
    assert!(limited.status(&network()).unwrap_err().details().contains("took longer than 3s"));
    assert_eq!(fs::read_to_string(dir.path().join("cleaned")).unwrap(), "cleaned\n");
}

#[test]
fn a_child_that_keeps_stdout_open_does_not_outlast_the_timeout() {
    // The child is in its own session and not killed; the plugin itself has exited.
    let dir = installed("setsid sleep 1000 & echo $! >$DIR/pid; exit 0");
    let limited = runtime(dir.path()).with_time_limit(Duration::from_secs(5));
    assert!(limited.status(&network()).unwrap_err().details().contains("took longer"));
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    Command::new("kill").arg(pid.trim()).status().unwrap();
}

#[test]
fn a_plugin_that_never_stops_printing_is_killed() {
    for stream in ["", ">&2"] {
        let dir = installed(&format!("[ $CNI_COMMAND = DEL ] || exec yes {stream}"));
        let error = runtime(dir.path()).add(&network(), &params("box")).unwrap_err();
        assert!(error.details().contains("printed more than 16 MiB"), "{error}");
        assert!(error.details().len() < 4096);
    }
}

#[test]
fn a_timeout_does_not_change_the_error_of_a_plugin() {
    let dir = installed(
        "cat >/dev/null; echo words >&2\n\
         echo '{ \"code\": 7, \"msg\": \"no\", \"details\": \"why\" }'; exit 1",
    );
    for runtime in [runtime(dir.path()), runtime(dir.path()).with_time_limit(LONG)] {
        let error = runtime.status(&network()).unwrap_err();
        assert_eq!((error.code(), error.msg()), (7, "no"));
    }
    install(dir.path(), "kill -9 $$");
    let error = runtime(dir.path()).with_time_limit(LONG).status(&network()).unwrap_err();
    assert!(error.details().contains("was killed by signal 9"), "{error}");
}

/// Runs `f` while the plugin is open for writing, as during its installation; then closes it.
fn while_being_installed<T>(dir: &Path, f: impl FnOnce() -> T) -> T {
    let file = fs::File::options().append(true).open(dir.join("script")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            drop(file);
        });
        f()
    })
}

#[test]
fn the_call_of_a_plugin_that_is_being_installed_is_retried() {
    let dir = installed("exit 0");
    for runtime in [runtime(dir.path()), runtime(dir.path()).with_time_limit(LONG)] {
        while_being_installed(dir.path(), || runtime.status(&network())).unwrap();
    }
    let _file = fs::File::options().append(true).open(dir.path().join("script")).unwrap();
    let error = runtime(dir.path())
        .with_time_limit(Duration::from_millis(1))
        .status(&network())
        .unwrap_err();
    assert!(error.code() == 5 && error.details().contains("busy"), "{error}");
}

#[test]
fn a_plugin_gets_the_trace_of_the_caller() {
    let dir = installed("env | grep -E '^(TRACE|BAGGAGE)' | sort >$DIR/env; exit 0");
    let mut trace = TraceContext::new("00-a-b-01");
    trace.state = Some("vendor=1".into());
    runtime(dir.path()).with_trace(trace).status(&network()).unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("env")).unwrap(),
        "TRACEPARENT=00-a-b-01\nTRACESTATE=vendor=1\n"
    );
}

/// The variable with the directory of a test that runs itself as a child process.
const CHILD_DIR: &str = "RSCNI_TEST_CHILD_DIR";

/// Adds the arguments with which this program runs only the test `name`, as a child process.
fn child_args(command: &mut Command, name: &str, dir: &Path) {
    command.args(["--exact", name, "--nocapture"]).env(CHILD_DIR, dir);
}

#[test]
fn operations_on_an_attachment_in_several_processes_are_serialized() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let runtime = runtime(dir.as_ref());
        for _ in 0..10 {
            // ADD fails if the other process has attached it. The plugin detects concurrent calls.
            let _ = runtime.add(&network(), &params("box"));
            runtime.del(&network(), &params("box")).unwrap();
        }
        return;
    }
    let dir = installed(
        "mkdir $DIR/busy || echo $CNI_COMMAND >>$DIR/overlap\n\
         sleep 0.01\n\
         echo $CNI_COMMAND >>$DIR/calls\n\
         rmdir $DIR/busy\n\
         [ $CNI_COMMAND = ADD ] && echo '{ \"cniVersion\": \"1.1.0\" }'; exit 0",
    );
    let children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            let name = "operations_on_an_attachment_in_several_processes_are_serialized";
            child_args(&mut command, name, dir.path());
            command.spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(fs::read_to_string(dir.path().join("calls")).unwrap().lines().count(), 40);
    assert!(!dir.path().join("overlap").exists());
    assert_eq!(fs::read_dir(dir.path().join("cache/locks/attachments")).unwrap().count(), 0);
}

#[test]
fn gc_and_concurrent_adds_are_serialized() {
    let dir = installed(
        "if [ $CNI_COMMAND = GC ]; then\n\
           mkdir $DIR/gc; ls $DIR | grep attaching && echo gc >>$DIR/overlap\n\
           sleep 0.01; rmdir $DIR/gc; exit 0\n\
         fi\n\
         touch $DIR/attaching.$$; [ -e $DIR/gc ] && echo $CNI_COMMAND >>$DIR/overlap\n\
         sleep 0.01; rm $DIR/attaching.$$\n\
         [ $CNI_COMMAND = ADD ] && echo '{ \"cniVersion\": \"1.1.0\" }'; exit 0",
    );
    let ids = ["a", "b", "c"];
    std::thread::scope(|scope| {
        for id in ids {
            let dir = dir.path();
            scope.spawn(move || {
                for _ in 0..5 {
                    runtime(dir).add(&network(), &params(id)).unwrap();
                    runtime(dir).check(&network(), &params(id)).unwrap();
                    runtime(dir).del(&network(), &params(id)).unwrap();
                }
                runtime(dir).add(&network(), &params(id)).unwrap();
            });
        }
        scope.spawn(|| {
            let valid = ids.map(|id| Attachment { container_id: id.into(), ifname: "eth0".into() });
            for _ in 0..5 {
                runtime(dir.path()).gc(&network(), &valid).unwrap();
            }
        });
    });
    assert!(!dir.path().join("overlap").exists());
    let runtime = runtime(dir.path());
    let entries = || runtime.cache().list().unwrap().entries.len();
    assert_eq!(entries(), ids.len(), "valid attachments are kept");
    runtime.gc(&network(), &[]).unwrap();
    assert_eq!(entries(), 0);
}

#[test]
fn on_a_full_disk_add_is_rolled_back_and_del_succeeds() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let dir = Path::new(&dir);
        let error = runtime(dir).add(&network(), &params("new")).unwrap_err();
        assert!(matches!(error.kind(), Error::Cache(_)), "{error}");
        let details = error.details();
        assert!(details.contains("net-new-eth0") && details.contains("space"), "{error}");
        assert_eq!(fs::read_to_string(dir.join("calls")).unwrap(), "ADD new\nDEL new\n");
        runtime(dir).del(&network(), &params("old")).unwrap();
        assert_eq!(fs::read_dir(dir.join("cache/results")).unwrap().count(), 0, "no draft is left");
        return;
    }
    let dir = installed(
        "echo $CNI_COMMAND $CNI_CONTAINERID >>$DIR/calls\n\
         [ $CNI_COMMAND = ADD ] && echo '{ \"cniVersion\": \"1.1.0\" }'; exit 0",
    );
    fs::create_dir(dir.path().join("cache")).unwrap();
    let script = "mount -t tmpfs -o size=16k none $0/cache && mkdir $0/cache/results && \
                  echo '{}' >$0/cache/results/net-old-eth0 && \
                  { cat /dev/zero >$0/cache/fill 2>/dev/null; true; } && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(dir.path());
    command.arg(std::env::current_exe().unwrap());
    child_args(&mut command, "on_a_full_disk_add_is_rolled_back_and_del_succeeds", dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn stderr_of_plugins_is_forwarded_unless_there_is_an_observer() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        runtime(dir.as_ref()).status(&network()).unwrap();
        runtime(dir.as_ref()).with_observer(|_| ()).status(&network()).unwrap();
        return;
    }
    let dir = installed("echo words of $CNI_COMMAND >&2");
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "stderr_of_plugins_is_forwarded_unless_there_is_an_observer";
    child_args(&mut command, name, dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "words of STATUS\n");
}

/// A plugin that stores its stdin in `<command>.<number>` and prints `result` for ADD.
fn recording(result: &str) -> TempDir {
    installed(&format!(
        "cat >$DIR/$CNI_COMMAND.$(ls $DIR | grep -c \"^$CNI_COMMAND\")\n\
         [ $CNI_COMMAND = ADD ] && cat <<'EOF'\n{result}\nEOF\nexit 0"
    ))
}

fn read_json(dir: &TempDir, file: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(dir.path().join(file)).unwrap()).unwrap()
}

#[test]
fn a_result_is_passed_on_and_cached_with_all_keys_in_all_versions() {
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let result = serde_json::json!({
            "cniVersion": version, "x-result": { "y": null },
            "interfaces":
                [{ "name": "eth0", "mtu": 1400, "socketPath": "/a", "pciID": "b", "x": 1 }],
            "routes": [{ "dst": "192.0.2.0/24", "mtu": 1300, "table": 7, "scope": 253, "x": 2 }],
            "dns": { "search": ["a"], "x": 3 },
        });
        let dir = recording(&result.to_string());
        let plugins =
            [serde_json::json!({ "type": "script" }), serde_json::json!({ "type": "script" })];
        let list = serde_json::json!({ "cniVersion": version, "name": "net", "plugins": plugins });
        let list = NetConfList::from_json(list.to_string().as_bytes()).unwrap();
        let runtime = runtime(dir.path());
        let added = runtime.add(&list, &params("box")).unwrap();
        assert_eq!(added.to_json(list.cni_version), result);
        assert_eq!(read_json(&dir, "ADD.1")["prevResult"], result, "{version}");
        let cached = read_json(&dir, "cache/results/net-box-eth0");
        assert_eq!(cached["result"], result, "{version}");
        if version != "0.3.1" {
            runtime.check(&list, &params("box")).unwrap();
            runtime.del(&list, &params("box")).unwrap();
            for call in ["CHECK.0", "CHECK.1", "DEL.0", "DEL.1"] {
                assert_eq!(read_json(&dir, call)["prevResult"], result, "{version} {call}");
            }
        }
    }
}

#[test]
fn malformed_capabilities_are_rejected_by_add_and_accepted_by_del_and_gc() {
    let dir = recording("{}");
    let runtime = runtime(dir.path());
    let text = br#"{ "cniVersion": "1.1.0", "name": "net", "plugins": [{ "type": "script" },
        { "type": "script", "capabilities": { "portMappings": "true" }, "ipam": [] }] }"#;
    let list = NetConfList::from_json(text).unwrap();
    let add = runtime.add(&list, &params("box"));
    for error in [add.unwrap_err(), runtime.status(&list).unwrap_err()] {
        assert_eq!(error.code(), 7);
        for part in [
            r#"plugins[1].capabilities.portMappings: "true" is not true or false"#,
            "plugins[1].ipam: [] is not an object",
        ] {
            assert!(error.details().contains(part), "{error}");
        }
    }
    assert!(!dir.path().join("ADD.0").exists());
    // An earlier release may have attached with it.
    runtime.del(&list, &params("box")).unwrap();
    runtime.gc(&list, &[]).unwrap();
    assert!(dir.path().join("DEL.1").exists() && dir.path().join("GC.1").exists());
}

#[test]
fn capabilities_in_another_case_are_passed_on() {
    let dir = recording("{}");
    let text = br#"{ "CniVersion": "1.0.0", "Name": "net", "Plugins": [
        { "Type": "script", "Capabilities": { "mac": true }, "RuntimeConfig": { "mac": "x" } }] }"#;
    let list = NetConfList::from_json(text).unwrap();
    let mut params = params("box");
    params.capability_args.insert("mac".into(), "02:00:00:00:00:01".into());
    runtime(dir.path()).add(&list, &params).unwrap();
    let config = read_json(&dir, "ADD.0");
    assert_eq!(config["runtimeConfig"]["mac"], "02:00:00:00:00:01");
    assert!(config.get("RuntimeConfig").is_none() && config.get("Capabilities").is_none());
}
