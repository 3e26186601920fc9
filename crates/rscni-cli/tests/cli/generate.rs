//! Shell completions and manual pages.

use std::process::Command;

use crate::fixture::{RSCNI, run};

#[test]
fn completions_have_the_commands_and_work_in_bash() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = run(Command::new(RSCNI).args(["completions", shell])).succeeded().stdout;
        assert!(script.contains("create-netns") && script.contains("install"), "{shell}: {script}");
    }
    // Bash makes this call when Tab is pressed after `rscni che`.
    let typed = "eval \"$(\"$0\" completions bash)\"; COMP_WORDS=(rscni che); COMP_CWORD=1; \
                 _rscni rscni che rscni; echo \"${COMPREPLY[@]}\"";
    let out = run(Command::new("bash").args(["-c", typed, RSCNI])).succeeded();
    assert_eq!(out.stdout.trim(), "check", "{}", out.stderr);
    assert_eq!(run(Command::new(RSCNI).args(["completions", "tcsh"])).status, 2);
}

#[test]
fn every_command_has_a_manual_page() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("man1");
    run(Command::new(RSCNI).arg("man").arg(&dir)).succeeded();
    for (page, text) in [
        ("rscni.1", "Examples"),
        ("rscni-add.1", "create\\-netns"),
        ("cnitool.1", "NETCONFPATH"),
        ("rscni-man.1", "DIR"),
    ] {
        let written = std::fs::read_to_string(dir.join(page)).unwrap();
        assert!(
            written.starts_with(".ie") && written.contains(".TH ") && written.contains(text),
            "{page}: {written}"
        );
    }
    std::fs::write(temp.path().join("file"), "").unwrap();
    let out = run(Command::new(RSCNI).arg("man").arg(temp.path().join("file")));
    assert!(out.status == 1 && out.stderr.contains("(code 5)"), "{}", out.stderr);
}
