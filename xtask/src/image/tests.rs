use std::{collections::BTreeMap, io::Read};

use serde_json::Value;

use super::*;
use crate::digest::sha256;

type Entry = (tar::Header, Vec<u8>);

fn files() -> Files {
    let mut files = Files::new();
    for name in ["rscnid", "rscni"] {
        files.insert(name.to_owned(), (0o755, name.into()));
    }
    files.insert("rscni.cdx.json".to_owned(), (0o644, b"{}".to_vec()));
    add_licences(&mut files).unwrap();
    files
}

/// The entries of a tar archive in their order.
fn entries(tar: &[u8]) -> Vec<(String, Entry)> {
    let mut archive = tar::Archive::new(tar);
    let read = |entry: std::io::Result<tar::Entry<&[u8]>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        (path, (entry.header().clone(), content))
    };
    archive.entries().unwrap().map(read).collect()
}

/// Follows a descriptor, whose digest and size must be those of its blob.
fn blob<'a>(archive: &'a BTreeMap<String, Entry>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let (_, content) = &archive[&format!("blobs/sha256/{digest}")];
    assert_eq!(sha256(content), digest);
    assert_eq!(descriptor["size"], content.len());
    content
}

fn json(blob: &[u8]) -> Value {
    serde_json::from_slice(blob).unwrap()
}

#[test]
fn archive_is_an_oci_layout_with_one_image() {
    let image = assemble(&files()).unwrap();
    let archive: BTreeMap<_, _> = entries(&image.archive).into_iter().collect();
    assert_eq!(json(&archive["oci-layout"].1)["imageLayoutVersion"], "1.0.0");
    let index = json(&archive["index.json"].1);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let entry = &index["manifests"][0];
    assert_eq!(entry["digest"], *image.digest);
    assert_eq!(entry["annotations"]["io.containerd.image.name"], NAME);
    let manifest = json(blob(&archive, entry));
    assert_eq!(manifest["mediaType"], entry["mediaType"]);
    let config = json(blob(&archive, &manifest["config"]));
    assert_eq!(config["config"]["Entrypoint"][0], "/rscnid");
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let layer = blob(&archive, &manifest["layers"][0]);
    // The layer is not compressed, so both digests are the same.
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    let names: Vec<_> = entries(layer).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "licenses/",
            "licenses/LICENSE-APACHE",
            "licenses/LICENSE-MIT",
            "licenses/crates.txt",
            "licenses/musl.txt",
            "licenses/rust-std.html",
            "rscni",
            "rscni.cdx.json",
            "rscnid",
        ]
    );
    // The archive has these three blobs and no others.
    assert_eq!(archive.len(), 5);
}

#[test]
fn entries_are_sorted_and_have_fixed_modes_times_and_owners() {
    let image = assemble(&files()).unwrap();
    let layer = oci::tar(&files()).unwrap();
    for tar in [&image.archive, &layer] {
        let entries = entries(tar);
        assert!(entries.is_sorted_by_key(|(name, _)| name));
        for (name, (header, _)) in entries {
            let is_program = matches!(&*name, "licenses/" | "rscni" | "rscnid");
            assert_eq!(header.mode().unwrap(), if is_program { 0o755 } else { 0o644 }, "{name}");
            let numbers = [header.mtime(), header.uid(), header.gid()];
            assert_eq!(numbers.map(Result::unwrap), [0; 3], "{name}");
        }
    }
}

#[test]
fn same_files_make_the_same_image() {
    let (one, other) = (assemble(&files()).unwrap(), assemble(&files()).unwrap());
    assert_eq!((one.digest, one.archive), (other.digest, other.archive));
}

#[test]
fn manifests_use_the_image() {
    let manifests = program::workspace_root().join("deploy/rscni.yaml");
    let text = fs::read_to_string(manifests).unwrap();
    let images: Vec<_> =
        text.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    assert!(!images.is_empty());
    assert!(images.iter().all(|image| NAME.ends_with(&format!("/{image}"))), "{images:?}");
}

#[test]
fn image_is_smaller_than_twenty_million_bytes() {
    assert!(is_small(19_999_999));
    assert!(!is_small(20_000_000));
}
