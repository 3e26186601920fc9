//! The images of the nodes: that of the pod network, busybox, agnhost of the upstream tests, and
//! `CoreDNS`.

use std::path::Path;

use anyhow::{Context, Result};
use fs_err as fs;
use serde_json::json;
use xtask::program;

use super::{CLUSTER, PROGRAMS, node::Node};
use crate::e2e::image;

/// The image for pods without a program of their own.
pub(super) const BUSYBOX: &str = image::NAME;
pub(super) const AGNHOST: &str = "localhost/rscni/agnhost:latest";
pub(super) const COREDNS: &str = "localhost/rscni/coredns:latest";

/// Directory of the archives in the cluster's directory. It has that of the pod network.
pub(super) const DIRECTORY: &str = "images";

fn directory() -> std::path::PathBuf {
    Path::new(CLUSTER).join(DIRECTORY)
}

/// Makes the archives of the others.
pub(super) fn make() -> Result<()> {
    let directory = directory();
    image::write(&directory.join("busybox.tar"))?;
    for (program, name) in [("agnhost", AGNHOST), ("coredns", COREDNS)] {
        let source = Path::new(PROGRAMS).join(program);
        let layer = image::layer_with(&[(program, &source)])?;
        let config = json!({"Env": ["PATH=/bin:/"], "Entrypoint": [format!("/{program}")]});
        image::write_image(&directory.join(format!("{program}.tar")), name, &layer, &config)?;
    }
    Ok(())
}

/// Imports all images into containerd of a node.
pub(super) fn import(node: &Node) -> Result<()> {
    let mut archives: Vec<_> =
        fs::read_dir(directory())?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    archives.sort_unstable();
    for archive in archives {
        let mut ctr = node.command(Path::new(PROGRAMS).join("ctr"));
        ctr.args(["--namespace", "k8s.io", "images", "import", "--local"]).arg(&archive);
        program::capture(&mut ctr)
            .with_context(|| format!("import {} on {}", archive.display(), node.name))?;
    }
    Ok(())
}
