//! The plugin side of the protocol, through [`Plugin::reply`].
//!
//! The same plugin is written in all styles, and each call must have the same reply in all of them.

use std::{
    cell::Cell,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use rscni::{Args, CNIResult, Error, Plugin, PluginInfo, Reply, Request, SpecVersion};
use rstest::rstest;
use serde_json::{Value, json};

const ABOUT: &str = "a plugin under test";

/// The plugin. The key `do` of its configuration selects its behaviour.
#[expect(clippy::needless_pass_by_value, reason = "it is the signature of a plugin's functions")]
fn act(args: Args) -> Result<CNIResult, Error> {
    let conf = args.conf()?;
    match conf.custom.get("do").and_then(Value::as_str) {
        Some("panic") => panic!("told to"),
        Some("panic with a number") => std::panic::panic_any(7),
        Some("fail") => Err(Error::TryAgainLater("the daemon is starting".into())),
        Some("fail without a text") => Err(Error::Custom(100, String::new(), String::new())),
        Some("print command and trace") => {
            let trace = args.trace.as_ref().map(|trace| (&*trace.parent, trace.state.as_deref()));
            Err(Error::Custom(200, String::new(), format!("{} {trace:?}", args.command)))
        }
        // Returns the arguments, for all commands.
        Some("print arguments") => Err(Error::Custom(
            200,
            format!(
                "{} {:?} {} {:?} {:?}",
                args.container_id, args.netns, args.ifname, args.args, args.path
            ),
            serde_json::to_string(conf)?,
        )),
        _ => Ok(conf.prev_result.clone().unwrap_or_default()),
    }
}

struct Style;

impl rscni::Cni for Style {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        act(args)
    }
    fn del(&self, args: Args) -> Result<(), Error> {
        act(args).map(drop)
    }
    fn check(&self, args: Args) -> Result<(), Error> {
        act(args).map(drop)
    }
    fn gc(&self, args: Args) -> Result<(), Error> {
        act(args).map(drop)
    }
    fn status(&self, args: Args) -> Result<(), Error> {
        act(args).map(drop)
    }
}

fn in_function_style(info: PluginInfo, request: &Request) -> Reply {
    Plugin::new(act, act, act, info, ABOUT)
        .gc(|args| act(args).map(drop))
        .status(|args| act(args).map(drop))
        .reply(request)
}

fn in_closure_style(info: PluginInfo, request: &Request) -> Reply {
    let count = Cell::new(0);
    let counted = |args| {
        count.set(count.get() + 1);
        act(args)
    };
    let no_result = |args| counted(args).map(drop);
    let plugin = Plugin::new(counted, counted, counted, info, ABOUT);
    let reply = plugin.gc(no_result).status(no_result).reply(request);
    assert!(count.get() <= 1);
    reply
}

fn in_trait_style(info: PluginInfo, request: &Request) -> Reply {
    Plugin::default().msg(ABOUT).versions(info).reply(&Style, request)
}

fn behind_pointers(info: PluginInfo, request: &Request) -> Reply {
    let plugin: Box<dyn rscni::Cni> = Box::new(std::sync::Arc::new(Style));
    Plugin::default().msg(ABOUT).versions(info).reply(&&plugin, request)
}

#[cfg(feature = "async")]
mod asynchronous {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    async fn act_later(args: Args) -> Result<CNIResult, Error> {
        // Pending once, so that `act` runs in the second poll.
        let mut polled = false;
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        act(args)
    }

    impl rscni::async_cni::Cni for Style {
        async fn add(&self, args: Args) -> Result<CNIResult, Error> {
            act_later(args).await
        }
        async fn del(&self, args: Args) -> Result<(), Error> {
            act_later(args).await.map(drop)
        }
        async fn check(&self, args: Args) -> Result<(), Error> {
            act_later(args).await.map(drop)
        }
        async fn gc(&self, args: Args) -> Result<(), Error> {
            act_later(args).await.map(drop)
        }
        async fn status(&self, args: Args) -> Result<(), Error> {
            act_later(args).await.map(drop)
        }
    }

    pub(crate) fn in_trait_style(info: PluginInfo, request: &Request) -> Reply {
        block_on(
            rscni::async_cni::Plugin::default().msg(ABOUT).versions(info).reply(&Style, request),
        )
    }

    pub(crate) fn in_function_style(info: PluginInfo, request: &Request) -> Reply {
        let plugin = rscni::async_cni::Plugin::new(act_later, act_later, act_later, info, ABOUT)
            .gc(async |args| act_later(args).await.map(drop))
            .status(|args| async { act_later(args).await.map(drop) });
        block_on(plugin.reply(request))
    }

    pub(crate) fn behind_pointers(info: PluginInfo, request: &Request) -> Reply {
        let plugin = std::sync::Arc::new(Box::new(Style));
        block_on(
            rscni::async_cni::Plugin::default().msg(ABOUT).versions(info).reply(&&plugin, request),
        )
    }

    /// A minimal executor.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
        }
    }
}

/// A call and the versions that the plugin supports.
#[derive(Clone)]
struct Call {
    request: Request,
    info: PluginInfo,
}

impl Call {
    /// A valid call.
    fn new(command: &str) -> Self {
        let vars = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/nowhere/netns"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
        ];
        let vars = vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        // Not `Request::new`, which looks for the namespace.
        let mut request = Request::default();
        request.vars = vars;
        Self { request, info: PluginInfo::default() }
            .config(&json!({ "cniVersion": "1.1.0", "name": "net" }))
    }

    fn var(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.request.vars.insert(name.into(), value.into());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.request.vars.remove(name);
        self
    }

    fn config(self, config: &Value) -> Self {
        self.stdin(config.to_string())
    }

    fn stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.request.stdin = stdin.into();
        self
    }

    fn in_own_netns(mut self) -> Self {
        self.request.netns_is_own = true;
        self
    }

    fn supporting(mut self, info: PluginInfo) -> Self {
        self.info = info;
        self
    }

    /// Returns the reply, which must be the same in all styles.
    fn reply(&self) -> Reply {
        let call =
            |style: fn(PluginInfo, &Request) -> Reply| style(self.info.clone(), &self.request);
        let reply = call(in_trait_style);
        #[cfg(feature = "async")]
        assert_eq!(call(asynchronous::in_trait_style), reply, "async trait");
        #[cfg(feature = "async")]
        assert_eq!(call(asynchronous::in_function_style), reply, "async functions");
        #[cfg(feature = "async")]
        assert_eq!(call(asynchronous::behind_pointers), reply, "async pointers");
        assert_eq!(call(in_function_style), reply, "functions");
        assert_eq!(call(in_closure_style), reply, "closures");
        assert_eq!(call(behind_pointers), reply, "pointers");
        reply
    }

    /// Returns the stdout of a call that must succeed.
    fn succeeds(&self) -> Vec<u8> {
        let reply = self.reply();
        assert_eq!((reply.error, reply.stderr.as_str()), (None, ""), "{:?}", self.request);
        reply.stdout
    }

    /// Returns `details` of a call that must fail with this code.
    fn fails(&self, code: u32) -> String {
        let reply = self.reply();
        assert_eq!(reply.exit_code(), 1, "{:?}", self.request);
        assert_eq!(reply.error.as_ref().map(Error::code), Some(code), "{reply:?}");
        let json: Value = serde_json::from_slice(&reply.stdout).expect("one JSON document");
        let keys: Vec<_> = json.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["cniVersion", "code", "msg", "details"]);
        assert_eq!(json["code"], code);
        let version = json["cniVersion"].as_str().unwrap();
        assert!(version.parse::<SpecVersion>().is_ok(), "{json}");
        json["details"].as_str().unwrap().to_owned()
    }

    /// Returns the arguments that the plugin gets.
    fn arguments(self) -> String {
        self.config(&doing("print arguments")).reply().error.unwrap().msg().to_owned()
    }
}

fn doing(behaviour: &str) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "type": "t", "do": behaviour })
}

const COMMANDS: [&str; 5] = ["ADD", "DEL", "CHECK", "GC", "STATUS"];

#[rstest]
#[case("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])]
#[case("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])]
#[case("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"])]
#[case("GC", &["CNI_PATH"])]
#[case("STATUS", &[])]
fn a_command_requires_only_its_variables(#[case] command: &str, #[case] required: &[&str]) {
    const ALL: [&str; 5] = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];
    for name in ALL {
        for call in [Call::new(command).without(name), Call::new(command).var(name, "")] {
            if required.contains(&name) {
                assert!(call.fails(4).contains(name));
            } else {
                call.succeeds();
            }
        }
    }
    let none = ALL.iter().fold(Call::new(command), |call, name| call.without(name));
    if required.is_empty() {
        none.succeeds();
    } else {
        let details = none.fails(4);
        for name in ALL {
            assert_eq!(details.contains(name), required.contains(&name), "{details}");
        }
    }
}

#[test]
fn names_are_validated_before_the_plugin_is_called() {
    for command in ["ADD", "DEL", "CHECK"] {
        for id in ["../../etc/passwd", "-a", "a b", "a/b", ".", "é", "a\n"] {
            let details = Call::new(command).var("CNI_CONTAINERID", id).fails(4);
            assert!(details.contains("CNI_CONTAINERID"), "{details}");
        }
        for ifname in ["sixteen-letters!", "a/b", "a b", "a:b", ".", "..", "a\t"] {
            assert!(Call::new(command).var("CNI_IFNAME", ifname).fails(4).contains("CNI_IFNAME"));
        }
    }
    for call in COMMANDS.map(Call::new) {
        for name in ["", "a b", "../x", "-n", "n/n"] {
            let config = json!({ "cniVersion": "1.1.0", "name": name });
            assert!(call.clone().config(&config).fails(7).contains("name"));
        }
        assert!(call.config(&json!({ "cniVersion": "1.1.0" })).fails(7).contains("name"));
    }
}

#[test]
fn gc_and_status_ignore_the_variables_of_an_attachment() {
    for command in ["GC", "STATUS"] {
        let call =
            Call::new(command).var("CNI_CONTAINERID", "../x").var("CNI_IFNAME", "/").in_own_netns();
        call.succeeds();
        let expected = r#" None  None ["/opt/cni/bin", "/usr/lib/cni"]"#;
        assert_eq!(call.arguments(), expected);
    }
}

#[test]
fn the_plugin_gets_the_variables_of_the_call() {
    let call = Call::new("ADD").var("CNI_ARGS", "A=1");
    let expected = r#"c1 Some("/nowhere/netns") eth0 Some("A=1") ["/opt/cni/bin", "/usr/lib/cni"]"#;
    assert_eq!(call.arguments(), expected);
    let call = Call::new("DEL").without("CNI_NETNS").without("CNI_PATH");
    assert_eq!(call.arguments(), "c1 None eth0 None []");
}

#[test]
fn commands_exist_from_the_version_that_added_them() {
    let since = [
        ("ADD", "0.1.0"),
        ("DEL", "0.1.0"),
        ("CHECK", "0.4.0"),
        ("GC", "1.1.0"),
        ("STATUS", "1.1.0"),
    ];
    for (command, since) in since {
        for version in SpecVersion::ALL {
            let call = Call::new(command).config(&json!({ "cniVersion": version, "name": "net" }));
            if version >= since.parse().unwrap() {
                let stdout = call.succeeds();
                assert_eq!(stdout.is_empty(), command != "ADD", "{command} in {version}");
            } else {
                let details = call.fails(1);
                assert!(details.contains(command) && details.contains(since), "{details}");
                assert_eq!(version_of(&call), version.as_str());
            }
        }
    }
}

/// Returns `cniVersion` of the reply.
fn version_of(call: &Call) -> String {
    let json: Value = serde_json::from_slice(&call.reply().stdout).unwrap();
    json["cniVersion"].as_str().unwrap().to_owned()
}

#[test]
fn unknown_versions_are_rejected() {
    for command in COMMANDS {
        for version in ["1.2.0", "1.3.0", "1.1", "0.5.0", "2.0.0", "v1.1.0", "latest"] {
            let call = Call::new(command).config(&json!({ "cniVersion": version, "name": "net" }));
            assert!(call.fails(1).contains(version));
        }
    }
    let call = Call::new("ADD").config(&json!({ "cniVersion": 1.1, "name": "net" }));
    assert!(call.fails(6).contains("cniVersion"));
}

#[test]
fn an_absent_version_is_the_oldest() {
    for config in [json!({ "name": "net" }), json!({ "name": "net", "cniVersion": "" })] {
        assert_eq!(Call::new("ADD").config(&config).succeeds(), br#"{"cniVersion":"0.1.0"}"#);
        Call::new("CHECK").config(&config).fails(1);
    }
}

#[test]
fn a_plugin_may_support_fewer_versions() {
    let old = Call::new("ADD").supporting(PluginInfo::since(SpecVersion::V1_0_0));
    old.clone().config(&json!({ "cniVersion": "1.0.0", "name": "net" })).succeeds();
    let details = old.clone().config(&json!({ "cniVersion": "0.4.0", "name": "net" })).fails(1);
    assert!(details.contains("0.4.0") && details.contains("1.0.0, 1.1.0"), "{details}");
    let version = old.var("CNI_COMMAND", "VERSION").succeeds();
    assert_eq!(version, br#"{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}"#);
}

#[test]
fn version_requires_only_the_command() {
    let mut call = Call::new("VERSION").stdin("");
    call.request.vars.retain(|name, _| name == "CNI_COMMAND");
    let expected = concat!(
        r#"{"cniVersion":"1.1.0","supportedVersions":"#,
        r#"["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
    );
    assert_eq!(call.succeeds(), expected.as_bytes());
    assert_eq!(call.stdin("garbage").in_own_netns().succeeds(), expected.as_bytes());
}

#[test]
fn a_call_without_a_command_prints_the_text_about_the_plugin() {
    let versions = "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0";
    for call in [Call::new("ADD").without("CNI_COMMAND"), Call::new("")] {
        let reply = call.reply();
        assert_eq!((reply.exit_code(), reply.stdout.as_slice()), (0, &b""[..]));
        let expected = format!("{ABOUT}\nCNI protocol versions supported: {versions}\n");
        assert_eq!(reply.stderr, expected);
    }
}

#[test]
fn an_unknown_command_is_rejected() {
    for command in ["add", "UPDATE", " ADD", "ADD\n"] {
        assert!(Call::new(command).fails(4).contains("CNI_COMMAND"), "{command:?}");
    }
    let call = Call::new("UPDATE").config(&json!({ "cniVersion": "0.4.0", "name": "net" }));
    assert_eq!(version_of(&call), "0.4.0");
}

#[test]
fn the_own_network_namespace_is_rejected_before_the_plugin_is_called() {
    let own = Call::new("ADD").in_own_netns().config(&doing("panic"));
    assert!(own.fails(8).contains("/nowhere/netns"));
    for no in ["0", "false", "", "yes", "2"] {
        own.clone().var("CNI_NETNS_OVERRIDE", no).fails(8);
    }
    for yes in ["1", "true", "TRUE", "True"] {
        own.clone().var("CNI_NETNS_OVERRIDE", yes).config(&doing("nothing")).succeeds();
    }
    Call::new("CHECK").in_own_netns().succeeds();
}

#[test]
fn del_in_the_own_network_namespace_gets_no_namespace() {
    let arguments = |call: Call| call.in_own_netns().arguments();
    assert_eq!(arguments(Call::new("DEL")), arguments(Call::new("DEL").without("CNI_NETNS")));
    assert!(arguments(Call::new("DEL").var("CNI_NETNS_OVERRIDE", "1")).contains("/nowhere/netns"));
}

#[test]
fn a_panic_is_an_error_reply() {
    for command in COMMANDS {
        let call = Call::new(command).config(&doing("panic"));
        assert_eq!(call.fails(999), "the plugin panicked: told to");
        let call = Call::new(command).config(&doing("panic with a number"));
        assert_eq!(call.fails(999), "the plugin panicked: without a message");
    }
}

#[test]
fn an_error_is_returned_unchanged() {
    for command in COMMANDS {
        assert_eq!(Call::new(command).config(&doing("fail")).fails(11), "the daemon is starting");
        assert_eq!(Call::new(command).config(&doing("fail without a text")).fails(100), "");
    }
}

#[test]
fn an_error_reply_has_the_version_of_the_configuration() {
    for version in SpecVersion::ALL {
        let config = |more: &Value| {
            let mut config = json!({ "cniVersion": version, "name": "net", "do": "fail" });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Call::new("ADD").config(&config)
        };
        for call in [
            config(&json!({})),
            config(&json!({ "do": "panic" })),
            config(&json!({ "name": "" })),
            config(&json!({ "ipMasq": "yes" })),
            config(&json!({ "prevResult": { "ips": 1 } })),
            config(&json!({})).without("CNI_IFNAME"),
            config(&json!({})).in_own_netns(),
            config(&json!({})).var("CNI_COMMAND", "NONE"),
        ] {
            assert_eq!(version_of(&call), version.as_str(), "{:?}", call.request);
        }
    }
    // The newest version, if the configuration has none that is known.
    for stdin in ["", "{", r#"{ "cniVersion": "9.9.9", "name": "net" }"#] {
        assert_eq!(version_of(&Call::new("ADD").stdin(stdin)), "1.1.0");
    }
}

#[test]
fn an_undecodable_configuration_is_code_6() {
    let other_json = ["null", "[]", "\"x\"", "17", "[{}]"];
    let not_json = ["", " ", "{", "{} {}", "{\"name\": }", "\u{feff}{}"];
    for command in COMMANDS {
        for stdin in other_json.into_iter().chain(not_json) {
            let details = Call::new(command).stdin(stdin).fails(6);
            assert!(details.contains("configuration"), "{stdin:?}");
        }
        Call::new(command).stdin(*b"\xff\xfe{}").fails(6);
        for (key, value) in [
            ("name", json!(1)),
            ("type", json!([])),
            ("ipam", json!("host-local")),
            ("dns", json!([])),
            ("args", json!(1)),
            ("runtimeConfig", json!([])),
            ("prevResult", json!({ "ips": [{ "address": "not an address" }] })),
        ] {
            let mut config = json!({ "cniVersion": "1.1.0", "name": "net" });
            config[key] = value;
            let call = Call::new(command).config(&config);
            // DEL ignores keys that it does not need.
            if command == "DEL" && !["name", "type"].contains(&key) {
                call.succeeds();
                continue;
            }
            let details = call.fails(6);
            assert!(details.contains(key), "{details}");
        }
    }
}

#[test]
fn deep_nesting_is_rejected_without_a_crash() {
    let deep = format!(r#"{{ "name": "net", "deep": {}"#, "[".repeat(1 << 20));
    Call::new("ADD").stdin(deep).fails(6);
}

#[test]
fn variables_that_are_not_utf8_are_rejected_if_they_are_used() {
    let bytes = OsStr::from_bytes(b"a\xff");
    for name in
        ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"]
    {
        assert!(Call::new("ADD").var(name, bytes).fails(4).contains(name));
    }
    Call::new("STATUS").var("CNI_CONTAINERID", bytes).succeeds();
    Call::new("ADD").var("CNI_OTHER", bytes).succeeds();
}

#[test]
fn the_plugin_gets_its_command_and_the_trace_of_the_call() {
    for command in COMMANDS {
        let call = Call::new(command).config(&doing("print command and trace"));
        assert_eq!(call.fails(200), format!("{command} None"));
        let call = Call::new(command)
            .config(&doing("print command and trace"))
            .var("TRACEPARENT", "00-a-b-01")
            .var("TRACESTATE", "vendor=1");
        let expected = format!(r#"{command} Some(("00-a-b-01", Some("vendor=1")))"#);
        assert_eq!(call.fails(200), expected);
    }
}

#[test]
fn all_keys_reach_the_plugin_in_order() {
    let text = concat!(
        r#"{"cniVersion":"1.1.0","name":"net","type":"t","ipam":{},"dns":{"search":["x"]},"#,
        r#""zebra":1,"do":"print arguments","ape":{"y":[1,2.5,null],"x":18446744073709551615},"#,
        r#""Mouse":"é\n"}"#
    );
    for command in COMMANDS {
        assert_eq!(Call::new(command).stdin(text).fails(200), text);
    }
}

#[test]
fn empty_and_null_objects_are_accepted() {
    for command in COMMANDS {
        for part in [json!({}), Value::Null] {
            let config = json!({
                "cniVersion": "1.1.0", "name": "net", "ipam": part, "dns": part, "args": part,
                "runtimeConfig": part, "capabilities": part,
            });
            Call::new(command).config(&config).succeeds();
        }
    }
    let empty_result =
        json!({ "cniVersion": "1.1.0", "name": "net", "prevResult": { "cniVersion": "1.1.0" } });
    assert_eq!(Call::new("ADD").config(&empty_result).succeeds(), br#"{"cniVersion":"1.1.0"}"#);
}

#[test]
fn a_configuration_of_a_megabyte_is_accepted() {
    let blob = "x".repeat(1 << 20);
    let mut config = doing("print arguments");
    config["blob"] = blob.as_str().into();
    assert!(Call::new("ADD").config(&config).fails(200).contains(&blob));
    let many: serde_json::Map<_, _> =
        (0..100_000).map(|n| (format!("key-{n}"), n.into())).collect();
    let config = json!({ "cniVersion": "1.1.0", "name": "net", "many": many });
    Call::new("ADD").config(&config).succeeds();
}

#[test]
fn ips_of_a_result_have_the_shape_of_the_version() {
    let ips =
        json!([{ "address": "10.0.0.2/24", "gateway": "10.0.0.1" }, { "address": "fd00::2/64" }]);
    for version in SpecVersion::ALL {
        let config = json!({ "cniVersion": version, "name": "net", "prevResult": { "ips": ips } });
        let stdout = Call::new("ADD").config(&config).succeeds();
        let reply: Value = serde_json::from_slice(&stdout).unwrap();
        assert_eq!(reply["cniVersion"], version.as_str());
        match version.as_str() {
            "0.1.0" | "0.2.0" => {
                assert_eq!(reply["ip4"], json!({ "ip": "10.0.0.2/24", "gateway": "10.0.0.1" }));
                assert_eq!(reply["ip6"], json!({ "ip": "fd00::2/64" }));
                assert!(reply.get("ips").is_none());
            }
            "0.3.0" | "0.3.1" | "0.4.0" => {
                assert_eq!(
                    (&reply["ips"][0]["version"], &reply["ips"][1]["version"]),
                    (&json!("4"), &json!("6"))
                );
            }
            _ => assert_eq!(reply["ips"], ips),
        }
    }
}

#[test]
fn gc_and_status_of_three_functions_succeed_without_a_call() {
    let plugin = Plugin::new(act, act, act, PluginInfo::default(), ABOUT);
    for command in ["GC", "STATUS"] {
        let call = Call::new(command).config(&doing("panic"));
        assert_eq!(plugin.reply(&call.request), Reply::default());
    }
}
