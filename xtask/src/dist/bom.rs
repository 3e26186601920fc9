//! The bill of materials of the static binary: what is linked into it, as `CycloneDX` 1.5.
//!
//! `cargo tree` says what that is for one target with the features of the build: normal dependencies, without procedural
//! macros, which run on the machine that builds. The text has no time and no random number in it, so that the same
//! binary always has the same bill.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{digest::sha256, program};

const SPEC_VERSION: &str = "1.5";

/// A crate that is linked in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Linked {
    name: String,
    version: String,
    license: String,
    /// What it is linked with, as keys.
    needs: BTreeSet<Key>,
}

/// Name and version.
type Key = (String, String);

/// The bill of a program that was built from a package for a target.
///
/// # Errors
/// If cargo does not say what is in it, or it would not be valid.
pub(super) fn of(package: &str, target: &str, program: &[u8]) -> Result<Value> {
    let mut tree = program::cargo();
    tree.args(["tree", "--locked", "--package", package, "--target", target]);
    tree.args(["--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", " {p} | {l}"]);
    let crates = read_tree(&program::capture(&mut tree)?)?;
    let lock = std::fs::read_to_string(program::workspace_root().join("Cargo.lock"))
        .context("read Cargo.lock")?;
    let compiler = program::capture(std::process::Command::new("rustc").arg("--version"))?;
    let version = compiler.split_whitespace().nth(1).context("rustc --version has no version")?;
    let bill = document(package, target, &crates, &checksums(&lock), version, program)?;
    let problems = problems(&bill);
    ensure!(problems.is_empty(), "the bill of materials is not valid: {}", problems.join("; "));
    Ok(bill)
}

/// Reads lines of the form `2 serde v1.0.0 (path) | MIT (*)`.
fn read_tree(text: &str) -> Result<BTreeMap<Key, Linked>> {
    let mut crates: BTreeMap<Key, Linked> = BTreeMap::new();
    let mut path: Vec<Key> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let read = || {
            let (depth, rest) = line.split_once(' ')?;
            let (package, license) = rest.split_once(" | ")?;
            let mut words = package.split(' ');
            let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
            Some((
                depth.parse::<usize>().ok()?,
                (name.to_owned(), version.to_owned()),
                license.trim_end_matches(" (*)"),
            ))
        };
        let (depth, key, license) =
            read().with_context(|| format!("cargo tree has said {line:?}"))?;
        ensure!(depth <= path.len(), "cargo tree has left out what needs {line:?}");
        ensure!(!license.is_empty(), "{} does not say its licence", key.0);
        path.truncate(depth);
        if let Some(parent) = path.last().and_then(|parent| crates.get_mut(parent)) {
            parent.needs.insert(key.clone());
        }
        path.push(key.clone());
        crates.entry(key.clone()).or_insert_with(|| Linked {
            name: key.0,
            version: key.1,
            license: license.replace(" / ", " OR ").replace('/', " OR "),
            needs: BTreeSet::new(),
        });
    }
    Ok(crates)
}

/// The checksums of `Cargo.lock`; crates of the workspace have none.
fn checksums(lock: &str) -> BTreeMap<Key, String> {
    let value = |part: &str, key: &str| {
        let start = format!("{key} = \"");
        part.lines()
            .find_map(|line| line.strip_prefix(&*start)?.strip_suffix('"').map(str::to_owned))
    };
    lock.split("[[package]]")
        .filter_map(|part| {
            Some(((value(part, "name")?, value(part, "version")?), value(part, "checksum")?))
        })
        .collect()
}

fn document(
    package: &str,
    target: &str,
    crates: &BTreeMap<Key, Linked>,
    checksums: &BTreeMap<Key, String>,
    compiler: &str,
    program: &[u8],
) -> Result<Value> {
    let Some((key, root)) = crates.iter().find(|(key, _)| key.0 == package) else {
        bail!("cargo tree has left out {package} itself");
    };
    let digest = sha256(program);
    let mut components: Vec<Value> = crates
        .iter()
        .filter(|(other, _)| *other != key)
        .map(|(key, linked)| {
            let mut component = json!({
                "type": "library",
                "bom-ref": reference(key),
                "name": linked.name,
                "version": linked.version,
                "licenses": [{ "expression": linked.license }],
                "purl": reference(key),
            });
            if let Some(checksum) = checksums.get(key) {
                component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
            }
            component
        })
        .collect();
    let std = format!("rust-std@{compiler}");
    components.push(json!({
        "type": "library",
        "bom-ref": std,
        "name": "rust-std",
        "version": compiler,
        "description": format!("the standard library of Rust for {target}, with the C library that it links"),
        "licenses": [{ "expression": "MIT OR Apache-2.0" }],
    }));
    let dependencies = crates.iter().map(|(key, linked)| {
        let needs = linked.needs.iter().map(reference).chain([std.clone()]);
        json!({ "ref": reference(key), "dependsOn": needs.collect::<Vec<_>>() })
    });
    Ok(json!({
        "$schema": format!("http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json"),
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": format!("urn:uuid:{}", uuid(&digest)),
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": reference(key),
                "name": "rscni",
                "version": root.version,
                "description": format!("static binary for {target}"),
                "hashes": [{ "alg": "SHA-256", "content": digest }],
                "licenses": [{ "expression": root.license }],
                "purl": reference(key),
            },
        },
        "components": components,
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

/// What the schema of `CycloneDX` wants and is missing or wrong.
fn problems(bill: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut want = |is_there: bool, what: String| {
        if !is_there {
            problems.push(what);
        }
    };
    want(bill["bomFormat"] == "CycloneDX", "bomFormat is to be CycloneDX".into());
    want(bill["specVersion"] == SPEC_VERSION, format!("specVersion is to be {SPEC_VERSION}"));
    want(
        bill["version"].as_u64().is_some_and(|version| version >= 1),
        "version is to be 1 or more".into(),
    );
    want(
        bill["serialNumber"].as_str().is_some_and(is_serial_number),
        "serialNumber is no UUID".into(),
    );
    let no_components = Vec::new();
    let components = bill["components"].as_array().unwrap_or(&no_components);
    want(!components.is_empty(), "there are no components".into());
    let mut references = BTreeSet::new();
    for component in components.iter().chain([&bill["metadata"]["component"]]) {
        let name = component["name"].as_str().unwrap_or_default();
        let types = ["application", "library"];
        want(!name.is_empty(), format!("a component has no name: {component}"));
        want(
            component["type"].as_str().is_some_and(|kind| types.contains(&kind)),
            format!("{name} has no type"),
        );
        let licenses = component["licenses"].as_array();
        let has_license =
            licenses.is_some_and(|all| all.len() == 1 && all[0]["expression"].is_string());
        want(has_license, format!("{name} has no licence"));
        for hash in component["hashes"].as_array().into_iter().flatten() {
            let content = hash["content"].as_str().unwrap_or_default();
            let is_hash =
                content.len() == 64 && content.bytes().all(|byte| byte.is_ascii_hexdigit());
            want(hash["alg"] == "SHA-256" && is_hash, format!("{name} has a hash that is none"));
        }
        let reference = component["bom-ref"].as_str().unwrap_or_default();
        want(
            !reference.is_empty() && references.insert(reference),
            format!("the bom-ref of {name} is not its own"),
        );
    }
    for dependency in bill["dependencies"].as_array().into_iter().flatten() {
        let on = dependency["dependsOn"].as_array().into_iter().flatten();
        for reference in on.chain([&dependency["ref"]]) {
            let is_known =
                reference.as_str().is_some_and(|reference| references.contains(reference));
            want(is_known, format!("{reference} is needed, and no component"));
        }
    }
    problems
}

fn is_serial_number(text: &str) -> bool {
    let Some(uuid) = text.strip_prefix("urn:uuid:") else { return false };
    let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && uuid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// A package URL, which is what tools look for in lists of vulnerabilities.
fn reference((name, version): &Key) -> String {
    format!("pkg:cargo/{name}@{version}")
}

/// A UUID of version 8, that of one's own making, from a hash.
fn uuid(digest: &str) -> String {
    format!(
        "{}-{}-8{}-8{}-{}",
        &digest[..8],
        &digest[8..12],
        &digest[13..16],
        &digest[17..20],
        &digest[20..32]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bill: &Value) -> BTreeSet<&str> {
        bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| component["name"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn the_bill_has_what_is_linked_into_the_binary_and_nothing_else() {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let bill = of("rscni-cli", &target, b"program").unwrap();
        let names = names(&bill);
        for linked in [
            "rscni",
            "rscni-linux",
            "rscni-plugins",
            "netlink-packet-route",
            "serde",
            "clap",
            "rust-std",
        ] {
            assert!(names.contains(linked), "{linked} is missing in {names:?}");
        }
        // What builds it, what tests it, and what other programs of the workspace need.
        for other in ["serde_derive", "syn", "rstest", "proptest", "tokio", "h2", "rscni-cli"] {
            assert!(!names.contains(other), "{other} is not linked in");
        }
        let serde = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == "serde")
            .unwrap();
        assert_eq!(serde["hashes"][0]["content"].as_str().map(str::len), Some(64));
        assert_eq!(serde["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["metadata"]["component"]["hashes"][0]["content"], sha256(b"program"));
        // As it is for another program but for its hash and what is made of that.
        assert_eq!(of("rscni-cli", &target, b"program").unwrap(), bill);
        assert_ne!(of("rscni-cli", &target, b"other").unwrap(), bill);
    }

    #[test]
    fn what_the_schema_does_not_allow_is_found() {
        let tree = "0 rscni-cli v0.3.0 (/x) | MIT\n1 a v1.0.0 | MIT/Apache-2.0\n2 b v2.0.0 | MIT\n1 b v2.0.0 | MIT (*)\n";
        let crates = read_tree(tree).unwrap();
        let bill =
            document("rscni-cli", "x-unknown-linux-musl", &crates, &BTreeMap::new(), "1.95.0", b"")
                .unwrap();
        assert_eq!(problems(&bill), [""; 0]);
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(
            bill["dependencies"][0]["dependsOn"],
            json!(["pkg:cargo/b@2.0.0", "rust-std@1.95.0"])
        );
        for (pointer, wrong) in [
            ("/bomFormat", json!("SPDX")),
            ("/specVersion", json!("1.3")),
            ("/serialNumber", json!("urn:uuid:1")),
            ("/version", json!(0)),
            ("/components", json!([])),
            ("/components/0/name", json!("")),
            ("/components/0/type", json!("crate")),
            ("/components/0/licenses", json!([])),
            ("/components/1/bom-ref", json!("pkg:cargo/a@1.0.0")),
            ("/dependencies/0/dependsOn/0", json!("pkg:cargo/c@1.0.0")),
            ("/metadata/component/hashes/0/content", json!("x")),
        ] {
            let mut broken = bill.clone();
            *broken.pointer_mut(pointer).unwrap() = wrong;
            assert_ne!(problems(&broken), [""; 0], "{pointer}");
        }
    }

    #[test]
    fn what_cargo_tree_does_not_usually_say_is_an_error() {
        assert!(read_tree("0 a v1.0.0 | \n").is_err());
        assert!(read_tree("1 a v1.0.0 | MIT\n").is_err());
        assert!(read_tree("a v1.0.0\n").is_err());
    }
}
