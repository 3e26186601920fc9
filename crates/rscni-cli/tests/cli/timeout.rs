//! `--timeout`.

use crate::world::World;

#[test]
fn a_plugin_that_hangs_is_ended_and_the_add_undone() {
    let world = World::new();
    world.plugin(
        "second",
        r#"[ "$CNI_COMMAND" = ADD ] || exit 0
        echo 'waiting for the switch' >&2; sleep 1000 & wait"#,
    );
    let ran = world.rscni("add", "mynet", &["--timeout", "5s"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    for part in ["ADD of second (plugin 2 of 2)", "longer than 5s", "waiting for the switch"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert_eq!(world.order(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
    assert!(world.call(&["ls"]).succeeded().stdout.lines().count() == 1);
}

#[test]
fn a_time_without_unit_is_refused() {
    let world = World::new();
    let ran = world.rscni("add", "mynet", &["--timeout", "10"]);
    assert!(ran.status == 2 && ran.stderr.contains("ms, s, m or h"), "{}", ran.stderr);
    assert!(world.order().is_empty());
}
