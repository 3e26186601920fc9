//! The examples of the reference pages in `docs/plugins` work.
//!
//! An example is a fenced `json` block with the key `plugins`. A container in a private network is
//! attached to it, checked and detached. The host has an interface `eth0` with a default route.
//! After a line `<!-- run in User-Mode Linux: REASON -->`, only `uml_documentation` runs the
//! example, and this program calls STATUS. After `<!-- not run: REASON -->`, both call STATUS only.
//! A block after a line `<!-- file: PATH -->` is a file that the examples need.

#[path = "support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rscni_linux::Route;
use rscni_test::{Container, Lab, Plugin};
use serde_json::{Value, json};

use support::RSCNI;

struct Example {
    /// File and line.
    location: String,
    list: Value,
    runs: Runs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    Anywhere,
    InUml,
    Never,
}

/// The examples that this program runs.
const HERE: Runs =
    if env!("CARGO_CRATE_NAME").as_bytes()[0] == b'u' { Runs::InUml } else { Runs::Anywhere };

impl Runs {
    /// Reads the line before an example.
    fn after(line: &str) -> Self {
        match line {
            line if line.starts_with("<!-- not run: ") => Self::Never,
            line if line.starts_with("<!-- run in User-Mode Linux: ") => Self::InUml,
            _ => Self::Anywhere,
        }
    }
}

impl Example {
    fn name(&self) -> &str {
        self.list["name"].as_str().unwrap_or_else(|| panic!("{}: no name", self.location))
    }

    fn plugins(&self) -> &[Value] {
        self.list["plugins"]
            .as_array()
            .unwrap_or_else(|| panic!("{}: plugins is no array", self.location))
    }

    /// The plugins of the example, with IPAM plugins.
    fn types(&self) -> impl Iterator<Item = &str> {
        self.plugins()
            .iter()
            .flat_map(|plugin| [plugin["type"].as_str(), plugin["ipam"]["type"].as_str()])
            .flatten()
    }
}

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/plugins")
}

/// The examples of a page. Every `json` block has to be JSON, an example or not.
fn examples_in(page: &Path) -> Vec<Example> {
    let text = std::fs::read_to_string(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
    let file = page.file_name().unwrap_or_default().display();
    let mut examples = Vec::new();
    let mut before = "";
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "```json" {
            let location = format!("{file}:{}", number + 1);
            let block: Vec<_> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim() != "```")
                .collect();
            let list: Value = serde_json::from_str(&block.join("\n"))
                .unwrap_or_else(|e| panic!("{location}: {e}"));
            if list.get("plugins").is_some() {
                examples.push(Example { location, list, runs: Runs::after(before) });
            }
        }
        if !line.trim().is_empty() {
            before = line;
        }
    }
    examples
}

fn all_examples() -> Vec<Example> {
    pages_of_plugins().iter().flat_map(|page| examples_in(page)).collect()
}

/// Returns the files that a page defines, with their content.
fn files_in(page: &Path) -> Vec<(PathBuf, String)> {
    let text = std::fs::read_to_string(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
    let parts = text.split("<!-- file: ").skip(1);
    let files = parts.map(|part| {
        let (path, rest) =
            part.split_once(" -->\n```").unwrap_or_else(|| panic!("{}: no block", page.display()));
        let (_, block) = rest.split_once('\n').expect("a block has lines");
        let (content, _) =
            block.split_once("```\n").unwrap_or_else(|| panic!("{}: no end", page.display()));
        (path.into(), content.to_owned())
    });
    files.collect()
}

fn pages_of_plugins() -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(pages()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "md"));
    files.sort();
    files
}

#[test]
fn every_page_has_an_example_that_is_run() {
    for plugin in rscni_plugins::ALL {
        let page = format!("{}.md", plugin.name);
        let uses_it = |example: &Example| {
            example.runs != Runs::Never && example.types().any(|name| name == plugin.name)
        };
        assert!(
            examples_in(&pages().join(&page)).iter().any(uses_it),
            "{page} has no example that is run and uses {}",
            plugin.name
        );
    }
}

#[test]
fn the_readme_describes_plugins_as_the_program_does() {
    let readme = std::fs::read_to_string(pages().join("../../README.md")).unwrap();
    let (_, shown) = readme.split_once("$ rscni plugins\n").expect("the README shows the command");
    let (shown, _) = shown.split_once("```").expect("the block ends");
    let output = Command::new(RSCNI).arg("plugins").output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    for line in shown.lines() {
        assert!(output.lines().any(|it| it == line), "`rscni plugins` does not print {line:?}");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let headings = |text: &str| -> BTreeSet<String> {
        let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
        // Like GitHub's anchors.
        let anchor = |c: char| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
            _ => None,
        };
        headings
            .map(|heading| {
                heading.trim_start_matches('#').trim().chars().filter_map(anchor).collect()
            })
            .collect()
    };
    for entry in std::fs::read_dir(pages()).unwrap() {
        let page = entry.unwrap().path();
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) =
                link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { pages().join(file) };
            let found = std::fs::read_to_string(&target);
            let found = found.unwrap_or_else(|e| panic!("{}: link to {link}: {e}", page.display()));
            if let Some(anchor) = anchor {
                assert!(
                    headings(&found).contains(anchor),
                    "{}: link to {link}: no such heading",
                    page.display()
                );
            }
        }
    }
}

/// Runs `rscni ACTION NETWORK NETNS` with the built-in plugins.
fn rscni(lab: &Lab, action: &str, example: &Example, container: &Container) -> Output {
    let mut command = Command::new(RSCNI);
    command.env_clear().args([action, example.name()]).arg(container.path());
    // User-Mode Linux may need this variable, because it does not save all registers.
    command.envs(std::env::var("GLIBC_TUNABLES").map(|value| ("GLIBC_TUNABLES", value)));
    command
        .arg("--conf-dir")
        .arg(lab.dir().join("net.d"))
        .arg("--plugin-dir")
        .arg(lab.dir().join("empty"));
    command.output().unwrap()
}

#[track_caller]
fn succeeded(example: &Example, action: &str, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}: {action}: {}", example.location, text(&output.stderr));
    text(&output.stdout)
}

/// Returns the gateways of the result that are addresses of the host.
fn gateways_on_host(lab: &Lab, added: &str) -> Vec<String> {
    let result: Value = serde_json::from_str(added).unwrap();
    let mut netlink = lab.host().netlink();
    let links = netlink.links().unwrap();
    let addresses: Vec<_> =
        links.iter().flat_map(|link| netlink.addresses(link.index).unwrap()).collect();
    let gateways =
        result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["gateway"].as_str());
    gateways
        .filter(|ip| addresses.iter().any(|a| a.net.addr().to_string() == **ip))
        .map(Into::into)
        .collect()
}

/// Runs add, check and del, and pings the gateways after add.
fn attach_and_detach(lab: &Lab, example: &Example, container: &Container) {
    let added = succeeded(example, "add", &rscni(lab, "add", example, container));
    for gateway in gateways_on_host(lab, &added) {
        container.ping(gateway);
    }
    for action in ["check", "del"] {
        assert_eq!(
            succeeded(example, action, &rscni(lab, action, example, container)),
            "",
            "{action}"
        );
    }
}

/// Adds an interface `eth1` for host-device, and `eth0` with the default route.
fn add_interfaces(lab: &Lab) {
    for (name, address) in [("eth1", "192.168.2.2/24"), ("eth0", "198.51.100.2/24")] {
        support::cable(lab, name, &lab.container(&format!("machine-{name}")), name);
        support::add_address(lab.host(), name, address);
    }
    let route = Route::default_via("198.51.100.1".parse().unwrap());
    lab.host().netlink().add_route(&route).unwrap();
}

fn status(example: &Example, plugins: &[(&str, Plugin)]) {
    for conf in example.plugins() {
        let (_, plugin) = plugins.iter().find(|(name, _)| conf["type"] == *name).unwrap();
        let mut conf = conf.clone();
        conf["cniVersion"] = json!("1.1.0");
        conf["name"] = example.name().into();
        plugin.status(&conf).success();
    }
}

#[test]
fn every_example_works_and_leaves_nothing_of_an_attachment() {
    let examples = all_examples();
    let files: Vec<_> = pages_of_plugins().iter().flat_map(|page| files_in(page)).collect();
    if HERE == Runs::InUml {
        // In the private network the module cannot be loaded any more.
        support::sh("modprobe tun");
    }
    rscni_test::run(|lab| {
        add_interfaces(lab);
        for (path, content) in &files {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let plugins: Vec<_> =
            rscni_plugins::ALL.iter().map(|p| (p.name, lab.install(p.name, RSCNI))).collect();
        // The LAN of the host, for examples with DHCP.
        let _lan = support::dhcp::set_up(lab, &[]);
        for (number, example) in examples.iter().enumerate() {
            // Shown if the test fails.
            println!("{}", example.location);
            status(example, &plugins);
            if example.runs != HERE {
                continue;
            }
            let conf_dir = lab.dir().join("net.d");
            std::fs::create_dir_all(&conf_dir).unwrap();
            std::fs::write(
                conf_dir.join(format!("{}.conflist", example.name())),
                example.list.to_string(),
            )
            .unwrap();
            // The first attachment leaves what belongs to the network, as the pages say.
            attach_and_detach(lab, example, &lab.container(&format!("first-{number}")));
            let second = lab.container(&format!("second-{number}"));
            // The kernel keeps the loopback address of a `lo` that is set down.
            let before = lab
                .snapshot()
                .ignoring("/last_reserved_ip.")
                .ignoring("/.index/")
                .ignoring(": address 127.0.0.1/8 on lo")
                // It also keeps its rule for VRFs.
                .ignoring("policy rule 1000:");
            attach_and_detach(lab, example, &second);
            lab.assert_unchanged_since(&before);
        }
    });
}
