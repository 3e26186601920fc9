//! The images of the nodes: that of the pod network, busybox, agnhost of Kubernetes, and `CoreDNS`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use fs_err as fs;
use serde_json::{Value, json};
use xtask::program;

use super::{CLUSTER, PROGRAMS, cluster::Cluster, node::Node};
use crate::e2e::image;

/// The image for pods without a program of their own.
pub(super) const BUSYBOX: &str = image::NAME;
pub(super) const AGNHOST: &str = "localhost/rscni/agnhost:latest";
pub(super) const COREDNS: &str = "localhost/rscni/coredns:latest";

/// Directory of the archives in the cluster's directory. It has that of the pod network.
pub(super) const DIRECTORY: &str = "images";

/// The directory of the archives in the cluster's namespaces.
pub(super) fn directory() -> PathBuf {
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

/// Registry of the images of the upstream tests. No machine asks it, as all of them are imported.
const REGISTRY: &str = "localhost/e2e";
/// The images, in the versions that the tests name. They are the same, as one has the programs of
/// all.
const OF_UPSTREAM: [&str; 6] = [
    "agnhost:2.63.0",
    "agnhost:2.55",
    "busybox:1.37.0-1",
    "glibc-dns-testing:2.0.0",
    "nginx:1.15-4",
    "pause:3.10.2",
];
const REGRESSION: &str = "regression-issue-74839:1.4";

/// Programs of this machine that pods of the upstream tests call.
const TOOLS: [&str; 7] = ["bash", "curl", "dig", "getent", "nc", "ss", "wget"];

/// The file that tells the upstream tests the registry.
pub(super) fn registries() -> Value {
    json!({"promoterE2eRegistry": REGISTRY, "gcRegistry": REGISTRY})
}

/// Makes the images of the upstream tests, and imports them into all nodes.
pub(super) fn import_for_upstream(cluster: &Cluster, tests: &Path) -> Result<()> {
    let directory = Path::new(CLUSTER).join("upstream-images");
    fs::create_dir(&directory)?;
    let layer = layer_for_upstream(tests)?;
    let entrypoints = [
        (OF_UPSTREAM[0], json!({"Entrypoint": ["/agnhost"], "Cmd": ["pause"]})),
        (REGRESSION, json!({"Cmd": ["/regression-issue-74839"]})),
    ];
    for (image, mut config) in entrypoints {
        config["Env"] = json!(["PATH=/bin:/"]);
        let archive = directory.join(format!("{image}.tar"));
        image::write_image(&archive, &named(image), &layer, &config)?;
    }
    for node in cluster.nodes() {
        import(node, &directory)?;
        for image in &OF_UPSTREAM[1..] {
            let source = named(OF_UPSTREAM[0]);
            node.run(&format!("ctr --namespace k8s.io images tag {source} {}", named(image)))?;
        }
    }
    Ok(())
}

fn named(image: &str) -> String {
    format!("{REGISTRY}/{image}")
}

/// agnhost with the files that its own image has, and the tools with their libraries.
fn layer_for_upstream(tests: &Path) -> Result<Vec<u8>> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (name, program) in
        [("agnhost", "agnhost"), ("agnhost-2", "agnhost"), ("coredns", "coredns")]
    {
        files.insert(name.to_owned(), Path::new(PROGRAMS).join(program));
    }
    for name in ["localhost.crt", "localhost.key", "regression-issue-74839"] {
        files.insert(name.to_owned(), tests.join(name));
    }
    files.insert("bin/sh".to_owned(), "/usr/bin/bash".into());
    for tool in TOOLS {
        let program = Path::new("/usr/bin").join(tool);
        for line in program::output_of(&format!("ldd {}", program.display()))?.lines() {
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
                files.insert(library[1..].to_owned(), library.into());
            }
        }
        files.insert(format!("bin/{tool}"), program);
    }
    let files: Vec<_> =
        files.iter().map(|(path, source)| (path.as_str(), source.as_path())).collect();
    image::layer_with(&files)
}

/// Imports all images of a directory into containerd of a node.
pub(super) fn import(node: &Node, directory: &Path) -> Result<()> {
    let mut archives: Vec<_> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    archives.sort_unstable();
    for archive in archives {
        let mut ctr = node.command(Path::new(PROGRAMS).join("ctr"));
        ctr.args(["--namespace", "k8s.io", "images", "import", "--local"]).arg(&archive);
        program::capture(&mut ctr)
            .with_context(|| format!("import {} on {}", archive.display(), node.name))?;
    }
    Ok(())
}
