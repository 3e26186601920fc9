//! Chains against plugins that follow a script.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::lock::{Lock, Mode};
use super::*;
use crate::SpecVersion;
use crate::invoke::{Exit, find_plugin};

/// Plugins that note how they are called. ADD adds an address with its own number in the chain, and everything
/// succeeds, other than what is listed to fail; plugins named `missing` are not installed.
#[derive(Default)]
struct Script {
    fails: Vec<(&'static str, &'static str)>,
    calls: RefCell<Vec<Invocation>>,
}

impl Exec for &Script {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        if plugin == "missing" { find_plugin(plugin, path) } else { Ok(Path::new("/plugins").join(plugin)) }
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        let number = self.calls.borrow().len();
        self.calls.borrow_mut().push(invocation.clone());
        let command = invocation.vars["CNI_COMMAND"].to_str().unwrap();
        let (status, stdout) = if command == "VERSION" {
            (0, json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0", "2.0.0"] }))
        } else if self.fails.contains(&(command, &invocation.plugin)) {
            (1, json!({ "code": 100 + number, "msg": "no", "details": format!("{} cannot", invocation.plugin) }))
        } else {
            (0, json!({ "cniVersion": "1.1.0", "ips": [{ "address": format!("10.0.0.{number}/24") }] }))
        };
        let stdout = if matches!(command, "ADD" | "VERSION") || status > 0 {
            stdout.to_string().into_bytes()
        } else {
            Vec::new()
        };
        Ok(Outcome { exit: Exit::Status(status), stdout, stderr: Vec::new() })
    }
}

impl Script {
    fn failing(fails: &[(&'static str, &'static str)]) -> Self {
        Self { fails: fails.to_vec(), ..Self::default() }
    }

    /// What was called, and the address in the `prevResult` that it got.
    fn calls(&self) -> Vec<String> {
        let calls = self.calls.take();
        let told = calls.iter().map(|call| {
            let config: Value = serde_json::from_slice(&call.stdin).unwrap();
            let previous = config["prevResult"]["ips"][0]["address"].as_str().unwrap_or("none");
            format!("{} {} {previous}", call.vars["CNI_COMMAND"].to_str().unwrap(), call.plugin)
        });
        told.collect()
    }
}

struct Net {
    dir: tempfile::TempDir,
    list: NetConfList,
    cache: Cache,
    params: AttachmentParams,
}

impl Net {
    fn new(version: &str, plugins: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let json = json!({ "cniVersion": version, "name": "net", "plugins": plugins });
        Self {
            list: NetConfList::from_json(json.to_string().as_bytes()).unwrap(),
            cache: Cache::new(dir.path()),
            params: AttachmentParams::new("box", "/run/netns/box", "eth0"),
            dir,
        }
    }

    /// A network with the plugins a, b and c.
    fn of_three() -> Self {
        Self::new("1.0.0", &json!([{ "type": "a" }, { "type": "b" }, { "type": "c" }]))
    }

    fn runtime<'a>(&self, script: &'a Script) -> Runtime<&'a Script> {
        Runtime::new(script, ["/x", "/y"]).with_cache(self.cache.clone())
    }

    fn is_cached(&self) -> bool {
        self.cache.file("net", &self.params).unwrap().exists()
    }

    fn add(&self) {
        self.runtime(&Script::default()).add(&self.list, &self.params).unwrap();
    }
}

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
        json!({ "mac": "00:11:22:33:44:55", "ips": ["10.0.0.1"], "dns": {} }).as_object().unwrap().clone();
    net.runtime(&script).add(&net.list, &net.params).unwrap();

    let call = &script.calls.borrow()[0];
    assert_eq!(
        String::from_utf8_lossy(&call.stdin),
        concat!(
            r#"{"cniVersion":"0.4.0","name":"net","zebra":{"y":1,"b":2},"type":"a","args":{"cni":{}},"ape":null,"#,
            r#""runtimeConfig":{"mac":"00:11:22:33:44:55"}}"#
        )
    );
    let vars: Vec<_> = call.vars.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
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
        let (net, script) = (Net::new(version.as_str(), &json!([{ "type": "a" }, { "type": "b" }])), Script::default());
        net.runtime(&script).add(&net.list, &net.params).unwrap();
        let config: Value = serde_json::from_slice(&script.calls.borrow()[1].stdin).unwrap();
        assert_eq!(config["prevResult"]["cniVersion"], version.as_str());
        assert_eq!(config["prevResult"]["ips"][0].get("version").is_some(), version < SpecVersion::V1_0_0, "{version}");
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
        let place = format!("network net: ADD of {plugin} (plugin {} of 3): {plugin} cannot", number + 1);
        assert_eq!(error.details(), place);
        assert!(!net.is_cached());
    }
}

#[test]
fn a_failure_of_the_undoing_is_told_beside_the_first_error() {
    let (net, script) = (Net::of_three(), Script::failing(&[("ADD", "b"), ("DEL", "b")]));
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!(error.code(), 101);
    assert!(error.details().contains("undoing it failed too: no: network net: DEL of b"), "{error}");
    assert_eq!(script.calls().last().unwrap(), "DEL a 10.0.0.0/24");
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
    let (net, script) = (Net::new("1.0.0", &json!([{ "type": "a" }, { "type": "missing" }])), Script::default());
    let error = net.runtime(&script).add(&net.list, &net.params).unwrap_err();
    assert_eq!((error.code(), script.calls().len()), (7, 0));
    assert!(error.details().contains("missing (plugin 2 of 2)") && error.details().contains("/x, /y"), "{error}");
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
    let (mut net, script) =
        (Net::new("1.0.0", &json!([{ "type": "a", "capabilities": { "mac": true } }])), Script::default());
    net.params.args = vec![("K".into(), "v".into())];
    net.params.capability_args = json!({ "mac": "x" }).as_object().unwrap().clone();
    net.add();
    net.params = AttachmentParams { args: Vec::new(), capability_args: Map::new(), netns: None, ..net.params };
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
        assert_eq!(net.runtime(&script).check(&net.list, &net.params).unwrap_err().code(), code, "{version}");
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

/// The attachment of another container.
fn other(container_id: &str) -> AttachmentParams {
    AttachmentParams::new(container_id, format!("/run/netns/{container_id}"), "eth0")
}

fn valid(params: &AttachmentParams) -> Attachment {
    Attachment { container_id: params.container_id.clone(), ifname: params.ifname.clone() }
}

#[test]
fn gc_detaches_what_is_not_valid_and_tells_the_plugins_what_is() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }, { "type": "b" }])), Script::default());
    let runtime = net.runtime(&script);
    let mut elsewhere = net.list.clone();
    elsewhere.name = "elsewhere".into();
    runtime.add(&net.list, &net.params).unwrap();
    runtime.add(&net.list, &other("stale")).unwrap();
    runtime.add(&elsewhere, &other("stale")).unwrap();
    script.calls.take();
    runtime.gc(&net.list, &[valid(&net.params)]).unwrap();
    let calls = script.calls.borrow().clone();
    assert_eq!(script.calls(), ["DEL b 10.0.0.3/24", "DEL a 10.0.0.3/24", "GC a none", "GC b none"]);
    assert_eq!(
        (&calls[0].vars["CNI_CONTAINERID"], &calls[0].vars["CNI_NETNS"]),
        (&"stale".into(), &"/run/netns/stale".into())
    );
    let config: Value = serde_json::from_slice(&calls[3].stdin).unwrap();
    let told = json!([{ "containerID": "box", "ifname": "eth0" }]);
    assert_eq!((&config["cni.dev/valid-attachments"], &config["cni.dev/attachments"]), (&told, &told));
    assert_eq!(calls[3].vars.keys().collect::<Vec<_>>(), ["CNI_COMMAND", "CNI_PATH"]);
    assert!(net.is_cached());
    let left = net.cache.list().unwrap().entries;
    assert_eq!(left.iter().map(|entry| entry.network.as_str()).collect::<Vec<_>>(), ["elsewhere", "net"]);
}

#[test]
fn gc_can_work_out_what_is_valid_while_nothing_else_runs() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    let runtime = net.runtime(&script);
    runtime.add(&net.list, &net.params).unwrap();
    runtime.add(&net.list, &other("stale")).unwrap();
    script.calls.take();
    let refused = runtime.gc_by(&net.list, |_| Err(Error::FailedToDecode("who is there?".into()))).unwrap_err();
    assert_eq!(refused.iter().map(Error::details).collect::<Vec<_>>(), ["who is there?"]);
    assert_eq!(script.calls(), [] as [&str; 0], "nothing is removed where the set is not known");
    let keep_box = |listing: &CacheListing| {
        let all = listing.entries.iter().map(CacheEntry::attachment);
        Ok(all.filter(|attachment| attachment.container_id == "box").collect())
    };
    runtime.gc_by(&net.list, keep_box).unwrap();
    assert_eq!(script.calls(), ["DEL a 10.0.0.1/24", "GC a none"]);
    assert!(net.is_cached());
}

#[test]
fn gc_goes_on_past_failures_and_tells_all() {
    let plugins = json!([{ "type": "a" }, { "type": "b" }]);
    let (net, script) = (Net::new("1.1.0", &plugins), Script::failing(&[("DEL", "b"), ("GC", "a")]));
    net.add();
    net.runtime(&Script::default()).add(&net.list, &other("other")).unwrap();
    let failures = net.runtime(&script).gc(&net.list, &[]).unwrap_err();
    assert_eq!(
        script.calls(),
        ["DEL b 10.0.0.1/24", "DEL a 10.0.0.1/24", "DEL b 10.0.0.1/24", "DEL a 10.0.0.1/24", "GC a none", "GC b none"]
    );
    let texts: Vec<_> = failures.iter().map(Error::details).collect();
    assert_eq!(
        texts,
        [
            "box: network net: DEL of b (plugin 2 of 2): b cannot",
            "other: network net: DEL of b (plugin 2 of 2): b cannot",
            "network net: GC of a (plugin 1 of 2): a cannot",
        ]
    );
}

#[test]
fn gc_of_a_version_without_it_only_detaches() {
    let (net, script) = (Net::of_three(), Script::default());
    net.add();
    net.runtime(&script).gc(&net.list, &[]).unwrap();
    assert_eq!(script.calls(), ["DEL c 10.0.0.2/24", "DEL b 10.0.0.2/24", "DEL a 10.0.0.2/24"]);
    assert!(!net.is_cached());
}

#[test]
fn gc_does_nothing_where_the_network_disables_it() {
    let (mut net, script) = (Net::of_three(), Script::default());
    net.add();
    net.list.disable_gc = true;
    net.runtime(&script).gc(&net.list, &[]).unwrap();
    assert!(script.calls().is_empty() && net.is_cached());
}

#[test]
fn gc_detaches_through_the_plugins_of_the_add() {
    let (mut net, script) = (Net::of_three(), Script::default());
    net.add();
    net.list = Net::new("1.1.0", &json!([{ "type": "new" }])).list;
    net.runtime(&script).gc(&net.list, &[]).unwrap();
    let calls = ["DEL c 10.0.0.2/24", "DEL b 10.0.0.2/24", "DEL a 10.0.0.2/24", "GC new none"];
    assert_eq!(script.calls(), calls);
}

#[test]
fn gc_still_reaches_the_plugins_where_the_cache_cannot_be_read() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    std::fs::write(net.dir.path().join("results"), "a file, not a directory").unwrap();
    let failures = net.runtime(&script).gc(&net.list, &[]).unwrap_err();
    assert_eq!(failures.iter().map(Error::code).collect::<Vec<_>>(), [5]);
    assert_eq!(script.calls(), ["GC a none"]);
}

#[test]
fn status_asks_in_order_up_to_the_first_failure() {
    let plugins = json!([{ "type": "a" }, { "type": "b" }, { "type": "c" }]);
    let (net, script) = (Net::new("1.1.0", &plugins), Script::failing(&[("STATUS", "b")]));
    let error = net.runtime(&script).status(&net.list).unwrap_err();
    assert_eq!(script.calls(), ["STATUS a none", "STATUS b none"]);
    assert!(error.details().contains("STATUS of b (plugin 2 of 3)"), "{error}");
}

#[test]
fn status_of_a_version_without_it_is_good() {
    let (net, script) = (Net::of_three(), Script::failing(&[("STATUS", "a")]));
    assert_eq!(net.runtime(&script).status(&net.list), Ok(()));
    assert!(script.calls().is_empty());
}

#[test]
fn validation_asks_every_plugin_and_tells_all_that_is_wrong() {
    let plugins = json!([
        { "type": "a", "capabilities": { "mac": true, "ips": false } },
        { "type": "missing" },
        { "type": "b", "capabilities": { "dns": true, "mac": true } },
    ]);
    let (net, script) = (Net::new("1.1.0", &plugins), Script::default());
    let failures = net.runtime(&script).validate(&net.list).unwrap_err();
    let texts: Vec<_> = failures.iter().map(|error| (error.code(), error.details().to_owned())).collect();
    assert_eq!(texts.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [1, 7, 1]);
    assert_eq!(texts[0].1, "network net: plugin 1 of 3, a: it does not support cniVersion 1.1.0, but 0.4.0, 1.0.0");
    assert!(texts[1].1.starts_with("network net: plugin 2 of 3, missing: "), "{failures}");

    let plugins = json!([plugins[0], plugins[2]]);
    let net = Net::new("1.0.0", &plugins);
    assert_eq!(net.runtime(&script).validate(&net.list), Ok(vec!["mac".to_owned(), "dns".to_owned()]));
    assert_eq!(
        net.runtime(&script).version("a").unwrap().supported_versions(),
        [SpecVersion::V0_4_0, SpecVersion::V1_0_0]
    );
}

#[test]
fn every_call_carries_the_limit_and_the_trace() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    let trace = TraceContext { baggage: Some("k=v".into()), ..TraceContext::new("00-trace-span-01") };
    let limit = Duration::from_secs(5);
    let runtime = net.runtime(&script).with_time_limit(limit).with_trace(trace);
    runtime.add(&net.list, &net.params).unwrap();
    runtime.check(&net.list, &net.params).unwrap();
    runtime.status(&net.list).unwrap();
    runtime.version("a").unwrap();
    runtime.gc(&net.list, &[]).unwrap();
    let calls = script.calls.borrow();
    assert_eq!(calls.len(), 6);
    for call in calls.iter() {
        assert_eq!((call.time_limit, &call.vars["TRACEPARENT"]), (Some(limit), &"00-trace-span-01".into()));
        assert_eq!((call.vars.get("TRACESTATE"), &call.vars["BAGGAGE"]), (None, &"k=v".into()));
    }
}

#[test]
fn an_operation_that_is_held_up_for_too_long_says_by_what() {
    let (net, script) = (Net::of_three(), Script::default());
    let runtime = net.runtime(&script).with_time_limit(Duration::from_millis(20));
    let network = net.cache.network_lock("net").unwrap();
    let attachment = net.cache.attachment_lock("net", &net.params).unwrap();
    let held = Lock::try_take(&attachment, Mode::Alone).unwrap();
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
    script.calls.take();
    let held = Lock::try_take(&network, Mode::Shared).unwrap();
    assert_eq!(Error::from(runtime.gc(&net.list, &[]).unwrap_err()).code(), 11);
    runtime.add(&net.list, &net.params).unwrap();
    drop(held);
    script.calls.take();
    let held = Lock::try_take(&network, Mode::Alone).unwrap();
    let error = Error::from(runtime.del(&net.list, &net.params).unwrap_err());
    assert!(error.code() == 11 && error.details().contains("locks/networks/net"), "{error}");
    assert!(script.calls().is_empty());
    drop(held);
    runtime.del(&net.list, &net.params).unwrap();
    assert!(!attachment.exists(), "nothing is left of an attachment that is gone");
}

#[test]
fn who_comes_after_a_waiting_gc_lets_it_go_first() {
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
fn only_del_and_check_go_on_where_no_lock_can_be_made() {
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
fn a_plugin_that_prints_no_result_fails_the_add() {
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
