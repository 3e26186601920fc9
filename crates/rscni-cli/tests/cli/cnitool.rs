//! The binary called as `cnitool`.

use std::{os::unix::process::CommandExt, process::Command};

use serde_json::json;

use crate::fixture::{CommandOutput, Fixture, RSCNI, run};

/// Runs `cnitool` in a mount namespace with an empty /var/lib, which has libcni's cache.
fn cnitool(fixture: &Fixture, arguments: &[&str], vars: &[(&str, &str)]) -> CommandOutput {
    let bin = fixture.path("cnitool");
    if !bin.exists() {
        std::os::unix::fs::symlink(RSCNI, &bin).unwrap();
    }
    let script = "mount -t tmpfs tmpfs /var/lib && mkdir -p \"$0/lib\" && \
                  mount --bind \"$0/lib\" /var/lib && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script]).arg(fixture.path("")).arg(bin).args(arguments);
    command.env("NETCONFPATH", fixture.path("net.d")).env("CNI_PATH", fixture.path("bin"));
    run(command.envs(vars.iter().copied()))
}

#[test]
fn command_lines_equal_those_of_go() {
    let fixture = Fixture::new();
    let netns = fixture.path("netns");
    let netns = netns.to_str().unwrap();
    let vars = [
        ("CNI_ARGS", "IgnoreUnknown=1;K=v"),
        ("CAP_ARGS", r#"{"mac":"00:11"}"#),
        ("CNI_IFNAME", "net1"),
    ];
    let added = cnitool(&fixture, &["add", "mynet", netns], &vars).succeeded();
    assert_eq!(added.json()["ips"][0]["address"], "10.0.0.3/24");
    cnitool(&fixture, &["check", "mynet", netns], &vars).succeeded();
    cnitool(&fixture, &["del", "mynet", netns], &vars).succeeded();
    assert_eq!(fixture.order().len(), 6);
    let told = fixture.vars("ADD-first");
    let [id, path, ifname, _, args] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    assert!(id.starts_with("cnitool-") && id.len() == 28, "{id}");
    assert_eq!((path, ifname, args), (netns, "net1", "IgnoreUnknown=1;K=v"));
    assert_eq!(fixture.config("ADD-second")["runtimeConfig"]["mac"], "00:11");
    assert!(fixture.config("CHECK-second")["prevResult"].is_object());
}

#[test]
fn rscni_detaches_what_cnitool_attached() {
    let fixture = Fixture::new();
    cnitool(
        &fixture,
        &["add", "mynet", fixture.path("netns").to_str().unwrap(), "--ifname", "net2"],
        &[],
    )
    .succeeded();
    std::fs::rename(fixture.path("lib/cni"), fixture.path("cache")).unwrap();
    fixture.rscni("del", "mynet", &["--ifname", "net2"]).succeeded();
    assert_eq!(fixture.vars("ADD-first"), fixture.vars("DEL-first"));
    assert!(fixture.config("DEL-first")["prevResult"].is_object());
}

#[test]
fn gc_removes_every_attachment_and_status_calls_the_plugins() {
    let fixture = Fixture::new();
    fixture.mynet("1.1.0", &json!([{ "type": "first" }, { "type": "second" }]));
    // GC ignores the namespace, and paths need not be clean.
    let netns = format!("{}/./netns", fixture.path("").display());
    cnitool(&fixture, &["add", "mynet", &netns], &[]).succeeded();
    for command in ["status", "gc", "gc"] {
        let out = cnitool(&fixture, &[command, "mynet", "/anything"], &[]).succeeded();
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("", ""), "{command}");
        assert_eq!(cnitool(&fixture, &[command, "mynet"], &[]).status, 1);
    }
    let calls = [
        "STATUS first",
        "STATUS second",
        "DEL second",
        "DEL first",
        "GC first",
        "GC second",
        "GC first",
        "GC second",
    ];
    assert_eq!(fixture.order()[2..], calls);
    assert_eq!(fixture.config("GC-first")["cni.dev/valid-attachments"], json!([]));

    fixture.plugin("first", r#"echo '{ "code": 50, "msg": "not now" }'; exit 1"#);
    for command in ["status", "gc"] {
        let out = cnitool(&fixture, &[command, "mynet", "/anything"], &[]);
        assert_eq!((out.status, out.stdout.as_str()), (1, ""), "{command}");
        assert!(out.stderr.contains("not now"), "{}", out.stderr);
    }
}

#[test]
fn rscni_lists_and_collects_what_cnitool_attached() {
    let fixture = Fixture::new();
    cnitool(&fixture, &["add", "mynet", fixture.path("netns").to_str().unwrap()], &[]).succeeded();
    std::fs::rename(fixture.path("lib/cni"), fixture.path("cache")).unwrap();
    let listed = fixture.call(&["ls", "-o", "json"]).succeeded().json();
    let id = listed["attachments"][0]["containerID"].as_str().unwrap().to_owned();
    assert!(id.starts_with("cnitool-") && id.len() == 28, "{id}");
    fixture.call(&["gc", "mynet", "--valid", &format!("{id}/eth0")]).succeeded();
    assert_eq!(fixture.order().len(), 2);
    let out = fixture.call(&["gc", "mynet", "--auto"]).succeeded();
    assert!(
        out.stdout.starts_with(&format!("removed {id}/eth0 10.0.0.3/24: its namespace ")),
        "{}",
        out.stdout
    );
    assert_eq!(fixture.order()[2..], ["DEL second", "DEL first"]);
    assert_eq!(fixture.vars("ADD-first"), fixture.vars("DEL-first"));
}

#[test]
fn errors_are_on_stderr_with_status_1() {
    let fixture = Fixture::new();
    let unknown = ["check", "mynet", "/never/attached"];
    for arguments in [
        &["add", "none", "/x"][..],
        &unknown,
        &["add", "mynet"],
        &["frobnicate"],
        &["completion", "tcsh"],
    ] {
        let out = cnitool(&fixture, arguments, &[]);
        assert_eq!((out.status, out.stdout.as_str()), (1, ""), "{arguments:?}: {out:?}");
        assert!(!out.stderr.is_empty(), "{arguments:?}");
    }
    let help = run(Command::new(RSCNI).arg0("cnitool").arg("--help")).succeeded();
    assert!(
        help.stdout.contains("NETCONFPATH") && help.stdout.contains("check"),
        "{}",
        help.stdout
    );
}

#[test]
fn missing_commands_print_help_and_extra_words_are_ignored() {
    let fixture = Fixture::new();
    // A command with subcommands prints its help.
    for (arguments, text) in [
        (&[][..], "NETCONFPATH"),
        (&["help"], "NETCONFPATH"),
        (&["completion"], "powershell"),
        (&["help", "completion"], "powershell"),
        (&["add", "--help"], "NETWORK-NAME"),
    ] {
        let out = cnitool(&fixture, arguments, &[]).succeeded();
        assert!(out.stdout.contains(text) && out.stderr.is_empty(), "{arguments:?}: {out:?}");
    }
    let netns = fixture.path("netns");
    let netns = netns.to_str().unwrap();
    cnitool(&fixture, &["add", "mynet", netns, "more", "words"], &[]).succeeded();
    cnitool(&fixture, &["-i", "net1", "add", "mynet", netns], &[]).succeeded();
    assert!(fixture.vars("ADD-first").contains(" net1 "), "{}", fixture.vars("ADD-first"));
    cnitool(&fixture, &["del", "mynet", "-i=net1", netns], &[]).succeeded();
}

/// Runs a command of cnitool that needs no cache.
fn plain(arguments: &[&str]) -> CommandOutput {
    run(Command::new(RSCNI).arg0("cnitool").args(arguments))
}

#[test]
fn completion_supports_four_shells() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = plain(&["completion", shell]).succeeded().stdout;
        for word in ["cnitool", "check", "status", "completion", "ifname"] {
            assert!(script.contains(word), "{shell}: {word}: {script}");
        }
        let short = plain(&["completion", shell, "--no-descriptions"]).succeeded().stdout;
        assert!(!short.contains("in any namespace"), "{shell}: {short}");
        assert!(shell == "bash" || script.contains("in any namespace"), "{shell}: {script}");
    }
    // Bash makes this call when Tab is pressed after the words.
    for (words, completed) in [
        ("che", "check"),
        ("st", "status"),
        ("comp", "completion"),
        ("completion po", "powershell"),
    ] {
        let last = words.rsplit(' ').next().unwrap();
        let typed = format!(
            "eval \"$(exec -a cnitool \"$0\" completion bash)\"; COMP_WORDS=(cnitool {words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _cnitool cnitool {last} cnitool; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let out = run(Command::new("bash").args(["-c", &typed, RSCNI])).succeeded();
        assert_eq!(out.stdout.trim(), completed, "{words}: {}", out.stderr);
    }
    let help = plain(&["completion", "zsh", "--help"]).succeeded().stdout;
    assert!(help.contains("--no-descriptions"), "{help}");
}
