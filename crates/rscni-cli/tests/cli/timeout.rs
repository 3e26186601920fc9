//! `--timeout`.

use crate::fixture::Fixture;

#[test]
fn hanging_plugin_is_killed_and_add_is_rolled_back() {
    let fixture = Fixture::new();
    fixture.plugin(
        "second",
        r#"[ "$CNI_COMMAND" = ADD ] || exit 0
        echo 'waiting for the switch' >&2; sleep 1000 & wait"#,
    );
    let out = fixture.rscni("add", "mynet", &["--timeout", "5s"]);
    assert_eq!((out.status, out.stdout.as_str()), (1, ""));
    for part in ["ADD of second (plugin 2 of 2)", "longer than 5s", "waiting for the switch"] {
        assert!(out.stderr.contains(part), "{part}: {}", out.stderr);
    }
    assert_eq!(fixture.order(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
    assert!(fixture.call(&["ls"]).succeeded().stdout.lines().count() == 1);
}

#[test]
fn timeout_without_unit_is_rejected() {
    let fixture = Fixture::new();
    let out = fixture.rscni("add", "mynet", &["--timeout", "10"]);
    assert!(out.status == 2 && out.stderr.contains("ms, s, m or h"), "{}", out.stderr);
    assert!(fixture.order().is_empty());
}
