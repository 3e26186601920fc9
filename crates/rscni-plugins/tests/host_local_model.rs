//! host-local compared with a model, for random calls and random changes by other programs. An
//! attachment gets the next address, and the directory agrees with the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use proptest::prelude::*;
use rscni::{Error, Request};
use serde_json::{Value, json};

/// A step, with container numbers and the last byte of addresses.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add(u8),
    Del(u8),
    Check(u8),
    /// With a bit for each valid container.
    Gc(u8),
    Status,
    /// Another program reserves an address like the Go plugin.
    OtherReserves(u8, u8),
    OtherReleases(u8),
    /// A power loss or a killed Go plugin leaves an empty file.
    Incomplete(u8),
    /// The index is missing, overwritten or truncated.
    IndexGone,
    IndexBroken(u8),
    IndexCut(u8),
}

const CONTAINERS: u8 = 6;
/// The subnet is 10.0.0.0/28, its first address the gateway.
const ADDRESSES: std::ops::RangeInclusive<u8> = 2..=14;

fn step() -> impl Strategy<Value = Step> {
    let (container, address) = (|| 0..CONTAINERS, || ADDRESSES);
    prop_oneof![
        8 => container().prop_map(Step::Add),
        4 => container().prop_map(Step::Del),
        1 => container().prop_map(Step::Check),
        1 => any::<u8>().prop_map(Step::Gc),
        1 => Just(Step::Status),
        4 => (address(), container()).prop_map(|(n, holder)| Step::OtherReserves(n, holder)),
        2 => address().prop_map(Step::OtherReleases),
        2 => address().prop_map(Step::Incomplete),
        1 => Just(Step::IndexGone),
        1 => any::<u8>().prop_map(Step::IndexBroken),
        1 => any::<u8>().prop_map(Step::IndexCut),
    ]
}

/// The expected state.
#[derive(Default)]
struct Model {
    held: BTreeMap<u8, u8>,
    incomplete: BTreeSet<u8>,
    last: Option<u8>,
}

impl Model {
    fn has(&self, container: u8) -> bool {
        self.held.values().any(|holder| *holder == container)
    }

    /// Returns the next address: the first free one after the last allocated one.
    fn next(&self) -> Option<u8> {
        let last = self.last.unwrap_or_default();
        let after = ADDRESSES.filter(|address| *address > last);
        after
            .chain(ADDRESSES.filter(|address| *address <= last))
            .find(|address| !self.held.contains_key(address))
    }
}

struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        Self(dir)
    }

    fn file(&self, address: u8) -> PathBuf {
        self.0.path().join("net").join(format!("10.0.0.{address}"))
    }

    fn index(&self) -> PathBuf {
        self.0.path().join(".index/net")
    }

    fn call(&self, command: &str, container: Option<u8>, more: &Value) -> Result<Value, Error> {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "host-local",
            "ipam": { "type": "host-local", "subnet": "10.0.0.0/28", "dataDir": self.0.path() }
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut vars =
            vec![("CNI_COMMAND", command.to_owned()), ("CNI_PATH", "/nonexistent".into())];
        if let Some(container) = container {
            let names = [("CNI_CONTAINERID", id(container)), ("CNI_IFNAME", "eth0".into())];
            vars.extend(names.into_iter().chain([("CNI_NETNS", "/run/netns/none".into())]));
        }
        let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let reply = rscni_plugins::find("host-local")
            .unwrap()
            .reply(&Request::new(vars, config.to_string().into()));
        match reply.error {
            Some(error) => Err(error),
            None => Ok(serde_json::from_slice(&reply.stdout).unwrap_or_default()),
        }
    }

    /// Reads holders and incomplete reservations from the directory.
    fn look(&self) -> (BTreeMap<u8, String>, BTreeSet<u8>) {
        let (mut held, mut incomplete) = (BTreeMap::new(), BTreeSet::new());
        for address in 0..=u8::MAX {
            match fs::read_to_string(self.file(address)) {
                Ok(content) if content.is_empty() => drop(incomplete.insert(address)),
                Ok(content) => drop(held.insert(address, content)),
                Err(_) => {}
            }
        }
        (held, incomplete)
    }
}

fn id(container: u8) -> String {
    format!("box-{container}")
}

fn content(container: u8) -> String {
    format!("{}\r\neth0", id(container))
}

/// Applies a step to both, and compares the reply with the model.
fn apply(step: Step, node: &Node, model: &mut Model) -> Result<(), TestCaseError> {
    let plain = json!({});
    match step {
        Step::Add(container) => {
            let outcome = node.call("ADD", Some(container), &plain);
            match (model.has(container), model.next()) {
                (true, _) | (false, None) => prop_assert_eq!(outcome.unwrap_err().code(), 11),
                (false, Some(next)) => {
                    let expected =
                        json!([{ "address": format!("10.0.0.{next}/28"), "gateway": "10.0.0.1" }]);
                    prop_assert_eq!(&outcome.unwrap()["ips"], &expected);
                    model.held.insert(next, container);
                    model.incomplete.remove(&next);
                    model.last = Some(next);
                }
            }
        }
        Step::Del(container) => {
            prop_assert!(node.call("DEL", Some(container), &plain).is_ok());
            model.held.retain(|_, holder| *holder != container);
        }
        Step::Check(container) => {
            let held = model.held.iter().filter(|(_, holder)| **holder == container);
            let ips: Vec<_> = held
                .map(|(address, _)| json!({ "address": format!("10.0.0.{address}/28") }))
                .collect();
            let previous = json!({ "prevResult": { "cniVersion": "1.1.0", "ips": ips } });
            prop_assert_eq!(
                node.call("CHECK", Some(container), &previous).is_ok(),
                model.has(container)
            );
        }
        Step::Gc(valid) => {
            let is_valid = |container: u8| valid >> container & 1 == 1;
            let valid: Vec<_> = (0..CONTAINERS)
                .filter(|container| is_valid(*container))
                .map(|container| json!({ "containerID": id(container), "ifname": "eth0" }))
                .collect();
            let valid = json!({ "cni.dev/valid-attachments": valid });
            prop_assert!(node.call("GC", None, &valid).is_ok());
            model.held.retain(|_, holder| is_valid(*holder));
            model.incomplete.clear();
        }
        Step::Status => {
            prop_assert_eq!(node.call("STATUS", None, &plain).is_ok(), model.next().is_some());
        }
        Step::OtherReserves(address, container) if !model.held.contains_key(&address) => {
            fs::write(node.file(address), content(container)).unwrap();
            model.held.insert(address, container);
            // A write does not change the time of the directory, but creating the file did.
            if model.incomplete.remove(&address) {
                fs::remove_file(node.file(address)).unwrap();
                fs::write(node.file(address), content(container)).unwrap();
            }
        }
        Step::OtherReleases(address) if model.held.remove(&address).is_some() => {
            fs::remove_file(node.file(address)).unwrap();
        }
        Step::Incomplete(address) if !model.held.contains_key(&address) => {
            fs::write(node.file(address), "").unwrap();
            model.incomplete.insert(address);
        }
        Step::IndexGone => drop(fs::remove_file(node.index())),
        Step::IndexBroken(byte) if node.index().exists() => {
            // With the seal it would be valid.
            fs::write(node.index(), vec![byte; 5000]).unwrap();
        }
        Step::IndexCut(part) if node.index().exists() => {
            let index = fs::OpenOptions::new().write(true).open(node.index()).unwrap();
            let length = index.metadata().unwrap().len();
            index.set_len(length * u64::from(part) / 256).unwrap();
        }
        // Impossible in this state.
        Step::OtherReserves(..)
        | Step::OtherReleases(_)
        | Step::Incomplete(_)
        | Step::IndexBroken(_)
        | Step::IndexCut(_) => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn directory_and_replies_agree_with_the_model(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (node, mut model) = (Node::new(), Model::default());
        for step in steps {
            apply(step, &node, &mut model)?;
            let held = model.held.iter().map(|(n, holder)| (*n, content(*holder))).collect();
            prop_assert_eq!(node.look(), (held, model.incomplete.clone()), "after {:?}", step);
        }
    }
}
