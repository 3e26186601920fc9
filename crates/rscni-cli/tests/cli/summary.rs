//! What `rscni add` prints, and to whom.

use crate::world::{World, on_terminal};

#[test]
fn a_terminal_gets_a_summary_with_the_time_of_each_plugin() {
    let world = World::new();
    let ran =
        on_terminal(&mut world.command("add", "mynet", &["--container-id", "box"])).succeeded();
    let lines: Vec<_> = ran.stdout.lines().collect();
    let netns = world.path("netns");
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
    assert_eq!(lines.len(), 6, "{}", ran.stdout);
    // Nothing but the result is different.
    assert!(world.path("cache/results/mynet-box-eth0").is_file());
}

#[test]
fn plain_text_where_no_color_or_a_pipe_asks_for_it() {
    let world = World::new();
    let plain = on_terminal(world.command("add", "mynet", &[]).env("NO_COLOR", "1")).succeeded();
    assert!(plain.stdout.contains(" is attached to mynet as eth0\n"), "{}", plain.stdout);
    let piped = world.rscni("add", "mynet", &["-o", "text"]).succeeded();
    assert!(piped.stdout.contains(" is attached to mynet as eth0\n"), "{}", piped.stdout);
    let dumb = on_terminal(world.command("add", "mynet", &[]).env("TERM", "dumb")).succeeded();
    assert!(!dumb.stdout.contains('\x1b'), "{}", dumb.stdout);
}

#[test]
fn json_where_it_is_asked_for() {
    let world = World::new();
    let ran = on_terminal(&mut world.command("add", "mynet", &["-o", "json"])).succeeded();
    assert_eq!(ran.json()["ips"][0]["address"], "10.0.0.3/24");
}
