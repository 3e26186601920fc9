//! The async runtime with shell scripts as plugins.

use std::{fs, path::Path, time::Duration};

use rscni::{
    invoke::{AsyncExec, AsyncProcess, OnThread, Process},
    runtime::{AsyncRuntime, Cache, NetConfList, Networks, Sandbox},
};

use super::{
    LONG, check_timeout, hanging, install, installed, network, params, wait_for_exit,
    while_being_installed,
};

fn runtime<E: AsyncExec>(exec: E, dir: &Path) -> AsyncRuntime<E> {
    AsyncRuntime::new(exec, [dir]).with_cache(Cache::new(dir.join("cache")))
}

/// Attaches and detaches two containers concurrently on several threads.
async fn attach_and_detach(exec: impl AsyncExec + Clone + Send + Sync + 'static) -> String {
    let dir = installed(
        "cat >$DIR/config.$CNI_CONTAINERID.$CNI_COMMAND\n\
         echo $CNI_COMMAND >>$DIR/calls.$CNI_CONTAINERID\n\
         case $CNI_COMMAND in\n\
         VERSION) echo '{ \"cniVersion\": \"1.1.0\", \"supportedVersions\": [\"1.1.0\"] }';;\n\
         ADD) echo '{ \"cniVersion\": \"1.1.0\", \"ips\": [{ \"address\": \"10.0.0.2/24\" }] }';;\n\
         esac",
    );
    let tasks = ["a", "b"].map(|id| {
        let runtime = runtime(exec.clone(), dir.path());
        tokio::spawn(async move {
            let result = runtime.add(&network(), &params(id)).await.unwrap();
            assert_eq!(result.ips.len(), 1);
            runtime.check(&network(), &params(id)).await.unwrap();
            runtime.del(&network(), &params(id)).await.unwrap();
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    let runtime = runtime(exec, dir.path());
    runtime.status(&network()).await.unwrap();
    runtime.gc(&network(), &[]).await.unwrap();
    assert_eq!(runtime.validate(&network()).await, Ok(Vec::new()));
    assert_eq!(runtime.cache().list().unwrap().entries, []);
    assert!(fs::read_to_string(dir.path().join("config.a.DEL")).unwrap().contains("prevResult"));
    fs::read_to_string(dir.path().join("calls.a")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_attached_and_detached() {
    assert_eq!(attach_and_detach(AsyncProcess).await, "ADD\nCHECK\nDEL\n");
    assert_eq!(attach_and_detach(OnThread(Process)).await, "ADD\nCHECK\nDEL\n");
}

#[tokio::test]
async fn a_hanging_plugin_is_killed_with_its_children() {
    let dir = hanging();
    let limited = runtime(AsyncProcess, dir.path()).with_time_limit(Duration::from_secs(5));
    let error = limited.status(&network()).await.unwrap_err();
    check_timeout(&error, "STATUS of script (plugin 1 of 1)", &dir);
}

#[tokio::test]
async fn a_plugin_is_killed_when_its_future_is_dropped() {
    let dir = installed(
        "sh -c 'echo $$ >$0/child.new; mv $0/child.new $0/child; sleep 1000' $DIR & wait",
    );
    let runtime = runtime(AsyncProcess, dir.path());
    let child = dir.path().join("child");
    let (network, params) = (network(), params("box"));
    let is_started = async {
        while !child.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ended = runtime.add(&network, &params) => panic!("{ended:?}"),
        () = is_started => {}
    }
    wait_for_exit(&child);
    // The lock of the attachment is released.
    install(dir.path(), "exit 0");
    runtime.with_time_limit(LONG).del(&network, &params).await.unwrap();
}

#[tokio::test]
async fn a_plugin_that_never_stops_printing_is_killed() {
    for stream in ["", ">&2"] {
        let dir = installed(&format!("exec yes {stream}"));
        let error = runtime(AsyncProcess, dir.path()).status(&network()).await.unwrap_err();
        assert!(error.details().contains("printed more than 16 MiB"), "{error}");
    }
}

#[tokio::test]
async fn the_error_and_the_exit_of_a_plugin_are_reported() {
    for limit in [None, Some(LONG)] {
        for (script, code, text) in [
            ("echo '{ \"code\": 7, \"msg\": \"no\", \"details\": \"why\" }'; exit 1", 7, "why"),
            ("echo oh >&2; exit 3", 999, "exited with status 3 without an error reply; stderr: oh"),
            ("kill -9 $$", 999, "was killed by signal 9"),
        ] {
            let dir = installed(script);
            let mut runtime = runtime(AsyncProcess, dir.path());
            if let Some(limit) = limit {
                runtime = runtime.with_time_limit(limit);
            }
            let error = runtime.status(&network()).await.unwrap_err();
            assert!(error.code() == code && error.details().contains(text), "{error}");
        }
    }
}

#[tokio::test]
async fn an_operation_that_waits_for_a_lock_does_not_block_its_holder() {
    // Both ADDs run on one thread.
    let dir = installed(
        "mkdir $DIR/busy || echo overlap >>$DIR/overlap; sleep 0.05; rmdir $DIR/busy\n\
         [ $CNI_COMMAND = ADD ] && echo '{ \"cniVersion\": \"1.1.0\" }'; exit 0",
    );
    let runtime = runtime(AsyncProcess, dir.path()).with_time_limit(LONG);
    let (network, params) = (network(), params("box"));
    let (first, second) =
        tokio::join!(runtime.add(&network, &params), runtime.add(&network, &params));
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    assert!(!dir.path().join("overlap").exists());
}

#[test]
fn the_call_of_a_plugin_that_is_being_installed_is_retried() {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = installed("exit 0");
    let runtime = runtime(AsyncProcess, dir.path());
    while_being_installed(dir.path(), || executor.block_on(runtime.status(&network()))).unwrap();
}

/// Two networks whose ADDs wait for each other. The network `bad` then fails.
fn meeting(names: [&str; 2]) -> (tempfile::TempDir, Networks) {
    let dir = installed(
        "config=$(cat); name=$(echo $config | sed 's/.*\"name\":\"\\([a-z]*\\)\".*/\\1/')\n\
         echo $CNI_COMMAND $name $CNI_IFNAME >>$DIR/calls\n\
         [ $CNI_COMMAND = ADD ] || exit 0\n\
         touch $DIR/$name; while [ $(ls $DIR/one $DIR/two $DIR/bad 2>/dev/null | wc -l) -lt 2 ]\n\
         do sleep 0.01; done\n\
         [ $name = bad ] && echo '{ \"code\": 100, \"msg\": \"bad\" }' && exit 1\n\
         echo '{ \"cniVersion\": \"1.1.0\", \"ips\": [{ \"address\": \"10.0.0.2/24\" }] }'",
    );
    let networks = Networks::of(names.map(|name| {
        let list = format!(
            r#"{{ "cniVersion": "1.1.0", "name": "{name}", "plugins": [{{ "type": "script" }}] }}"#
        );
        NetConfList::from_json(list.as_bytes()).unwrap()
    }));
    (dir, networks.in_parallel())
}

#[tokio::test]
async fn a_sandbox_is_attached_to_all_networks_at_the_same_time() {
    let (dir, networks) = meeting(["one", "two"]);
    let runtime = runtime(AsyncProcess, dir.path()).with_time_limit(LONG);
    let sandbox = Sandbox::new("box", "/run/netns/none");
    // The future can be sent to another thread.
    let task = {
        let (runtime, networks, sandbox) = (runtime.clone(), networks.clone(), sandbox.clone());
        tokio::spawn(async move { runtime.attach(&networks, &sandbox).await })
    };
    let attached = task.await.unwrap().unwrap();
    assert_eq!(attached.interfaces.keys().collect::<Vec<_>>(), ["eth0", "eth1"]);
    assert_eq!(attached.interfaces["eth1"].network, "two");
    runtime.status_all(&networks).await.unwrap();
    runtime.check_all(&networks, &sandbox).await.unwrap();
    fs::remove_file(dir.path().join("calls")).unwrap();
    runtime.detach(&networks, &sandbox).await.unwrap();
    let calls = || fs::read_to_string(dir.path().join("calls")).unwrap();
    assert_eq!(calls(), "DEL two eth1\nDEL one eth0\n");
    runtime.attach(&networks, &sandbox).await.unwrap();
    runtime.detach_all("box").await.unwrap();
    assert_eq!(runtime.cache().list().unwrap().entries, []);
}

#[tokio::test]
async fn a_failed_network_rolls_back_the_other() {
    let (dir, networks) = meeting(["one", "bad"]);
    let runtime = runtime(AsyncProcess, dir.path()).with_time_limit(LONG);
    let sandbox = Sandbox::new("box", "/run/netns/none");
    let failures = runtime.attach(&networks, &sandbox).await.unwrap_err();
    assert!(failures.iter().count() == 1 && failures.to_string().contains("network bad"));
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    assert!(calls.ends_with("DEL one eth0\n"), "{calls}");
    assert_eq!(runtime.cache().list().unwrap().entries, []);
}
