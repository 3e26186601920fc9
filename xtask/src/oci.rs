//! Container images with one layer, as archives in the OCI image layout, which `ctr images import`
//! reads.
//!
//! An archive contains no time, owner or order that depends on the machine, so the same files make
//! the same archive.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::digest::sha256;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Files by their path, with mode and content. A path that ends with a slash is a directory.
pub type Files = BTreeMap<String, (u32, Vec<u8>)>;

/// An image.
#[derive(Debug)]
pub struct Image {
    /// The archive.
    pub archive: Vec<u8>,
    /// Digest of the manifest, which identifies the image.
    pub digest: String,
}

/// Puts a layer, which is a tar archive, into an image. `config` says how containers are started.
///
/// # Errors
///
/// If the tar archive cannot be written.
pub fn image(name: &str, layer: Vec<u8>, config: &Value) -> Result<Image> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, &layer)],
    }))?;
    let mut entry = descriptor(MANIFEST, &manifest);
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    entry["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
    let index = serde_json::to_vec(
        &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }),
    )?;
    let digest = digest(&manifest);
    let mut files = Files::from([
        ("oci-layout".to_owned(), (0o644, br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())),
        ("index.json".to_owned(), (0o644, index)),
    ]);
    for blob in [config, manifest, layer] {
        files.insert(format!("blobs/sha256/{}", sha256(&blob)), (0o644, blob));
    }
    Ok(Image { archive: tar(&files)?, digest })
}

/// Returns the files as a tar archive.
///
/// # Errors
///
/// If a path is too long for a tar archive.
pub fn tar(files: &Files) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, (mode, content)) in files {
        let mut header = tar::Header::new_gnu();
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, path, &**content).with_context(|| format!("add {path}"))?;
    }
    tar.into_inner().context("write a tar archive")
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", sha256(blob))
}
