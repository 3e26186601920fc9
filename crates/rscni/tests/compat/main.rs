//! Programs in the styles of the older crates compile with the feature `compat` and behave like
//! plugins of this release.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use rscni_test::{Container, Outcome, Plugin};
use serde_json::{Value, json};

/// The directory of the programs.
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(build);

/// Builds the programs as a package of their own: examples of this package would have its features.
fn build() -> PathBuf {
    let library = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compat");
    let bins = ["functions", "functions_async", "traits", "traits_async"].map(|name| {
        let path = library.join("tests/compat").join(name).with_extension("rs");
        format!("{{ name = '{name}', path = '{}' }}", path.display())
    });
    let manifest = format!(
        r#"
        package = {{ name = "compat", edition = "2024" }}
        bin = [{}]
        dependencies.async-trait = "0.1"
        dependencies.rscni = {{ path = '{}', features = ["async", "compat"] }}
        dependencies.tokio = {{ version = "1", features = ["macros", "rt-multi-thread"] }}
        profile.dev.debug = false
        workspace = {{}}
        "#,
        bins.join(", "),
        library.display(),
    );
    fs::create_dir_all(&package).expect("create the package");
    fs::write(package.join("Cargo.toml"), manifest).expect("write the manifest");
    fs::copy(library.join("../../Cargo.lock"), package.join("Cargo.lock")).expect("copy the lock");
    let out = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "--target-dir", "target"])
        .env("RUSTFLAGS", "-D warnings")
        .current_dir(&package)
        .output()
        .expect("start cargo");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    package.join("target/debug")
}

fn call(program: &str, command: &str, config: &Value) -> Outcome {
    let plugin = Plugin::at(PROGRAMS.join(program));
    let container = Container::at("c1", "/nowhere");
    plugin.call(command).attachment(&container, "eth0").config(config).run()
}

fn config(version: &str) -> Value {
    json!({ "cniVersion": version, "name": "net", "type": "old", "flag": "on",
            "prevResult": { "cniVersion": version, "ips": [{ "address": "10.0.0.2/24" }] } })
}

#[test]
fn every_style_passes_on_the_result_of_the_previous_plugin() {
    for program in ["functions", "functions_async", "traits", "traits_async"] {
        let outcome = call(program, "ADD", &config("1.0.0")).success();
        assert_eq!(outcome.ips()[0].to_string(), "10.0.0.2/24", "{program}");
        call(program, "DEL", &config("1.0.0")).success();
    }
}

#[test]
fn functions_get_the_arguments_and_return_errors() {
    let outcome = call("functions", "ADD", &config("1.0.0"));
    outcome.success();
    assert!(outcome.stderr().contains(r#"c1 eth0 Some("/nowhere") Some("on")"#), "{outcome}");
    let first = json!({ "cniVersion": "1.0.0", "name": "net", "type": "old" });
    call("functions", "ADD", &first).error(100).mentions("no result");
    call("functions", "CHECK", &config("1.0.0")).error(3).mentions("gone");
    // The versions are 0.4.0 and 1.0.0; 1.3.0 is none.
    call("functions", "ADD", &config("1.1.0")).error(1);
}

#[test]
fn the_trait_has_the_accessors_and_all_commands() {
    let outcome = call("traits", "ADD", &config("1.1.0"));
    outcome.success();
    assert!(outcome.stderr().contains(r#"c1 Some("eth0") Some("/nowhere")"#), "{outcome}");
    let first = json!({ "cniVersion": "1.1.0", "name": "net", "type": "old" });
    call("traits", "ADD", &first).error(8).mentions("no result");
    call("traits", "ADD", &config("0.3.1")).error(1);
    let plugin = Plugin::at(PROGRAMS.join("traits"));
    plugin.call("STATUS").config(&first).run().error(50).mentions("down");
}
