//! ADD, DEL and CHECK.

use super::*;

#[test]
fn add_passes_each_result_to_the_next_plugin_and_caches_the_last() {
    let (net, script) = (Net::of_three(), Script::default());
    let result = net.runtime(&script).add(&net.list, &net.params).unwrap();
    assert_eq!(script.calls(), ["ADD a none", "ADD b 10.0.0.0/24", "ADD c 10.0.0.1/24"]);
    assert_eq!(result.ips[0].address.to_string(), "10.0.0.2/24");
    let entry = net.cache.load("net", &net.params).unwrap().unwrap();
    assert_eq!((entry.result, entry.config.as_slice()), (result, net.list.source()));
}

#[test]
fn a_plugin_gets_its_own_keys_unchanged_and_those_of_the_runtime() {
    let plugin = json!({
        "zebra": { "y": 1, "b": 2 }, "type": "a", "cniVersion": "0.3.0", "name": "other",
        "prevResult": {}, "capabilities": { "portMappings": true, "mac": true, "ips": false },
        "cni.dev/valid-attachments": [], "args": { "cni": {} }, "ape": null,
    });
    let (mut net, script) = (Net::new("0.4.0", &json!([plugin])), Script::default());
    net.params.args = vec![("K".into(), "v".into()), ("L".into(), "w".into())];
    net.params.capability_args =
        json!({ "mac": "00:11:22:33:44:55", "ips": ["10.0.0.1"], "dns": {} })
            .as_object()
            .unwrap()
            .clone();
    net.runtime(&script).add(&net.list, &net.params).unwrap();

    let call = &script.calls.lock().unwrap()[0];
    assert_eq!(
        String::from_utf8_lossy(&call.stdin),
        concat!(
            r#"{"cniVersion":"0.4.0","name":"net","zebra":{"y":1,"b":2},"type":"a","#,
            r#""args":{"cni":{}},"ape":null,"runtimeConfig":{"mac":"00:11:22:33:44:55"}}"#
        )
    );
    let vars: Vec<_> =
        call.vars.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(
        vars,
        [
            ("CNI_ARGS", "K=v;L=w"),
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "box"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/box"),
            ("CNI_PATH", "/x:/y"),
        ]
    );
    assert_eq!(call.program, Path::new("/plugins/a"));
}

#[test]
fn prev_result_is_in_the_version_of_the_network() {
    for version in SpecVersion::ALL.into_iter().filter(|version| version.has_chaining()) {
        let plugins = json!([{ "type": "a" }, { "type": "b" }]);
        let (net, script) = (Net::new(version.as_str(), &plugins), Script::default());
        net.runtime(&script).add(&net.list, &net.params).unwrap();
        let config: Value = serde_json::from_slice(&script.calls.lock().unwrap()[1].stdin).unwrap();
        assert_eq!(config["prevResult"]["cniVersion"], version.as_str());
        assert_eq!(
            config["prevResult"]["ips"][0].get("version").is_some(),
            version < SpecVersion::V1_0_0,
            "{version}"
        );
    }
}

#[test]
fn a_failed_add_is_rolled_back_in_reverse_order() {
    let expected = [
        ("a", vec!["ADD a none", "DEL a none"]),
        ("b", vec!["ADD a none", "ADD b 10.0.0.0/24", "DEL b 10.0.0.0/24", "DEL a 10.0.0.0/24"]),
        (
            "c",
            vec![
                "ADD a none",
                "ADD b 10.0.0.0/24",
                "ADD c 10.0.0.1/24",
                "DEL c 10.0.0.1/24",
                "DEL b 10.0.0.1/24",
                "DEL a 10.0.0.1/24",
            ],
        ),
    ];
    for (number, (plugin, calls)) in expected.into_iter().enumerate() {
        let (net, script) = (Net::of_three(), Script::failing(&[("ADD", plugin)]));
        let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
        assert_eq!(script.calls(), calls);
        assert_eq!((error.code() as usize, error.msg()), (100 + number, "no"));
        let details =
            format!("network net: ADD of {plugin} (plugin {} of 3): {plugin} cannot", number + 1);
        assert_eq!(error.details(), details);
        assert!(!net.is_cached());
    }
}

#[test]
fn a_failed_rollback_is_reported_after_the_first_error() {
    let (net, script) = (Net::of_three(), Script::failing(&[("ADD", "b"), ("DEL", "b")]));
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!(error.code(), 101);
    assert!(error.details().contains("rollback failed too: no: network net: DEL of b"), "{error}");
    assert_eq!(script.calls().last().unwrap(), "DEL a 10.0.0.0/24");
}

#[test]
fn a_rollback_that_fails_for_the_same_reason_does_not_repeat_it() {
    /// Fails all calls with the same error.
    struct Broken;

    impl Exec for Broken {
        fn find(&self, plugin: &str, _: &[PathBuf]) -> Result<PathBuf, Error> {
            Ok(Path::new("/plugins").join(plugin))
        }

        fn exec(&self, _: &Invocation) -> io::Result<Outcome> {
            let stdout = br#"{ "code": 7, "msg": "invalid", "details": "key: 1 is no text" }"#;
            Ok(Outcome { exit: Exit::Status(1), stdout: stdout.to_vec(), stderr: Vec::new() })
        }
    }

    let net = Net::of_three();
    let runtime = Runtime::new(Broken, ["/x"]).with_cache(net.cache.clone());
    let error = runtime.add(&net.list, &net.params).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid: network net: ADD of a (plugin 1 of 3): key: 1 is no text; \
         rollback failed too: network net: DEL of a (plugin 1 of 3): for the same reason"
    );
}

#[test]
fn a_failed_second_add_does_not_remove_the_first() {
    let (net, script) = (Net::of_three(), Script::failing(&[("ADD", "a")]));
    net.add();
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!(script.calls(), ["ADD a none"]);
    assert!(error.details().contains("already existed"), "{error}");
    assert!(net.is_cached());
}

#[test]
fn a_missing_plugin_is_reported_before_the_first_call() {
    let (net, script) =
        (Net::new("1.0.0", &json!([{ "type": "a" }, { "type": "missing" }])), Script::default());
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!((error.code(), script.calls().len()), (7, 0));
    assert!(
        error.details().contains("missing (plugin 2 of 2)") && error.details().contains("/x, /y"),
        "{error}"
    );
}

#[test]
fn an_add_whose_result_cannot_be_cached_is_rolled_back() {
    let (net, script) = (Net::new("1.0.0", &json!([{ "type": "a" }])), Script::default());
    std::os::unix::fs::symlink("/nowhere/at/all", net.dir.path().join("results")).unwrap();
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!(error.code(), 5);
    assert_eq!(script.calls(), ["ADD a none", "DEL a 10.0.0.0/24"]);
}

#[test]
fn add_calls_no_plugin_if_the_cache_cannot_be_read() {
    let (net, script) = (Net::of_three(), Script::default());
    std::fs::write(net.dir.path().join("results"), "a file, not a directory").unwrap();
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!(error.code(), 5);
    assert!(script.calls().is_empty());
}

#[test]
fn del_calls_plugins_in_reverse_with_the_cached_result_and_removes_it() {
    let (net, script) = (Net::of_three(), Script::default());
    net.add();
    net.runtime(&script).del(&net.list, &net.params).unwrap();
    assert_eq!(script.calls(), ["DEL c 10.0.0.2/24", "DEL b 10.0.0.2/24", "DEL a 10.0.0.2/24"]);
    assert!(!net.is_cached());
    net.runtime(&script).del(&net.list, &net.params).unwrap();
    assert_eq!(script.calls(), ["DEL c none", "DEL b none", "DEL a none"]);
}

#[test]
fn del_continues_past_failures_and_reports_all() {
    let plugins = json!([{ "type": "a" }, { "type": "missing" }, { "type": "b" }, { "type": "c" }]);
    let (net, script) = (Net::new("1.0.0", &plugins), Script::failing(&[("DEL", "c")]));
    let failures = net.runtime(&script).del(&net.list, &net.params).unwrap_err();
    assert_eq!(script.calls(), ["DEL c none", "DEL b none", "DEL a none"]);
    assert_eq!(failures.iter().map(Error::code).collect::<Vec<_>>(), [100, 7]);
}

#[test]
fn a_failed_del_keeps_the_cache_entry() {
    let (net, script) = (Net::of_three(), Script::failing(&[("DEL", "b")]));
    net.add();
    net.runtime(&script).del(&net.list, &net.params).unwrap_err();
    assert!(net.is_cached());
}

#[test]
fn del_uses_the_cached_arguments_if_the_caller_passes_none() {
    let plugins = json!([{ "type": "a", "capabilities": { "mac": true } }]);
    let (mut net, script) = (Net::new("1.0.0", &plugins), Script::default());
    net.params.args = vec![("K".into(), "v".into())];
    net.params.capability_args = json!({ "mac": "x" }).as_object().unwrap().clone();
    net.add();
    net.params = AttachmentParams {
        args: Vec::new(),
        capability_args: Map::new(),
        netns: None,
        ..net.params
    };
    net.runtime(&script).del(&net.list, &net.params).unwrap();
    let call = &script.calls.lock().unwrap()[0];
    assert_eq!(call.vars.get("CNI_ARGS"), Some(&OsString::from("K=v")));
    assert_eq!(call.vars.get("CNI_NETNS"), None);
    assert!(String::from_utf8_lossy(&call.stdin).contains(r#""runtimeConfig":{"mac":"x"}"#));
}

#[test]
fn del_succeeds_with_a_damaged_cache_entry() {
    let (net, script) = (Net::of_three(), Script::default());
    net.add();
    std::fs::write(net.cache.file("net", &net.params).unwrap(), "{ \"kind\": \"cniCa").unwrap();
    net.runtime(&script).del(&net.list, &net.params).unwrap();
    assert_eq!(script.calls(), ["DEL c none", "DEL b none", "DEL a none"]);
    assert!(!net.is_cached());
}

#[test]
fn del_has_no_prev_result_before_0_4_0() {
    let (net, script) = (Net::new("0.3.1", &json!([{ "type": "a" }])), Script::default());
    net.add();
    net.runtime(&script).del(&net.list, &net.params).unwrap();
    assert_eq!(script.calls(), ["DEL a none"]);
}

#[test]
fn check_calls_plugins_in_order_up_to_the_first_failure() {
    let (net, script) = (Net::of_three(), Script::failing(&[("CHECK", "b")]));
    net.add();
    let error = net.runtime(&script).check(&net.list, &net.params).unwrap_err();
    assert_eq!(script.calls(), ["CHECK a 10.0.0.2/24", "CHECK b 10.0.0.2/24"]);
    assert!(error.details().contains("CHECK of b (plugin 2 of 3)"), "{error}");
    assert!(net.is_cached());
}

#[test]
fn check_requires_an_attachment_and_a_version_with_check() {
    let script = Script::default();
    for (version, code) in [("0.1.0", 1), ("0.3.1", 1), ("0.4.0", 3), ("1.1.0", 3)] {
        let net = Net::new(version, &json!([{ "type": "a" }]));
        let error = net.runtime(&script).check(&net.list, &net.params).unwrap_err();
        assert_eq!(error.code(), code, "{version}");
    }
    assert!(script.calls().is_empty());
}

#[test]
fn check_does_nothing_with_disable_check() {
    let (mut net, script) = (Net::of_three(), Script::default());
    net.list.disable_check = true;
    assert_eq!(net.runtime(&script).check(&net.list, &net.params), Ok(()));
    assert!(script.calls().is_empty());
}
