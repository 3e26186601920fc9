//! Rules in snapshots, compared with `nft list ruleset`.

use std::process::Command;

use rscni_test::Lab;

/// Runs `nft`, which must succeed, and returns what it prints.
fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().expect("start nft");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Loads a ruleset.
fn load(lab: &Lab, rules: &str) {
    let file = lab.dir().join("rules.nft");
    std::fs::write(&file, rules).unwrap();
    nft(&["-f", file.to_str().unwrap()]);
}

/// The lines of a snapshot for what `nft` lists, sorted.
fn listed_by_nft() -> Vec<String> {
    let text = nft(&["--stateless", "list", "ruleset"]).replace(",\n\t\t\t     ", ", ");
    let (mut table, mut object, mut properties) = (String::new(), String::new(), Vec::new());
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim) {
        let line = line.trim_end_matches(';').to_owned();
        if let Some(name) = line.strip_prefix("table ") {
            name.trim_end_matches(" {").clone_into(&mut table);
            lines.push(format!("table {table}"));
        } else if let Some((kind, name)) = line.strip_suffix(" {").and_then(|it| it.split_once(' '))
        {
            object = format!("{kind} {table} {name}");
        } else if let Some(elements) = line.strip_prefix("elements = { ") {
            let set = object.split_once(' ').unwrap().1;
            let elements = elements.trim_end_matches(" }").split(", ");
            lines.extend(elements.map(|element| format!("element {set}: {element}")));
        } else if line == "}" && !object.is_empty() {
            let properties = std::mem::take(&mut properties).join("; ");
            let shown =
                if properties.is_empty() { String::new() } else { format!(" ({properties})") };
            lines.push(std::mem::take(&mut object) + &shown);
        } else if object.starts_with("chain") && !line.starts_with("type ") {
            lines.push(object.replacen("chain", "rule", 1) + ": " + &line);
        } else if !line.is_empty() && line != "}" {
            properties.push(line);
        }
    }
    lines.sort();
    lines
}

/// The lines of a snapshot about nftables, sorted.
fn listed_by_us(lab: &Lab) -> Vec<String> {
    let text = lab.snapshot().to_string();
    let mut lines: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("host: nft "))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

#[test]
fn rules_are_shown_as_nft_shows_them() {
    rscni_test::run(|lab| {
        load(lab, include_str!("rules.nft"));
        let (ours, theirs) = (listed_by_us(lab), listed_by_nft());
        let missing: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
        let wrong: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
        assert!(missing.is_empty() && wrong.is_empty(), "nft: {missing:#?}\nsnapshot: {wrong:#?}");
        assert_eq!(ours.len(), theirs.len());
    });
}

#[test]
fn expressions_without_syntax_are_shown_with_their_attributes() {
    rscni_test::run(|lab| {
        load(
            lab,
            "table ip t {\nchain c {\nlimit rate 5/second accept\ntcp flags syn counter\n}\n}\n",
        );
        let before = lab.snapshot();
        load(lab, "add rule ip t c limit rate 6/second accept");
        let changes = before.changes_to(&lab.snapshot());
        assert_eq!(changes.len(), 1, "{changes:#?}");
        assert!(changes[0].starts_with("+ host: nft rule ip t c: [limit 1="), "{changes:#?}");
        let shown = before.to_string();
        assert!(
            shown.contains(": nft rule ip t c: meta l4proto tcp @th,104,8 & 2 != 0 counter"),
            "{shown}"
        );
    });
}
