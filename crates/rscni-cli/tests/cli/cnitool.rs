//! The binary under the name `cnitool`.

use std::{os::unix::process::CommandExt, process::Command};

use crate::world::{RSCNI, Ran, World, run};

/// `cnitool` with these arguments in a mount namespace where /var/lib is empty, since it has libcni's cache there.
fn cnitool(world: &World, arguments: &[&str], vars: &[(&str, &str)]) -> Ran {
    let bin = world.path("cnitool");
    if !bin.exists() {
        std::os::unix::fs::symlink(RSCNI, &bin).unwrap();
    }
    let script = "mount -t tmpfs tmpfs /var/lib && mkdir -p \"$0/lib\" && mount --bind \"$0/lib\" /var/lib && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script]).arg(world.path("")).arg(bin).args(arguments);
    command.env("NETCONFPATH", world.path("net.d")).env("CNI_PATH", world.path("bin"));
    run(command.envs(vars.iter().copied()))
}

#[test]
fn its_command_lines_are_gos() {
    let world = World::new();
    let netns = world.path("netns");
    let netns = netns.to_str().unwrap();
    let vars = [
        ("CNI_ARGS", "IgnoreUnknown=1;K=v"),
        ("CAP_ARGS", r#"{"mac":"00:11"}"#),
        ("CNI_IFNAME", "net1"),
    ];
    let added = cnitool(&world, &["add", "mynet", netns], &vars).succeeded();
    assert_eq!(added.json()["ips"][0]["address"], "10.0.0.3/24");
    cnitool(&world, &["check", "mynet", netns], &vars).succeeded();
    cnitool(&world, &["del", "mynet", netns], &vars).succeeded();
    assert_eq!(world.order().len(), 6);
    let told = world.vars("ADD-first");
    let [id, path, ifname, _, args] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    assert!(id.starts_with("cnitool-") && id.len() == 28, "{id}");
    assert_eq!((path, ifname, args), (netns, "net1", "IgnoreUnknown=1;K=v"));
    assert_eq!(world.config("ADD-second")["runtimeConfig"]["mac"], "00:11");
    assert!(world.config("CHECK-second")["prevResult"].is_object());
}

#[test]
fn what_it_attaches_rscni_detaches() {
    let world = World::new();
    cnitool(
        &world,
        &["add", "mynet", world.path("netns").to_str().unwrap(), "--ifname", "net2"],
        &[],
    )
    .succeeded();
    std::fs::rename(world.path("lib/cni"), world.path("cache")).unwrap();
    world.rscni("del", "mynet", &["--ifname", "net2"]).succeeded();
    assert_eq!(world.vars("ADD-first"), world.vars("DEL-first"));
    assert!(world.config("DEL-first")["prevResult"].is_object());
}

#[test]
fn gc_removes_every_attachment_and_status_asks_the_plugins() {
    let world = World::new();
    let plugins = serde_json::json!([{ "type": "first" }, { "type": "second" }]);
    world.network(
        "10-mynet.conflist",
        &serde_json::json!({ "cniVersion": "1.1.0", "name": "mynet", "plugins": plugins }),
    );
    // Given as a path that is not clean, and collected under another.
    let netns = format!("{}/./netns", world.path("").display());
    cnitool(&world, &["add", "mynet", &netns], &[]).succeeded();
    for command in ["status", "gc", "gc"] {
        let ran = cnitool(&world, &[command, "mynet", "/anything"], &[]).succeeded();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{command}");
        assert_eq!(cnitool(&world, &[command, "mynet"], &[]).status, 1);
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
    assert_eq!(world.order()[2..], calls);
    assert_eq!(world.config("GC-first")["cni.dev/valid-attachments"], serde_json::json!([]));

    world.plugin("first", r#"echo '{ "code": 50, "msg": "not now" }'; exit 1"#);
    for command in ["status", "gc"] {
        let ran = cnitool(&world, &[command, "mynet", "/anything"], &[]);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{command}");
        assert!(ran.stderr.contains("not now"), "{}", ran.stderr);
    }
}

#[test]
fn what_it_attaches_rscni_lists_and_collects() {
    let world = World::new();
    cnitool(&world, &["add", "mynet", world.path("netns").to_str().unwrap()], &[]).succeeded();
    std::fs::rename(world.path("lib/cni"), world.path("cache")).unwrap();
    let listed = world.call(&["ls", "-o", "json"]).succeeded().json();
    let id = listed["attachments"][0]["containerID"].as_str().unwrap().to_owned();
    assert!(id.starts_with("cnitool-") && id.len() == 28, "{id}");
    world.call(&["gc", "mynet", "--valid", &format!("{id}/eth0")]).succeeded();
    assert_eq!(world.order().len(), 2);
    let ran = world.call(&["gc", "mynet", "--auto"]).succeeded();
    assert!(
        ran.stdout.starts_with(&format!("removed {id}/eth0 10.0.0.3/24: its namespace ")),
        "{}",
        ran.stdout
    );
    assert_eq!(world.order()[2..], ["DEL second", "DEL first"]);
    assert_eq!(world.vars("ADD-first"), world.vars("DEL-first"));
}

#[test]
fn errors_are_on_stderr_with_status_1() {
    let world = World::new();
    let unknown = ["check", "mynet", "/never/attached"];
    for arguments in [
        &["add", "none", "/x"][..],
        &unknown,
        &["add", "mynet"],
        &["frobnicate"],
        &["completion", "tcsh"],
    ] {
        let ran = cnitool(&world, arguments, &[]);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{arguments:?}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "{arguments:?}");
    }
    let help = run(Command::new(RSCNI).arg0("cnitool").arg("--help")).succeeded();
    assert!(
        help.stdout.contains("NETCONFPATH") && help.stdout.contains("check"),
        "{}",
        help.stdout
    );
}

#[test]
fn what_go_does_without_a_command_or_with_words_too_many() {
    let world = World::new();
    // A command that only has others prints its help.
    for (arguments, text) in [
        (&[][..], "NETCONFPATH"),
        (&["help"], "NETCONFPATH"),
        (&["completion"], "powershell"),
        (&["help", "completion"], "powershell"),
        (&["add", "--help"], "NETWORK-NAME"),
    ] {
        let ran = cnitool(&world, arguments, &[]).succeeded();
        assert!(ran.stdout.contains(text) && ran.stderr.is_empty(), "{arguments:?}: {ran:?}");
    }
    let netns = world.path("netns");
    let netns = netns.to_str().unwrap();
    cnitool(&world, &["add", "mynet", netns, "more", "words"], &[]).succeeded();
    cnitool(&world, &["-i", "net1", "add", "mynet", netns], &[]).succeeded();
    assert!(world.vars("ADD-first").contains(" net1 "), "{}", world.vars("ADD-first"));
    cnitool(&world, &["del", "mynet", "-i=net1", netns], &[]).succeeded();
}

/// A command of cnitool, without its cache.
fn plain(arguments: &[&str]) -> Ran {
    run(Command::new(RSCNI).arg0("cnitool").args(arguments))
}

#[test]
fn completion_is_printed_for_four_shells() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = plain(&["completion", shell]).succeeded().stdout;
        for word in ["cnitool", "check", "status", "completion", "ifname"] {
            assert!(script.contains(word), "{shell}: {word}: {script}");
        }
        let short = plain(&["completion", shell, "--no-descriptions"]).succeeded().stdout;
        assert!(!short.contains("whatever the namespace"), "{shell}: {short}");
        assert!(shell == "bash" || script.contains("whatever the namespace"), "{shell}: {script}");
    }
    // As bash calls it when Tab is pressed behind these words.
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
        let ran = run(Command::new("bash").args(["-c", &typed, RSCNI])).succeeded();
        assert_eq!(ran.stdout.trim(), completed, "{words}: {}", ran.stderr);
    }
    let help = plain(&["completion", "zsh", "--help"]).succeeded().stdout;
    assert!(help.contains("--no-descriptions"), "{help}");
}
