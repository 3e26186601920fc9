//! STATUS, validation, timeouts and locks.

use super::*;

#[test]
fn status_calls_plugins_in_order_up_to_the_first_failure() {
    let plugins = json!([{ "type": "a" }, { "type": "b" }, { "type": "c" }]);
    let (net, script) = (Net::new("1.1.0", &plugins), Script::failing(&[("STATUS", "b")]));
    let error = net.runtime(&script).status(&net.list).unwrap_err();
    assert_eq!(script.calls(), ["STATUS a none", "STATUS b none"]);
    assert!(error.details().contains("STATUS of b (plugin 2 of 3)"), "{error}");
}

#[test]
fn status_in_a_version_without_status_succeeds() {
    let (net, script) = (Net::of_three(), Script::failing(&[("STATUS", "a")]));
    assert_eq!(net.runtime(&script).status(&net.list), Ok(()));
    assert!(script.calls().is_empty());
}

#[test]
fn validation_asks_all_plugins_and_reports_all_problems() {
    let plugins = json!([
        { "type": "a", "capabilities": { "mac": true, "ips": false } },
        { "type": "missing" },
        { "type": "b", "capabilities": { "dns": true, "mac": true } },
    ]);
    let (net, script) = (Net::new("1.1.0", &plugins), Script::default());
    let failures = net.runtime(&script).validate(&net.list).unwrap_err();
    assert_eq!(failures.iter().map(Error::code).collect::<Vec<_>>(), [1, 7, 1]);
    let texts: Vec<_> = failures.iter().map(Error::details).collect();
    assert_eq!(
        texts[0],
        "network net: plugin 1 of 3, a: cniVersion 1.1.0 is not supported; \
         supported are 0.4.0, 1.0.0"
    );
    assert!(texts[1].starts_with("network net: plugin 2 of 3, missing: "), "{failures}");

    let net = Net::new("1.0.0", &json!([plugins[0], plugins[2]]));
    let runtime = net.runtime(&script);
    assert_eq!(runtime.validate(&net.list).unwrap(), ["mac", "dns"]);
    assert_eq!(
        runtime.version("a").unwrap().supported_versions(),
        [SpecVersion::V0_4_0, SpecVersion::V1_0_0]
    );
}

#[test]
fn all_calls_have_the_timeout_and_the_trace() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    let trace =
        TraceContext { baggage: Some("k=v".into()), ..TraceContext::new("00-trace-span-01") };
    let limit = Duration::from_secs(5);
    let runtime = net.runtime(&script).with_time_limit(limit).with_trace(trace);
    runtime.add(&net.list, &net.params).unwrap();
    runtime.check(&net.list, &net.params).unwrap();
    runtime.status(&net.list).unwrap();
    runtime.version("a").unwrap();
    runtime.gc(&net.list, &[]).unwrap();
    let calls = script.calls.lock().unwrap();
    assert_eq!(calls.len(), 6);
    for call in calls.iter() {
        assert_eq!(
            (call.time_limit, &call.vars["TRACEPARENT"]),
            (Some(limit), &"00-trace-span-01".into())
        );
        assert_eq!((call.vars.get("TRACESTATE"), &call.vars["BAGGAGE"]), (None, &"k=v".into()));
    }
}

#[test]
fn a_timeout_of_a_lock_names_its_file() {
    let (net, script) = (Net::of_three(), Script::default());
    let runtime = net.runtime(&script).with_time_limit(Duration::from_millis(20));
    let network = net.cache.network_lock("net").unwrap();
    let attachment = net.cache.attachment_lock("net", &net.params).unwrap();
    let held = Lock::try_take(&attachment, Mode::Exclusive).unwrap();
    let errors = [
        runtime.add(&net.list, &net.params).unwrap_err(),
        runtime.check(&net.list, &net.params).unwrap_err(),
        runtime.del(&net.list, &net.params).unwrap_err().into(),
    ];
    for error in errors {
        assert_eq!(error.code(), 11);
        assert!(error.details().contains("locks/attachments/net-box-eth0"), "{error}");
    }
    runtime.add(&net.list, &other("other")).unwrap();
    drop(held);
    script.calls();
    let held = Lock::try_take(&network, Mode::Shared).unwrap();
    assert_eq!(Error::from(runtime.gc(&net.list, &[]).unwrap_err()).code(), 11);
    runtime.add(&net.list, &net.params).unwrap();
    drop(held);
    script.calls();
    let held = Lock::try_take(&network, Mode::Exclusive).unwrap();
    let error = Error::from(runtime.del(&net.list, &net.params).unwrap_err());
    assert!(error.code() == 11 && error.details().contains("locks/networks/net"), "{error}");
    assert!(script.calls().is_empty());
    drop(held);
    runtime.del(&net.list, &net.params).unwrap();
    assert!(!attachment.exists(), "DEL removes the lock file");
}

#[test]
fn operations_queue_behind_a_waiting_gc() {
    let net = Net::of_three();
    let held = Lock::try_take(&net.cache.network_lock("net").unwrap(), Mode::Shared).unwrap();
    std::thread::scope(|scope| {
        let gc = scope.spawn(|| net.runtime(&Script::default()).gc(&net.list, &[]));
        let gate = net.cache.gate("net").unwrap();
        while Lock::try_take(&gate, Mode::Shared).unwrap().is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let script = Script::default();
        let runtime = net.runtime(&script).with_time_limit(Duration::from_millis(20));
        assert_eq!(runtime.add(&net.list, &net.params).unwrap_err().code(), 11);
        drop(held);
        gc.join().unwrap().unwrap();
        runtime.add(&net.list, &net.params).unwrap();
    });
}

#[test]
fn only_del_and_check_succeed_if_lock_files_cannot_be_made() {
    let (net, script) = (Net::of_three(), Script::default());
    net.add();
    std::fs::remove_dir_all(net.dir.path().join("locks")).unwrap();
    std::fs::write(net.dir.path().join("locks"), "a file, not a directory").unwrap();
    let runtime = net.runtime(&script);
    assert_eq!(runtime.add(&net.list, &other("other")).unwrap_err().code(), 5);
    assert_eq!(Error::from(runtime.gc(&net.list, &[]).unwrap_err()).code(), 5);
    assert!(script.calls().is_empty());
    runtime.check(&net.list, &net.params).unwrap();
    runtime.del(&net.list, &net.params).unwrap();
    assert!(!net.is_cached());
}

#[test]
fn add_fails_if_a_plugin_prints_no_result() {
    struct Silent;
    impl Exec for Silent {
        fn find(&self, plugin: &str, _: &[PathBuf]) -> Result<PathBuf, Error> {
            Ok(plugin.into())
        }
        fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
            match invocation.vars["CNI_COMMAND"].to_str() {
                Some("DEL") => Err(io::Error::other("gone")),
                _ => Ok(Outcome { exit: Exit::Status(0), stdout: Vec::new(), stderr: Vec::new() }),
            }
        }
    }
    let net = Net::new("1.0.0", &json!([{ "type": "a" }]));
    let runtime = Runtime::new(Silent, ["/x"]).with_cache(net.cache.clone());
    let error = runtime.add(&net.list, &net.params).unwrap_err();
    assert_eq!(error.code(), 6);
    assert!(error.details().contains("printed no result"), "{error}");
    assert!(error.details().contains("start a: gone"), "{error}");
}
