//! Output formats of `rscni add`.

use crate::fixture::{Fixture, on_terminal};

#[test]
fn terminal_shows_a_summary_with_the_time_of_each_plugin() {
    let fixture = Fixture::new();
    let out =
        on_terminal(&mut fixture.command("add", "mynet", &["--container-id", "box"])).succeeded();
    let lines: Vec<_> = out.stdout.lines().collect();
    let netns = fixture.path("netns");
    assert_eq!(
        lines[0],
        format!("{} is attached to \x1b[1mmynet\x1b[0m as \x1b[1meth0\x1b[0m", netns.display())
    );
    assert_eq!(
        lines[1..3],
        ["  \x1b[1mcontainer \x1b[0m  box", "  \x1b[1maddresses \x1b[0m  10.0.0.3/24"]
    );
    for (line, start) in lines[3..].iter().zip(["\x1b[1mplugins   \x1b[0m  first ", "", ""]) {
        assert!(line.trim_start().starts_with(start) && line.ends_with(" ms"), "{line}");
    }
    assert_eq!(lines.len(), 6, "{}", out.stdout);
    assert!(fixture.path("cache/results/mynet-box-eth0").is_file());
}

#[test]
fn text_is_plain_with_no_color_or_in_a_pipe() {
    let fixture = Fixture::new();
    let plain = on_terminal(fixture.command("add", "mynet", &[]).env("NO_COLOR", "1")).succeeded();
    assert!(plain.stdout.contains(" is attached to mynet as eth0\n"), "{}", plain.stdout);
    let piped = fixture.rscni("add", "mynet", &["-o", "text"]).succeeded();
    assert!(piped.stdout.contains(" is attached to mynet as eth0\n"), "{}", piped.stdout);
    let dumb = on_terminal(fixture.command("add", "mynet", &[]).env("TERM", "dumb")).succeeded();
    assert!(!dumb.stdout.contains('\x1b'), "{}", dumb.stdout);
}

#[test]
fn json_can_be_selected_on_a_terminal() {
    let fixture = Fixture::new();
    let out = on_terminal(&mut fixture.command("add", "mynet", &["-o", "json"])).succeeded();
    assert_eq!(out.json()["ips"][0]["address"], "10.0.0.3/24");
}
