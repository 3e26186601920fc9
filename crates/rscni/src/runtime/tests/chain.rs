//! ADD, DEL and CHECK.

use super::*;

#[test]
fn add_hands_each_result_to_the_next_plugin_and_keeps_the_last() {
    let (net, script) = (Net::of_three(), Script::default());
    let result = net.runtime(&script).add(&net.list, &net.params).unwrap();
    assert_eq!(script.calls(), ["ADD a none", "ADD b 10.0.0.0/24", "ADD c 10.0.0.1/24"]);
    assert_eq!(result.ips[0].address.to_string(), "10.0.0.2/24");
    let entry = net.cache.load("net", &net.params).unwrap().unwrap();
    assert_eq!((entry.result, entry.config.as_slice()), (result, net.list.source()));
}

#[test]
fn a_plugin_gets_its_own_keys_unchanged_and_the_runtimes_beside_them() {
    let plugin = json!({
        "zebra": { "y": 1, "b": 2 }, "type": "a", "cniVersion": "0.3.0", "name": "other", "prevResult": {},
        "capabilities": { "portMappings": true, "mac": true, "ips": false },
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

    let call = &script.calls.borrow()[0];
    assert_eq!(
        String::from_utf8_lossy(&call.stdin),
        concat!(
            r#"{"cniVersion":"0.4.0","name":"net","zebra":{"y":1,"b":2},"type":"a","args":{"cni":{}},"ape":null,"#,
            r#""runtimeConfig":{"mac":"00:11:22:33:44:55"}}"#
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
        let (net, script) = (
            Net::new(version.as_str(), &json!([{ "type": "a" }, { "type": "b" }])),
            Script::default(),
        );
        net.runtime(&script).add(&net.list, &net.params).unwrap();
        let config: Value = serde_json::from_slice(&script.calls.borrow()[1].stdin).unwrap();
        assert_eq!(config["prevResult"]["cniVersion"], version.as_str());
        assert_eq!(
            config["prevResult"]["ips"][0].get("version").is_some(),
            version < SpecVersion::V1_0_0,
            "{version}"
        );
    }
}

#[test]
fn a_failed_add_is_undone_in_reverse_wherever_it_fails() {
    let undone = [
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
    for (number, (plugin, calls)) in undone.into_iter().enumerate() {
        let (net, script) = (Net::of_three(), Script::failing(&[("ADD", plugin)]));
        let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
        assert_eq!(script.calls(), calls);
        assert_eq!((error.code() as usize, error.msg()), (100 + number, "no"));
        let place =
            format!("network net: ADD of {plugin} (plugin {} of 3): {plugin} cannot", number + 1);
        assert_eq!(error.details(), place);
        assert!(!net.is_cached());
    }
}

#[test]
fn a_failure_of_the_undoing_is_told_beside_the_first_error() {
    let (net, script) = (Net::of_three(), Script::failing(&[("ADD", "b"), ("DEL", "b")]));
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!(error.code(), 101);
    assert!(
        error.details().contains("undoing it failed too: no: network net: DEL of b"),
        "{error}"
    );
    assert_eq!(script.calls().last().unwrap(), "DEL a 10.0.0.0/24");
}

#[test]
fn an_undo_that_fails_for_the_same_reason_does_not_repeat_it() {
    /// Fails in one way whatever it is called for.
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
        "invalid: network net: ADD of a (plugin 1 of 3): key: 1 is no text; undoing it failed too: \
         network net: DEL of a (plugin 1 of 3): for the same reason"
    );
}

#[test]
fn a_second_add_that_fails_does_not_cut_off_the_first() {
    let (net, script) = (Net::of_three(), Script::failing(&[("ADD", "a")]));
    net.add();
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!(script.calls(), ["ADD a none"]);
    assert!(error.details().contains("was there before"), "{error}");
    assert!(net.is_cached());
}

#[test]
fn a_missing_plugin_is_known_before_the_first_is_called() {
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
fn an_add_whose_result_cannot_be_kept_is_undone() {
    let (net, script) = (Net::new("1.0.0", &json!([{ "type": "a" }])), Script::default());
    std::os::unix::fs::symlink("/nowhere/at/all", net.dir.path().join("results")).unwrap();
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!(error.code(), 5);
    assert_eq!(script.calls(), ["ADD a none", "DEL a 10.0.0.0/24"]);
}

#[test]
fn an_add_is_not_begun_where_the_cache_cannot_be_read() {
    let (net, script) = (Net::of_three(), Script::default());
    std::fs::write(net.dir.path().join("results"), "a file, not a directory").unwrap();
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!(error.code(), 5);
    assert!(script.calls().is_empty());
}

#[test]
fn del_goes_in_reverse_with_the_cached_result_and_forgets_it() {
    let (net, script) = (Net::of_three(), Script::default());
    net.add();
    net.runtime(&script).del(&net.list, &net.params).unwrap();
    assert_eq!(script.calls(), ["DEL c 10.0.0.2/24", "DEL b 10.0.0.2/24", "DEL a 10.0.0.2/24"]);
    assert!(!net.is_cached());
    net.runtime(&script).del(&net.list, &net.params).unwrap();
    assert_eq!(script.calls(), ["DEL c none", "DEL b none", "DEL a none"]);
}

#[test]
fn del_goes_on_past_failures_and_tells_all() {
    let plugins = json!([{ "type": "a" }, { "type": "missing" }, { "type": "b" }, { "type": "c" }]);
    let (net, script) = (Net::new("1.0.0", &plugins), Script::failing(&[("DEL", "c")]));
    let failures = net.runtime(&script).del(&net.list, &net.params).unwrap_err();
    assert_eq!(script.calls(), ["DEL c none", "DEL b none", "DEL a none"]);
    assert_eq!(failures.iter().map(Error::code).collect::<Vec<_>>(), [100, 7]);
}

#[test]
fn del_that_fails_keeps_the_entry_for_the_next_try() {
    let (net, script) = (Net::of_three(), Script::failing(&[("DEL", "b")]));
    net.add();
    net.runtime(&script).del(&net.list, &net.params).unwrap_err();
    assert!(net.is_cached());
}

#[test]
fn del_takes_what_the_caller_leaves_out_from_the_cache() {
    let (mut net, script) = (
        Net::new("1.0.0", &json!([{ "type": "a", "capabilities": { "mac": true } }])),
        Script::default(),
    );
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
    let call = &script.calls.borrow()[0];
    assert_eq!(call.vars.get("CNI_ARGS"), Some(&OsString::from("K=v")));
    assert_eq!(call.vars.get("CNI_NETNS"), None);
    assert!(String::from_utf8_lossy(&call.stdin).contains(r#""runtimeConfig":{"mac":"x"}"#));
}

#[test]
fn a_damaged_entry_is_no_obstacle_to_del() {
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
fn check_asks_in_order_with_the_cached_result_up_to_the_first_failure() {
    let (net, script) = (Net::of_three(), Script::failing(&[("CHECK", "b")]));
    net.add();
    let error = net.runtime(&script).check(&net.list, &net.params).unwrap_err();
    assert_eq!(script.calls(), ["CHECK a 10.0.0.2/24", "CHECK b 10.0.0.2/24"]);
    assert!(error.details().contains("CHECK of b (plugin 2 of 3)"), "{error}");
    assert!(net.is_cached());
}

#[test]
fn check_needs_an_attachment_and_a_version_that_has_it() {
    let script = Script::default();
    for (version, code) in [("0.1.0", 1), ("0.3.1", 1), ("0.4.0", 3), ("1.1.0", 3)] {
        let net = Net::new(version, &json!([{ "type": "a" }]));
        assert_eq!(
            net.runtime(&script).check(&net.list, &net.params).unwrap_err().code(),
            code,
            "{version}"
        );
    }
    assert!(script.calls().is_empty());
}

#[test]
fn check_is_not_called_where_the_network_disables_it() {
    let (mut net, script) = (Net::of_three(), Script::default());
    net.list.disable_check = true;
    assert_eq!(net.runtime(&script).check(&net.list, &net.params), Ok(()));
    assert!(script.calls().is_empty());
}
