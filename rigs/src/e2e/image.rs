//! A container image made from busybox-static, as an archive in the OCI image layout that `ctr image import` reads.
//!
//! Nothing is fetched: the one layer is the machine's own busybox and the links to it.

use std::{fs::File, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use xtask::digest::sha256;

/// The image's name, once imported.
pub(super) const NAME: &str = "localhost/rscni/busybox:latest";

/// What a container of it does unless told otherwise: nothing, and for longer than any run takes. So it can be that
/// of a pod, whose own container only holds the namespaces.
const COMMAND: [&str; 2] = ["/bin/sleep", "3600"];

const BUSYBOX: &str = "/usr/bin/busybox";
const APPLETS: [&str; 6] = ["sh", "ip", "ping", "cat", "sleep", "nc"];

/// Writes the archive.
pub(super) fn write(archive: &Path) -> Result<()> {
    let layer = layer().context("make the image's layer of busybox-static")?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": COMMAND},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] =
        json!({"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "latest"});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;

    let file = File::create(archive).with_context(|| format!("create {}", archive.display()))?;
    let mut tar = tar::Builder::new(file);
    put(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put(&mut tar, "index.json", &index)?;
    for blob in [&config, &manifest, &layer] {
        put(&mut tar, &digest(blob).replacen("sha256:", "blobs/sha256/", 1), blob)?;
    }
    tar.finish().with_context(|| format!("write {}", archive.display()))
}

/// The image's one layer, as a tar archive.
pub(super) fn layer() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_path_with_name(BUSYBOX, "bin/busybox").with_context(|| format!("read {BUSYBOX}"))?;
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}

fn put(tar: &mut tar::Builder<File>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content)
        .with_context(|| format!("put {name} into the image"))
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", sha256(blob))
}
