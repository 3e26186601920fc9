//! The error for an invalid value of each documented key contains the path of the key, the value,
//! and what is expected.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::LazyLock,
};

use rscni::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A row of `invalid_keys.json`.
#[derive(Deserialize)]
struct InvalidKeys {
    plugin: String,
    /// A valid configuration.
    base: Map<String, Value>,
    /// Invalid values of keys in the base, by path: one of a wrong type, and one that is not
    /// allowed unless every value of the type is, or that depends on the host.
    keys: BTreeMap<String, Vec<Value>>,
    /// Invalid configurations without the base, each with a part of the error.
    #[serde(default)]
    configurations: Vec<(Map<String, Value>, String)>,
}

static ALL: LazyLock<Vec<InvalidKeys>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("invalid_keys.json")).expect("read invalid_keys.json")
});

/// A component of a path such as `ranges[0].subnet`: a key or an index.
enum Step {
    Key(String),
    Index(usize),
}

/// Splits a path. A name after `/` is one component.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let mut names = part.split('[');
        steps.extend(names.next().filter(|name| !name.is_empty()).map(|key| Step::Key(key.into())));
        steps.extend(names.map(|index| Step::Index(index.trim_end_matches(']').parse().unwrap())));
    }
    steps
}

/// Sets the value at a path, and creates objects and lists of one entry on the way.
fn set(place: &mut Value, steps: &[Step], value: Value) {
    match steps.split_first() {
        None => *place = value,
        Some((Step::Key(key), rest)) => {
            if !place.is_object() {
                *place = json!({});
            }
            set(&mut place[key], rest, value);
        }
        Some((Step::Index(index), rest)) => {
            if !place.is_array() {
                *place = json!([]);
            }
            let list = place.as_array_mut().unwrap();
            list.resize(list.len().max(index + 1), Value::Null);
            set(&mut list[*index], rest, value);
        }
    }
}

/// Adds other keys without which a value is not read.
fn complete(config: &mut Value, path: &str) {
    let neighbours: &[(&str, Value)] = &[
        ("vlanTrunk[0].minID", json!({ "minID": 5, "maxID": 8 })),
        ("vlanTrunk[0].maxID", json!({ "minID": 5, "maxID": 8 })),
        ("ipam.routes[0].", json!({ "dst": "10.9.0.0/16" })),
        ("runtimeConfig.portMappings[0].", json!({ "hostPort": 80, "containerPort": 80 })),
        ("ipam.addresses[0].gateway", json!({ "address": "10.1.0.2/24" })),
    ];
    for (start, neighbour) in neighbours.iter().filter(|(start, _)| path.starts_with(start)) {
        let list = start.split_once("[0]").unwrap().0;
        set(config, &steps(&format!("{list}[0]")), neighbour.clone());
    }
    for (prefix, key) in [("", "ingress"), ("", "egress"), ("runtimeConfig.bandwidth.", "ingress")]
    {
        if path == format!("{prefix}{key}Rate") {
            set(config, &steps(&format!("{prefix}{key}Burst")), json!(80_000));
        }
    }
    if path.starts_with("unshapedSubnets") || path.starts_with("shapedSubnets") {
        set(config, &steps("ingressRate"), json!(80_000));
        set(config, &steps("ingressBurst"), json!(80_000));
    }
}

/// Returns a configuration of a plugin.
fn config(plugin: &str, keys: &Map<String, Value>) -> Value {
    let mut config = json!({ "cniVersion": "1.1.0", "name": "net", "type": plugin });
    config.as_object_mut().unwrap().extend(keys.clone());
    config
}

/// Returns the reply of a plugin, or null if it succeeds without a result.
fn call(command: &str, plugin: &str, config: &Value, cni_args: Option<String>) -> Value {
    let mut vars: BTreeMap<String, std::ffi::OsString> = BTreeMap::from([
        ("CNI_COMMAND".into(), command.into()),
        ("CNI_CONTAINERID".into(), "box".into()),
        ("CNI_NETNS".into(), "/run/netns/box".into()),
        ("CNI_IFNAME".into(), "eth0".into()),
        ("CNI_PATH".into(), "/nowhere".into()),
    ]);
    vars.extend(cni_args.map(|args| ("CNI_ARGS".to_owned(), args.into())));
    let request = Request::new(vars, config.to_string().into_bytes());
    let reply = rscni_plugins::find(plugin).expect("there is such a plugin").reply(&request);
    if reply.stdout.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(&reply.stdout).expect("a reply")
}

/// Calls a plugin with an invalid value of a key. Returns what the error lacks.
fn problem(keys: &InvalidKeys, path: &str, value: &Value) -> Option<String> {
    let mut config = config(&keys.plugin, &keys.base);
    let mut cni_args = None;
    if let Some(variable) = path.strip_prefix("CNI_ARGS: ") {
        cni_args = Some(format!("IgnoreUnknown=1;{variable}={}", value.as_str().unwrap()));
        if variable == "GATEWAY" {
            cni_args = cni_args.map(|args| args + ";IP=10.1.0.2/24");
        }
    } else {
        complete(&mut config, path);
        set(&mut config, &steps(path), value.clone());
    }
    let reply = call("ADD", &keys.plugin, &config, cni_args);
    let details = reply["details"].as_str().unwrap_or_default();
    let path_of_vlan_range = path.replace("minID", "m").replace("maxID", "m");
    let names = details.contains(path)
        // A range that ends before it begins names both keys.
        || path != path_of_vlan_range && details.contains("vlanTrunk[0].m")
        // The delegate reports errors in `delegate`.
        || details.contains(&path.replace("delegate.", "delegate: "));
    let shown = value.to_string();
    let is_named = details.contains(&shown)
        || details.contains(shown.trim_matches('"'))
        || value.as_str().is_some_and(|text| details.contains(&format!("{text:?}")));
    let is_code = [4, 6, 7].iter().any(|code| reply["code"] == *code);
    let is_fine = names && is_named && is_code && !details.contains(" line ");
    (!is_fine).then(|| format!("{}: {path} = {value}: {reply}", keys.plugin))
}

#[test]
fn every_documented_key_is_named_with_its_path_and_value() {
    rscni_test::run(|lab| {
        lab.container("box");
        let before = lab.snapshot();
        let mut problems = Vec::new();
        for keys in ALL.iter() {
            for (path, values) in &keys.keys {
                problems.extend(values.iter().filter_map(|value| problem(keys, path, value)));
            }
        }
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn every_invalid_configuration_is_rejected_with_the_reason() {
    rscni_test::run(|lab| {
        lab.container("box");
        let before = lab.snapshot();
        for keys in ALL.iter() {
            // An IPAM plugin reads its keys in each of these commands, and DEL ignores them.
            let is_ipam = keys.base.get("ipam").is_some_and(|ipam| ipam["type"] == keys.plugin);
            let commands = if is_ipam { &["ADD", "CHECK", "STATUS"][..] } else { &["ADD"] };
            for (configuration, reason) in &keys.configurations {
                let config = config(&keys.plugin, configuration);
                for command in commands {
                    let reply = call(command, &keys.plugin, &config, None);
                    let details = reply["details"].as_str().unwrap_or_default();
                    assert!(reply["code"] == 7 && details.contains(reason), "{config}: {reply}");
                }
                if is_ipam {
                    assert_eq!(call("DEL", &keys.plugin, &config, None), Value::Null, "{config}");
                }
            }
        }
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn two_wrong_keys_are_both_named() {
    rscni_test::run(|lab| {
        lab.container("box");
        for (plugin, keys, paths) in [
            (
                "bridge",
                json!({ "mtu": "x", "isGateway": 1, "hairpinMode": [] }),
                vec!["mtu", "isGateway", "hairpinMode"],
            ),
            ("bridge", json!({ "ipMasq": 1, "dns": 5 }), vec!["ipMasq", "dns"]),
            (
                "host-local",
                json!({ "ipam": { "ranges": 5, "routes": "x", "rangeStart": 5 } }),
                vec!["ipam.ranges", "ipam.routes", "ipam.rangeStart"],
            ),
            (
                "portmap",
                json!({ "runtimeConfig": { "portMappings": 5, "mac": 6 }, "prevResult": {} }),
                vec!["runtimeConfig.portMappings", "runtimeConfig.mac"],
            ),
            (
                "tuning",
                json!({ "args": { "cni": { "mtu": "x", "promisc": 1 } } }),
                vec!["args.cni.mtu", "args.cni.promisc"],
            ),
        ] {
            let config = self::config(plugin, keys.as_object().unwrap());
            let reply = call("ADD", plugin, &config, None);
            let details = reply["details"].as_str().unwrap();
            for path in paths {
                assert!(details.contains(&format!("{path}: ")), "{path}: {details}");
            }
        }
    });
}

/// Returns the keys in the tables of a plugin's page.
fn documented(plugin: &str) -> Vec<String> {
    let page = format!("{}/../../docs/plugins/{plugin}.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(page).expect("read the page");
    let mut is_keys = false;
    let mut keys = Vec::new();
    for line in text.lines() {
        if line.starts_with("| key | type |") {
            is_keys = true;
        } else if !line.starts_with('|') {
            is_keys = false;
        } else if is_keys && !line.starts_with("|-") {
            let cell = line.split('|').nth(1).unwrap();
            keys.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    keys
}

/// Whether a path of the table is that of a documented key, which can stand for more.
fn is_of(path: &str, documented: &str) -> bool {
    path.replace("[0]", "[]").contains(documented.trim_start_matches('.'))
}

/// Keys that the plugin does not check itself.
const ELSEWHERE: &[(&str, &str)] = &[
    // Its content is passed on.
    ("flannel", "runtimeConfig"),
];

#[test]
fn the_table_has_every_documented_key() {
    let mut missing = Vec::new();
    for plugin in rscni_plugins::ALL {
        let rows = ALL.iter().filter(|keys| keys.plugin == plugin.name);
        let paths: Vec<_> = rows.flat_map(|keys| keys.keys.keys()).collect();
        for key in documented(plugin.name) {
            let is_there = paths.iter().any(|path| is_of(path, &key));
            if !is_there && !ELSEWHERE.contains(&(plugin.name, key.as_str())) {
                missing.push(format!("{}: {key}", plugin.name));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Collects the words of the sources that can name a key, as they are and in camel case: fields,
/// and texts in quotes.
fn words(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("list the sources") {
        let path = entry.unwrap().path();
        if path.is_dir() {
            words(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(path).expect("read a source");
        for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let Some(word) = word.strip_suffix([':', '"']) else { continue };
            let mut parts = word.split('_');
            let mut camel = parts.next().unwrap_or_default().to_owned();
            for part in parts.filter(|part| !part.is_empty()) {
                camel.extend([part[..1].to_uppercase().as_str(), &part[1..]]);
            }
            found.extend([word.to_owned(), camel].into_iter().filter(|word| !word.is_empty()));
        }
    }
}

/// Returns the keys of an object that a plugin reads, in lower case and as they are: the words
/// whose value it rejects.
fn read_keys(
    keys: &InvalidKeys,
    object: &str,
    words: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    // A number is wrong for every type but numbers.
    for wrong in [json!(5), json!("x")] {
        // The errors of one type hide those of the next.
        loop {
            let mut config = config(&keys.plugin, &keys.base);
            for word in words.iter().filter(|word| !found.contains_key(&word.to_lowercase())) {
                set(&mut config, &steps(&format!("{object}{word}")), wrong.clone());
            }
            let reply = call("ADD", &keys.plugin, &config, None);
            let details = format!(" {}", reply["details"].as_str().unwrap_or_default());
            let is_rejected =
                |word: &&String| details.contains(&format!(" {object}{word}: {wrong}"));
            let before = found.len();
            let rejected = words.iter().filter(is_rejected);
            found.extend(rejected.map(|word| (word.to_lowercase(), word.clone())));
            if found.len() == before {
                break;
            }
        }
    }
    found
}

/// Keys that every plugin has, and objects whose keys are the same in every plugin.
const OF_THE_PROTOCOL: &[&str] =
    &["cniVersion", "name", "type", "ipam", "dns", "prevResult", "runtimeConfig", "args"];
const OBJECTS_OF_THE_PROTOCOL: &[&str] = &["dns.", "ipam.dns.", "ipam.routes[0]."];

#[test]
fn every_key_that_a_plugin_reads_is_on_its_page() {
    let mut all = BTreeSet::new();
    words(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    all.retain(|word| OF_THE_PROTOCOL.iter().all(|key| !key.eq_ignore_ascii_case(word)));
    let none = ALL.iter().find(|keys| keys.plugin == "dummy").expect("a plugin without own keys");
    rscni_test::run(|_| {
        let of_all = read_keys(none, "", &all);
        let mut problems = Vec::new();
        for keys in ALL.iter() {
            let page = documented(&keys.plugin);
            let names: BTreeSet<_> = page
                .iter()
                .map(|key| key.rsplit('.').next().unwrap().trim_end_matches("[]").to_lowercase())
                .collect();
            // The keys of `sysctl` are names of sysctls.
            let paths = keys.keys.keys().filter(|path| !path.contains(['/', ':']));
            let paths: Vec<_> =
                paths.map(|path| path.split_at(path.rfind('.').map_or(0, |end| end + 1))).collect();
            let objects: BTreeSet<_> = paths.iter().map(|(object, _)| *object).collect();
            for object in objects.into_iter().filter(|it| !OBJECTS_OF_THE_PROTOCOL.contains(it)) {
                let own = paths.iter().filter(|(of, key)| *of == object && !key.ends_with(']'));
                let own: BTreeMap<_, _> =
                    own.map(|(_, key)| (key.to_lowercase(), (*key).to_owned())).collect();
                // A plugin that reads one key of the runtime checks all of them.
                let is_of_runtime = object == "runtimeConfig.";
                let read = if is_of_runtime { own.clone() } else { read_keys(keys, object, &all) };
                let is_missing = |key: &str| !names.contains(key) && !of_all.contains_key(key);
                problems.extend(read.iter().filter(|(key, _)| is_missing(key)).map(|(_, key)| {
                    let page = format!("docs/plugins/{}.md", keys.plugin);
                    format!("{page}: the table of keys lacks `{object}{key}`: add a row")
                }));
                for (key, name) in &own {
                    if !read.contains_key(key) && !OF_THE_PROTOCOL.contains(&name.as_str()) {
                        problems.push(format!("{}: {object}{name} was not found", keys.plugin));
                    }
                }
            }
        }
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    });
}
