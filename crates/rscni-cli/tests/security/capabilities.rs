//! Plugins that are called as root with some capabilities, and the capabilities that SECURITY.md
//! lists.

use std::{fs, path::Path};

use rscni_catalogue::{Row, Values, rows};
use rscni_test::{Lab, Snapshot};
use serde_json::{Value, json};

use crate::support::{self, Attached, BIN, Network, V4, write_script};

/// Returns the network with its plugin called as root with these capabilities only.
pub(crate) fn with(lab: &Lab, network: &Network, capabilities: &[&str]) -> Network {
    let set = capabilities.iter().map(|name| format!(",+{}", name.to_lowercase()));
    let program = network.plugin.program().display();
    let script = write_script(
        lab.dir().join(format!("with-{}", capabilities.join("-"))),
        &format!(
            "exec setpriv --bounding-set=-all{} --inh-caps=-all -- {program}",
            set.collect::<String>()
        ),
    );
    Network { plugin: lab.plugin(script).cni_path([BIN]), config: network.config.clone() }
}

/// Returns the capabilities that SECURITY.md lists for a plugin, or its page in a line that begins
/// with `Capabilities:`.
pub(crate) fn documented(plugin: &str) -> Vec<String> {
    let read = |file: &str| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)).unwrap()
    };
    let text = read("SECURITY.md");
    let cells = |line: &str| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    let is_it =
        |row: &&Vec<String>| row[0].split(", ").any(|name| name.trim_matches('`') == plugin);
    let on_page = || {
        let page = read(&format!("docs/plugins/{plugin}.md"));
        let line = page.lines().find_map(|line| line.strip_prefix("Capabilities:"));
        line.unwrap_or_else(|| panic!("docs/plugins/{plugin}.md lists no capabilities")).to_owned()
    };
    let row = rows.iter().find(is_it).map_or_else(on_page, |row| row[1].clone());
    let words = row.split([',', ' ', '.']).map(|word| word.trim_matches('`'));
    words.filter_map(|word| word.strip_prefix("CAP_")).map(str::to_owned).collect()
}

/// Returns the network of a row with all that needs capabilities, and the attachment by the plugins
/// before it.
fn example(lab: &Lab, row: &Row) -> (Network, Option<Attached>) {
    let mut networks = Network::of_row(lab, row, &Values::with_subnets(&[V4]));
    let mut network = networks.pop().expect("a plugin");
    if row.plugin == "bridge" {
        network = network.with(&json!({ "macspoofchk": true }));
    }
    (network, networks.first().map(|before| before.attach(lab, "a")))
}

/// Everything except what stays for other attachments.
fn snapshot(lab: &Lab) -> Snapshot {
    ["/var/lib/cni", "/run/cni", "bridge br0", "link br0", "br0"]
        .iter()
        .fold(support::snapshot(lab), |snapshot, text| snapshot.ignoring(text))
}

fn config(network: &Network, first: Option<&Attached>) -> Value {
    first.map_or_else(|| network.config.clone(), |first| first.reply.follow(&network.config))
}

/// Asserts that each plugin of these rows works with the documented capabilities. Without one of
/// them it fails, names it and leaves nothing.
pub(crate) fn assert_documented(is_tested: fn(&Row) -> bool) {
    for row in rows().iter().filter(|row| is_tested(row)) {
        println!("{}", row.plugin);
        rscni_test::run(|lab| needs_what_is_documented(lab, row));
    }
}

fn needs_what_is_documented(lab: &Lab, row: &Row) {
    let needed = documented(&row.plugin);
    let needed: Vec<&str> = needed.iter().map(String::as_str).collect();
    let (network, first) = example(lab, row);
    let container =
        first.as_ref().map_or_else(|| lab.container("a"), |first| first.container.clone());
    let config = config(&network, first.as_ref());
    let before = snapshot(lab);
    for missing in &needed {
        let others: Vec<&str> = needed.iter().copied().filter(|name| name != missing).collect();
        let outcome = with(lab, &network, &others).plugin.add(&container, row.ifname(), &config);
        outcome.failure().mentions("Operation not permitted").mentions(missing);
        snapshot(lab).assert_same(&before);
    }
    let network = with(lab, &network, &needed);
    let reply = network.plugin.add(&container, row.ifname(), &config).success();
    let config = reply.follow(&config);
    network.plugin.check(&container, row.ifname(), &config).success();
    network.plugin.del(&container, row.ifname(), &config).success();
}
