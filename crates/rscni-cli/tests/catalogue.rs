//! Every plugin is complete: the steps of "A new plugin" in CONTRIBUTING.md.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn no_step_of_a_new_plugin_was_forgotten() {
    let registered: BTreeSet<String> =
        rscni_plugins::ALL.iter().map(|plugin| plugin.name.to_owned()).collect();
    let rows = rscni_catalogue::rows();
    let rows: BTreeSet<String> = rows.into_iter().map(|row| row.plugin).collect();
    let pages = fs::read_dir(root().join("docs/plugins")).unwrap();
    let pages = pages.map(|page| page.unwrap().path().file_stem().unwrap().to_owned());
    let pages: BTreeSet<String> = pages.map(|page| page.into_string().unwrap()).collect();
    let security = read("SECURITY.md");
    let has_capabilities = |name: &str| {
        let is_row = |line: &str| line.starts_with("| `") && line.contains(&format!("`{name}`"));
        let page = format!("docs/plugins/{name}.md");
        security.lines().any(is_row)
            || root().join(&page).exists() && read(&page).contains("\nCapabilities:")
    };

    let mut forgotten = Vec::new();
    for name in &registered {
        let steps = [
            (rows.contains(name), "add a row to crates/rscni-catalogue/plugins.json".to_owned()),
            (pages.contains(name), format!("write docs/plugins/{name}.md")),
            (
                has_capabilities(name),
                format!("add the line \"Capabilities: CAP_…\" to docs/plugins/{name}.md"),
            ),
        ];
        let missing = steps.into_iter().filter(|(is_done, _)| !is_done);
        forgotten.extend(missing.map(|(_, step)| format!("plugin {name}: {step}")));
    }
    let step = "add it to crates/rscni-plugins/src/registry.rs";
    for name in rows.difference(&registered) {
        forgotten.push(format!("row {name} of the catalogue: {step}, or remove the row"));
    }
    for name in pages.difference(&registered).filter(|name| *name != "README") {
        forgotten.push(format!("docs/plugins/{name}.md: {step}, or remove the page"));
    }
    assert!(forgotten.is_empty(), "{}", forgotten.join("\n"));
}
