//! Container images made from busybox-static, as archives in the OCI image layout for `ctr image
//! import`.
//!
//! Nothing is downloaded: the only layer is the machine's busybox with links to it, and other
//! programs in some of them.

use std::path::Path;

use anyhow::{Context, Result};
use fs_err as fs;
use serde_json::{Value, json};
use xtask::{oci, program};

/// Name of the imported image.
pub(super) const NAME: &str = "localhost/rscni/busybox:latest";

/// Default command: it sleeps longer than any run takes. So the image can serve as that of a pod's
/// sandbox.
const COMMAND: [&str; 2] = ["/bin/sleep", "3600"];

const BUSYBOX: &str = "/usr/bin/busybox";

/// Writes the archive.
pub(super) fn write(archive: &Path) -> Result<()> {
    let layer = layer().context("make the image's layer of busybox-static")?;
    write_image(archive, NAME, &layer, &json!({"Env": ["PATH=/bin"], "Cmd": COMMAND}))
}

/// Writes the archive of an image with one layer. `config` says how containers are started.
pub(super) fn write_image(archive: &Path, name: &str, layer: &[u8], config: &Value) -> Result<()> {
    let image = oci::image(name, layer.to_vec(), config)?;
    Ok(fs::write(archive, image.archive)?)
}

/// The only layer of the image, as a tar archive.
pub(super) fn layer() -> Result<Vec<u8>> {
    layer_with(&[])
}

/// The layer with more files: paths in the image, and their sources. They replace programs of
/// busybox.
pub(super) fn layer_with(files: &[(&str, &Path)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, source) in files {
        tar.append_path_with_name(source, path)
            .with_context(|| format!("read {}", source.display()))?;
    }
    tar.append_path_with_name(BUSYBOX, "bin/busybox").with_context(|| format!("read {BUSYBOX}"))?;
    let is_replaced = |applet: &str| {
        files.iter().any(|(path, _)| path.strip_prefix("bin/").is_some_and(|name| name == applet))
    };
    let applets = program::output_of(&format!("{BUSYBOX} --list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox" && !is_replaced(applet)) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}
