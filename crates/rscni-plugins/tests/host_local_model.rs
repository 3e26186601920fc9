//! host-local against a model: whatever calls there are, and whatever others do to the directory in between, an attachment
//! gets the address whose turn it is, and the directory says the same as the model. The index has to follow all of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use proptest::prelude::*;
use rscni::{Error, Request};
use serde_json::{Value, json};

/// What is done, to containers by number and addresses by their last byte.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add(u8),
    Del(u8),
    Check(u8),
    /// With the containers that are still wanted, a bit each.
    Gc(u8),
    Status,
    /// Another program reserves, as the Go plugin does it.
    TheyReserve(u8, u8),
    TheyRelease(u8),
    /// A power loss, or the Go plugin in the middle of it, leaves a file without content.
    Remains(u8),
    /// The index is gone, is nonsense, or is cut off.
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
        4 => (address(), container()).prop_map(|(address, container)| Step::TheyReserve(address, container)),
        2 => address().prop_map(Step::TheyRelease),
        2 => address().prop_map(Step::Remains),
        1 => Just(Step::IndexGone),
        1 => any::<u8>().prop_map(Step::IndexBroken),
        1 => any::<u8>().prop_map(Step::IndexCut),
    ]
}

/// What there should be.
#[derive(Default)]
struct Model {
    held: BTreeMap<u8, u8>,
    remains: BTreeSet<u8>,
    last: Option<u8>,
}

impl Model {
    fn has(&self, container: u8) -> bool {
        self.held.values().any(|holder| *holder == container)
    }

    /// The address whose turn it is: the first free one after the last that was given.
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

    /// Who holds what, and what nobody holds, by the directory alone.
    fn look(&self) -> (BTreeMap<u8, String>, BTreeSet<u8>) {
        let (mut held, mut remains) = (BTreeMap::new(), BTreeSet::new());
        for address in 0..=u8::MAX {
            match fs::read_to_string(self.file(address)) {
                Ok(content) if content.is_empty() => drop(remains.insert(address)),
                Ok(content) => drop(held.insert(address, content)),
                Err(_) => {}
            }
        }
        (held, remains)
    }
}

fn id(container: u8) -> String {
    format!("box-{container}")
}

fn content(container: u8) -> String {
    format!("{}\r\neth0", id(container))
}

/// Does it to both, and holds what the plugin says against the model.
fn take(step: Step, node: &Node, model: &mut Model) -> Result<(), TestCaseError> {
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
                    model.remains.remove(&next);
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
        Step::Gc(wanted) => {
            let is_wanted = |container: u8| wanted >> container & 1 == 1;
            let valid: Vec<_> = (0..CONTAINERS)
                .filter(|container| is_wanted(*container))
                .map(|container| json!({ "containerID": id(container), "ifname": "eth0" }))
                .collect();
            let valid = json!({ "cni.dev/valid-attachments": valid });
            prop_assert!(node.call("GC", None, &valid).is_ok());
            model.held.retain(|_, holder| is_wanted(*holder));
            model.remains.clear();
        }
        Step::Status => {
            prop_assert_eq!(node.call("STATUS", None, &plain).is_ok(), model.next().is_some());
        }
        Step::TheyReserve(address, container) if !model.held.contains_key(&address) => {
            fs::write(node.file(address), content(container)).unwrap();
            model.held.insert(address, container);
            // To write into a file does not show in its directory, but then it was there for a moment only.
            if model.remains.remove(&address) {
                fs::remove_file(node.file(address)).unwrap();
                fs::write(node.file(address), content(container)).unwrap();
            }
        }
        Step::TheyRelease(address) if model.held.remove(&address).is_some() => {
            fs::remove_file(node.file(address)).unwrap();
        }
        Step::Remains(address) if !model.held.contains_key(&address) => {
            fs::write(node.file(address), "").unwrap();
            model.remains.insert(address);
        }
        Step::IndexGone => drop(fs::remove_file(node.index())),
        Step::IndexBroken(byte) if node.index().exists() => {
            // Without its seal: one that has it is believed.
            fs::write(node.index(), vec![byte; 5000]).unwrap();
        }
        Step::IndexCut(part) if node.index().exists() => {
            let index = fs::OpenOptions::new().write(true).open(node.index()).unwrap();
            let length = index.metadata().unwrap().len();
            index.set_len(length * u64::from(part) / 256).unwrap();
        }
        // Of what is not there, or is there already.
        Step::TheyReserve(..)
        | Step::TheyRelease(_)
        | Step::Remains(_)
        | Step::IndexBroken(_)
        | Step::IndexCut(_) => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_happens_the_directory_and_the_answers_are_those_of_the_model(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (node, mut model) = (Node::new(), Model::default());
        for step in steps {
            take(step, &node, &mut model)?;
            let held = model.held.iter().map(|(address, holder)| (*address, content(*holder))).collect();
            prop_assert_eq!(node.look(), (held, model.remains.clone()), "after {:?}", step);
        }
    }
}
