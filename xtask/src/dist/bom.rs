//! The bill of materials of a static program: the crates linked into it, as `CycloneDX` 1.5.
//!
//! `cargo tree` lists them for one target with the features of the build; `cargo metadata` would
//! add the features that tests and other packages enable. Procedural macros run on the build
//! machine and are left out. The bill contains no time and no random number, so the same binary
//! always has the same bill.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{digest::sha256, program};

/// A `CycloneDX` document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bill {
    #[serde(rename = "$schema")]
    schema: &'static str,
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata {
    component: Component,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Component {
    r#type: &'static str,
    bom_ref: String,
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    licenses: [License; 1],
    /// Package URL, which vulnerability scanners look up.
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
struct License {
    expression: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    r#ref: String,
    depends_on: Vec<String>,
}

/// A linked crate, as `cargo tree` shows it.
#[derive(Default)]
pub(super) struct Linked {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) license: String,
    /// Package URLs of the crates that it is linked with.
    dependencies: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<LockedPackage>,
}

#[derive(Deserialize)]
struct LockedPackage {
    name: String,
    version: String,
    /// Missing for crates of the workspace.
    checksum: Option<String>,
}

/// Returns the bill of a program with this name and content, which was built for a target.
pub(super) fn of(package: &str, name: &str, target: &str, program: &[u8]) -> Result<Bill> {
    let crates = linked(package, target)?;
    let lock = fs_err::read_to_string(program::workspace_root().join("Cargo.lock"))?;
    let lock: Lock = toml::from_str(&lock).context("read Cargo.lock")?;
    let rustc = program::capture(std::process::Command::new("rustc").arg("--version"))?;
    let rustc = rustc.split_whitespace().nth(1).context("`rustc --version` prints no version")?;
    let mut bill = bill(package, target, &crates, &lock, rustc, program)?;
    name.clone_into(&mut bill.metadata.component.name);
    Ok(bill)
}

/// Returns the crates linked into the programs of a package, by package URL.
pub(super) fn linked(package: &str, target: &str) -> Result<BTreeMap<String, Linked>> {
    let mut tree = program::cargo();
    tree.args(["tree", "--locked", "--package", package, "--target", target]);
    tree.args(["--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", " {p} | {l}"]);
    read_tree(&program::capture(&mut tree)?)
}

/// Reads lines of the form `2 serde v1.0.0 (path) | MIT (*)` into crates by package URL.
fn read_tree(text: &str) -> Result<BTreeMap<String, Linked>> {
    let mut crates: BTreeMap<String, Linked> = BTreeMap::new();
    let mut path: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let parse = || {
            let (depth, rest) = line.split_once(' ')?;
            let (package, license) = rest.split_once(" | ")?;
            let mut words = package.split(' ');
            let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
            let license = license.trim_end_matches(" (*)");
            let depth = depth.parse::<usize>().ok().filter(|depth| *depth <= path.len())?;
            (!license.is_empty()).then_some((depth, name, version, license))
        };
        let (depth, name, version, license) =
            parse().with_context(|| format!("unexpected line of cargo tree: {line:?}"))?;
        let url = purl(name, version);
        path.truncate(depth);
        if let Some(parent) = path.last().and_then(|parent| crates.get_mut(parent)) {
            parent.dependencies.insert(url.clone());
        }
        path.push(url.clone());
        crates.entry(url).or_insert_with(|| Linked {
            name: name.to_owned(),
            version: version.to_owned(),
            license: license.replace(" / ", " OR ").replace('/', " OR "),
            ..Linked::default()
        });
    }
    Ok(crates)
}

fn bill(
    package: &str,
    target: &str,
    crates: &BTreeMap<String, Linked>,
    lock: &Lock,
    rustc: &str,
    program: &[u8],
) -> Result<Bill> {
    let digest = sha256(program);
    let hash = |content: &str| Hash { alg: "SHA-256", content: content.to_owned() };
    let component = |(url, linked): (&String, &Linked)| {
        let is_it = |locked: &&LockedPackage| purl(&locked.name, &locked.version) == *url;
        let checksum = lock.package.iter().find(is_it).and_then(|it| it.checksum.as_deref());
        Component {
            r#type: "library",
            bom_ref: url.clone(),
            name: linked.name.clone(),
            version: linked.version.clone(),
            description: None,
            hashes: checksum.map(hash).into_iter().collect(),
            licenses: [License { expression: linked.license.clone() }],
            purl: Some(url.clone()),
        }
    };
    let (roots, others): (Vec<_>, Vec<_>) =
        crates.iter().map(component).partition(|component| component.name == package);
    let root = roots.into_iter().next().with_context(|| format!("cargo tree lacks {package}"))?;
    ensure!(!others.is_empty(), "cargo tree lists no dependency of {package}");
    let std = Component {
        r#type: "library",
        bom_ref: format!("rust-std@{rustc}"),
        name: "rust-std".to_owned(),
        version: rustc.to_owned(),
        description: Some(format!("the standard library of Rust for {target}, with its C library")),
        hashes: Vec::new(),
        licenses: [License { expression: "MIT OR Apache-2.0".to_owned() }],
        purl: None,
    };
    let dependencies = crates.iter().map(|(url, linked)| Dependency {
        r#ref: url.clone(),
        depends_on: linked.dependencies.iter().chain([&std.bom_ref]).cloned().collect(),
    });
    Ok(Bill {
        schema: "http://cyclonedx.org/schema/bom-1.5.schema.json",
        bom_format: "CycloneDX",
        spec_version: "1.5",
        serial_number: format!("urn:uuid:{}", uuid(&digest)),
        version: 1,
        dependencies: dependencies.collect(),
        metadata: Metadata {
            component: Component {
                r#type: "application",
                description: Some(format!("static program for {target}")),
                hashes: vec![hash(&digest)],
                ..root
            },
        },
        components: others.into_iter().chain([std]).collect(),
    })
}

fn purl(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{version}")
}

/// A UUID of version 8 (custom), made from a hash.
fn uuid(digest: &str) -> String {
    let [start, second, third] = [&digest[..8], &digest[8..12], &digest[13..16]];
    format!("{start}-{second}-8{third}-8{}-{}", &digest[17..20], &digest[20..32])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn real(program: &[u8]) -> Value {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        serde_json::to_value(of("rscni-cli", "rscni", &target, program).unwrap()).unwrap()
    }

    fn components(bill: &Value) -> &[Value] {
        bill["components"].as_array().unwrap()
    }

    #[test]
    fn the_bill_lists_the_crates_linked_into_the_binary_and_no_others() {
        let bill = real(b"program");
        let named = |name: &str| components(&bill).iter().find(|one| one["name"] == name);
        for linked in ["rscni", "rscni-linux", "rscni-plugins", "serde", "clap", "rust-std"] {
            assert!(named(linked).is_some(), "{linked} is missing");
        }
        assert!(named("netlink-sys").is_some());
        // Crates that build it or test it, and crates of other programs of the workspace.
        for other in ["serde_derive", "syn", "rstest", "proptest", "tokio", "h2", "rscni-cli"] {
            assert!(named(other).is_none(), "{other} is not linked in");
        }
        let serde = named("serde").unwrap();
        assert_eq!(serde["hashes"][0]["content"].as_str().map(str::len), Some(64));
        assert_eq!(serde["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["metadata"]["component"]["name"], "rscni");
        assert_eq!(bill["metadata"]["component"]["hashes"][0]["content"], sha256(b"program"));
        assert_eq!(real(b"program"), bill);
        assert_ne!(real(b"other"), bill);
    }

    #[test]
    fn the_bill_is_valid_cyclonedx() {
        let bill = real(b"program");
        assert_eq!(
            (&bill["bomFormat"], &bill["specVersion"]),
            (&json!("CycloneDX"), &json!("1.5"))
        );
        let uuid = bill["serialNumber"].as_str().unwrap().strip_prefix("urn:uuid:").unwrap();
        assert!(uuid.split('-').map(str::len).eq([8, 4, 4, 4, 12]), "{uuid}");
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_hex(&uuid.replace('-', "")), "{uuid}");
        let mut references = BTreeSet::new();
        for component in components(&bill).iter().chain([&bill["metadata"]["component"]]) {
            assert!(references.insert(component["bom-ref"].as_str().unwrap()), "{component}");
            assert_ne!(component["name"], "");
            assert_ne!(component["licenses"][0]["expression"], "");
            for hash in component["hashes"].as_array().into_iter().flatten() {
                let content = hash["content"].as_str().unwrap();
                assert!(content.len() == 64 && is_hex(content), "{component}");
            }
        }
        for dependency in bill["dependencies"].as_array().unwrap() {
            let on = dependency["dependsOn"].as_array().unwrap().iter();
            for reference in on.chain([&dependency["ref"]]) {
                assert!(references.contains(reference.as_str().unwrap()), "{reference}");
            }
        }
    }

    #[test]
    fn a_tree_becomes_components_with_dependencies() {
        let tree = "0 rscni-cli v0.3.0 (/x) | MIT\n1 a v1.0.0 | MIT/Apache-2.0\n2 b v2.0.0 | MIT\n\
                    1 b v2.0.0 | MIT (*)\n";
        let lock = Lock { package: Vec::new() };
        let crates = read_tree(tree).unwrap();
        let bill =
            bill("rscni-cli", "x-unknown-linux-musl", &crates, &lock, "1.95.0", b"").unwrap();
        assert_eq!(bill.components[0].licenses[0].expression, "MIT OR Apache-2.0");
        assert_eq!(bill.dependencies[0].depends_on, ["pkg:cargo/b@2.0.0", "rust-std@1.95.0"]);
    }

    #[test]
    fn an_unexpected_line_of_cargo_tree_is_an_error() {
        for line in ["0 a v1.0.0 | \n", "1 a v1.0.0 | MIT\n", "a v1.0.0\n"] {
            assert!(read_tree(line).is_err(), "{line}");
        }
    }
}
