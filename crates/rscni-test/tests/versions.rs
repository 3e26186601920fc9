//! Plugins that support every version, or claim to. They are shell scripts without a private
//! network.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::Command,
};

use rscni_test::{Chain, Container, Plugin, VERSIONS, Versions, result_in};
use serde_json::json;

/// A plugin that conforms to the specification.
const RIGHT: &str = r#"#!/bin/sh
input=$(cat)
version=$(expr "$input" : '{"cniVersion":"\([^"]*\)"')
fail() {
    echo "{\"cniVersion\":\"$version\",\"code\":$1,\"msg\":\"failed\"}"
    exit 1
}
case $version in
    0.[1-2].0 | 0.3.[0-1]) known="ADD DEL VERSION" ;;
    0.4.0 | 1.0.0) known="ADD DEL CHECK VERSION" ;;
    1.1.0) known="ADD DEL CHECK GC STATUS VERSION" ;;
esac
case " $known " in *" $CNI_COMMAND "*) ;; *) fail 1 ;; esac
case $CNI_COMMAND,$input in
    VERSION,*)
        echo '{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
    ADD,*prevResult*) echo "$input" | sed 's/.*"prevResult"://; s/}$//' ;;
    ADD,*) echo "{\"cniVersion\":\"$version\"}" ;;
esac
"#;

/// Writes the plugin with `from` replaced by `to`.
fn plugin(from: &str, to: &str) -> (tempfile::TempDir, PathBuf) {
    assert!(RIGHT.contains(from), "{from}");
    write(&RIGHT.replace(from, to))
}

fn write(script: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("plugin");
    // Another process writes the file. If it were open here while another test starts a process,
    // the kernel would refuse to execute it (ETXTBSY).
    let write = ["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""];
    let status = Command::new("sh").args(write).arg(&program).arg(script).status().unwrap();
    assert!(status.success());
    (directory, program)
}

#[test]
fn a_plugin_that_speaks_every_version_passes() {
    let (_directory, program) = plugin("", "");
    Versions::of(program).speak();
}

#[test]
fn a_plugin_that_must_be_chained_passes_if_the_test_says_so() {
    let (_directory, program) =
        plugin("ADD,*) echo \"{\\\"cniVersion\\\":\\\"$version\\\"}\"", "ADD,*) fail 7");
    Versions::of(&program).must_be_chained().speak();
    assert!(
        complaint(&Versions::of(&program))
            .contains("expected success, but it ended with exit status: 1")
    );
}

/// The plugin without versions before 0.4.0.
fn from_0_4_0() -> String {
    let script =
        RIGHT.replace("0.[1-2].0 | 0.3.[0-1]) known=\"ADD DEL VERSION\"", "0.[1-3].*) known=");
    script.replace("\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",", "")
}

#[test]
fn a_plugin_that_supports_fewer_versions_passes_with_these() {
    let (_directory, program) = write(&from_0_4_0());
    Versions::of(&program).only(&["1.1.0", "0.4.0", "1.0.0"]).speak();
    let text = complaint(&Versions::of(&program));
    assert!(text.contains("CNI_COMMAND=VERSION"), "{text}");
    // A plugin that supports more than it reports.
    let (_directory, program) = plugin("\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",", "");
    let text = complaint(&Versions::of(program).only(&VERSIONS[4..]));
    assert!(
        text.contains("expected error 1") && text.contains("\"cniVersion\":\"0.1.0\""),
        "{text}"
    );
}

/// In the namespace, ADD brings up `lo`, CHECK looks whether it is up, and DEL sets it down.
const LOOPBACK: &str = r#"inside() { nsenter --net="$CNI_NETNS" ip link "$@"; }
case $CNI_COMMAND in
    ADD) inside set "$CNI_IFNAME" up || fail 5 ;;
    CHECK) inside show "$CNI_IFNAME" | grep -q ,UP || fail 100 ;;
    DEL) [ -z "$CNI_NETNS" ] || inside set "$CNI_IFNAME" down || fail 5 ;;
esac
case $CNI_COMMAND,$input in
    ADD,*prevResult*) ;;
    ADD,*) echo "{\"cniVersion\":\"$version\",\"interfaces\":[{\"name\":\"lo\"}]}"; exit ;;
esac
case $CNI_COMMAND,$input in
"#;

#[test]
fn a_plugin_that_enters_the_namespace_passes_in_a_lab() {
    rscni_test::run(|lab| {
        let script = from_0_4_0().replace("case $CNI_COMMAND,$input in\n", LOOPBACK);
        let (_directory, program) = write(&script);
        let versions = Versions::of(&program).only(&VERSIONS[4..]).ifname("lo");
        let before = lab.snapshot().ignoring("namespace other");
        let mut seen = Vec::new();
        versions.speak_in(lab, |version, reply| {
            assert_eq!(reply.interfaces(), ["lo"]);
            seen.push(version.to_owned());
        });
        assert_eq!(seen, VERSIONS[4..]);
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_chained_plugin_gets_the_result_of_its_chain() {
    rscni_test::run(|lab| {
        let (_one, first) = write(&RIGHT.replace("case $CNI_COMMAND,$input in\n", LOOPBACK));
        lab.install("loopback", first);
        let add = "ADD,*) echo \"{\\\"cniVersion\\\":\\\"$version\\\"}\"";
        let (_two, chained) = write(&from_0_4_0().replace(add, "ADD,*) fail 7"));
        let chain = Chain::new("net").plugin(json!({ "type": "loopback" }));
        let versions = Versions::of(&chained).only(&VERSIONS[4..]).ifname("lo").must_be_chained();
        versions.after(chain).speak_in(lab, |_, reply| assert_eq!(reply.interfaces(), ["lo"]));
    });
}

#[test]
fn a_result_of_another_version_is_reported_with_its_faults() {
    rscni_test::run(|lab| {
        let ips = "ADD,*) echo \"{\\\"ips\\\":[{\\\"address\\\":\\\"10.1.0.5/16\\\"}],";
        let (_directory, program) = plugin("ADD,*) echo \"{", ips);
        let text = panic_of(|| Versions::of(&program).speak_in(lab, |_, _| ()));
        assert!(text.starts_with("ips requires 0.3.0"), "{text}");
    });
}

#[test]
fn missing_versions_are_reported() {
    for (from, to, told) in [
        ("\"0.1.0\",\"0.2.0\"", "\"0.2.0\"", "CNI_COMMAND=VERSION"),
        (
            "\"prevResult\"://; ",
            "\"prevResult\"://; s/2[/]16/3\\/16/; s/5[/]16/6\\/16/; ",
            "10.1.0.6/16",
        ),
        ("ADD,*) echo \"{", "ADD,*) echo \"{\\\"ips\\\":[],", "\"ips\""),
        ("ADD,*) echo", "DEL,*) echo done ;; ADD,*) echo", "DEL must print nothing"),
        (
            "0.[1-2].0 | 0.3.[0-1]) known=\"ADD",
            "0.[1-2].0 | 0.3.[0-1]) known=\"CHECK ADD",
            "CNI_COMMAND=CHECK",
        ),
        ("1.0.0) known=\"ADD", "1.0.0) known=\"GC ADD", "CNI_COMMAND=GC"),
        ("    1.1.0)", "    *)", "\"cniVersion\":\"1.2.0\""),
        (
            "{\\\"cniVersion\\\":\\\"$version\\\",\\\"code",
            "{\\\"cniVersion\\\":\\\"1.1.0\\\",\\\"code",
            "0.1.0",
        ),
    ] {
        let (_directory, program) = plugin(from, to);
        let text = complaint(&Versions::of(program));
        assert!(text.contains(told), "{to}: {text}");
    }
}

/// Message for a plugin that does not support every version.
fn complaint(versions: &Versions) -> String {
    panic_of(|| versions.speak())
}

fn panic_of(speak: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(speak)).expect_err("the plugin passed");
    panic.downcast_ref::<String>().expect("a message").clone()
}

#[test]
fn keys_of_the_plugin_and_a_previous_result_stand_in_the_configuration() {
    let (_directory, program) = plugin("", "");
    let versions = Versions::of(program).key("cniOutput", "/tmp/cni");
    let result = result_in("0.2.0");
    assert_eq!(
        versions.config("0.2.0", Some(&result)),
        json!({ "cniVersion": "0.2.0", "name": "net", "type": "plugin", "cniOutput": "/tmp/cni", "prevResult": result })
    );
    for version in VERSIONS {
        assert_eq!(result_in(version)["cniVersion"], version);
    }
}

#[test]
fn a_plugin_can_be_called_where_the_test_is() {
    let (directory, program) = plugin("input=$(cat)", "env | grep ^CNI_ | sort >&2; input=$(cat)");
    let container = Container::at("c1", "/nowhere/netns");
    let config = json!({ "cniVersion": "1.1.0", "name": "net", "type": "plugin" });
    let outcome = Plugin::at(program).del(&container, "eth0", &config);
    outcome.success();
    let path = format!("CNI_PATH={}", directory.path().display());
    let expected = [
        "CNI_COMMAND=DEL",
        "CNI_CONTAINERID=c1",
        "CNI_IFNAME=eth0",
        "CNI_NETNS=/nowhere/netns",
        path.as_str(),
    ];
    assert_eq!(outcome.stderr().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_error_reply_before_an_abort_counts_and_before_another_signal_does_not() {
    for (signal, counts) in [("ABRT", true), ("SEGV", false)] {
        let (_directory, program) = plugin("exit 1", &format!("kill -{signal} $$"));
        let config = json!({ "cniVersion": "1.3.0", "name": "net", "type": "plugin" });
        let outcome = Plugin::at(program).status(&config);
        let judged = catch_unwind(|| outcome.error(1).code());
        assert_eq!(judged.is_ok(), counts, "{outcome}");
    }
}
