//! The file with the original attributes: `<dataDir>/<container id>_<ifname>.json`, with the keys
//! of the Go plugin. Our key `rscni` holds the owner tag for GC, and identifies the link for DEL.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rscni::Error;
use rscni_linux::Link;
use serde::{Deserialize, Serialize};

use super::attributes::Attributes;
use crate::{
    plugin::{Call, Failure, Result, best_effort},
    state::{Owned, OwnedBy, Owner, Resources, inventory, state_file},
};

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct State {
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    mtu: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_q_len: Option<u32>,
    /// Missing in a file of the Go plugin, which ignores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    rscni: Option<About>,
}

/// The owner of a file and the link that it describes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct About {
    owner: String,
    index: u32,
    peer: Option<u32>,
    /// The original MTU of the other end of a veth pair, if that was changed too.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_mtu: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl State {
    pub(super) fn new(attributes: Attributes, owner: Owner<'_>, link: &Link) -> Self {
        let about =
            About { owner: owner.tag(), index: link.index, peer: link.peer_index, peer_mtu: None };
        Self { rscni: Some(about), ..Self::from(attributes) }
    }

    /// Adds the MTU of the other end of the veth pair.
    pub(super) fn with_peer_mtu(mut self, mtu: Option<u32>) -> Self {
        if let Some(about) = &mut self.rscni {
            about.peer_mtu = mtu;
        }
        self
    }

    /// The original MTU of the other end, if ADD changed it.
    pub(super) fn peer_mtu(&self) -> Option<u32> {
        self.rscni.as_ref()?.peer_mtu
    }

    /// Whether both describe the same link of the same owner.
    fn is_about_same(&self, other: &Self) -> bool {
        let names = |state: &Self| {
            state.rscni.as_ref().map(|about| (about.owner.clone(), about.index, about.peer))
        };
        names(self) == names(other)
    }

    pub(super) fn attributes(&self) -> Attributes {
        Attributes {
            mac: self.mac.parse().ok(),
            promisc: self.promisc,
            mtu: Some(self.mtu).filter(|mtu| *mtu != 0),
            allmulti: self.allmulti,
            txqlen: self.tx_q_len,
        }
    }

    /// Whether the file names another owner, whose names concatenate to the same file name.
    ///
    /// The network does not count: container and interface identify the attachment, as in the Go
    /// plugin.
    pub(super) fn is_of_another(&self, owner: Owner<'_>) -> bool {
        let without_network = |tag: &str| tag.split_once(' ').map(|(_, rest)| rest.to_owned());
        let is_same = |other: &str| without_network(other) == without_network(&owner.tag());
        self.rscni.as_ref().is_some_and(|about| !is_same(&about.owner))
    }

    /// Whether the file can describe this link, and not an earlier one in its place.
    pub(super) fn is_about(&self, link: &Link) -> bool {
        self.rscni
            .as_ref()
            .is_none_or(|about| about.index == link.index && about.peer == link.peer_index)
    }
}

impl From<Attributes> for State {
    fn from(attributes: Attributes) -> Self {
        Self {
            mac: attributes.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            promisc: attributes.promisc,
            mtu: attributes.mtu.unwrap_or_default(),
            allmulti: attributes.allmulti,
            tx_q_len: attributes.txqlen,
            rscni: None,
        }
    }
}

/// The file of an attachment.
#[derive(Clone, Debug)]
pub(super) struct Backup {
    path: PathBuf,
}

impl Backup {
    /// Both names have been validated and contain no slash.
    pub(super) fn new(data_dir: &Path, call: &Call<'_>) -> Self {
        Self {
            path: data_dir.join(format!("{}_{}.json", call.args.container_id, call.args.ifname)),
        }
    }

    pub(super) fn path(&self) -> impl std::fmt::Display {
        self.path.display()
    }

    /// Reads the file. Returns `None` if it is missing or invalid.
    pub(super) fn read(&self) -> Result<Option<State>> {
        Ok(self.content()?.map(|content| serde_json::from_slice(&content).unwrap_or_default()))
    }

    pub(super) fn content(&self) -> Result<Option<Vec<u8>>> {
        match state_file::read(&self.path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if state_file::is_absent(&error) => Ok(None),
            Err(error) => Err(state_file::failed("read", &self.path)(error).into()),
        }
    }

    /// Writes the file. `previous` is its content.
    ///
    /// Values that an earlier plugin of the same list saved for the same link stay, because they
    /// are the original ones.
    pub(super) fn write(&self, state: &State, previous: Option<&[u8]>) -> Result<()> {
        let earlier: State =
            previous.and_then(|content| serde_json::from_slice(content).ok()).unwrap_or_default();
        let mut state = state.clone();
        if earlier.is_about_same(&state) {
            let peer_mtu = earlier.peer_mtu().or(state.peer_mtu());
            state = State {
                rscni: state.rscni.clone(),
                ..earlier.attributes().or(&state.attributes()).into()
            };
            state = state.with_peer_mtu(peer_mtu);
        }
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        rscni_linux::make_directory(dir, 0o755).map_err(state_file::failed("make", dir))?;
        let mut content = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut content, formatter);
        state
            .serialize(&mut serializer)
            .map_err(|error| Error::Internal(format!("write as JSON: {error}")))?;
        self.put(&content)
    }

    fn put(&self, content: &[u8]) -> Result<()> {
        state_file::write(&self.path, content).map_err(state_file::failed("write", &self.path))?;
        Ok(())
    }

    /// Restores the content of the file.
    pub(super) fn put_back(&self, previous: Option<Vec<u8>>) -> Result<()> {
        match previous {
            Some(content) => self.put(&content),
            None => self.remove(),
        }
    }

    /// Removes the file. A missing one is not an error.
    pub(super) fn remove(&self) -> Result<()> {
        Ok(state_file::remove(&self.path)?)
    }
}

/// The files of all attachments in a directory. A file of the Go plugin names no network.
pub(super) struct Backups<'a>(pub(super) &'a Path);

impl Resources for Backups<'_> {
    type Resource = Backup;

    fn list(&mut self) -> Result<Vec<(OwnedBy, Backup)>> {
        let failed = state_file::failed("list", self.0);
        let entries = match fs::read_dir(self.0) {
            Err(error) if state_file::is_absent(&error) => return Ok(Vec::new()),
            entries => entries.map_err(&failed)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(&failed)?.path();
            if state_file::sweep(&path)
                || path.extension().is_none_or(|extension| extension != "json")
            {
                continue;
            }
            let saved = Backup { path };
            let by = match saved.read() {
                Ok(state) => state.and_then(|it| Some(OwnedBy::of_tag(&it.rscni?.owner))),
                Err(Failure(error)) => {
                    Some(OwnedBy::Unreadable { network: None, why: error.details().into() })
                }
            };
            found.extend(by.map(|by| (by, saved)));
        }
        Ok(found)
    }

    fn remove(self, files: Vec<Backup>) -> Result<()> {
        best_effort(files.iter().map(Backup::remove))
    }
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let Ok(state) = serde_json::from_slice::<State>(data) else { return };
    let written = serde_json::to_vec(&state).expect("a state is JSON");
    let read: State = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(read, state);
    let of_go = State { rscni: None, ..state.clone() };
    let attributes = State::from(of_go.attributes());
    assert_eq!(
        attributes,
        State { mac: attributes.mac.clone(), ..of_go },
        "but for what is no hardware address"
    );
    if let Some(owner) =
        state.rscni.as_ref().and_then(|about| crate::state::owner::untagged(&about.owner))
    {
        assert!(about_same(&state, owner));
    }
}

/// A file belongs to its owner if the owner's names are valid.
#[cfg(any(test, fuzzing))]
fn about_same(state: &State, owner: Owner<'_>) -> bool {
    owner.tag().starts_with('#') || !state.is_of_another(owner)
}

pub(super) fn inventory(data_dir: &Path) -> Result<Vec<Owned>> {
    inventory::json_files(data_dir, inventory::is_json, |name, json| {
        let tag = json.pointer("/rscni/owner")?.as_str()?;
        inventory::is_json(name).then(|| OwnedBy::of_tag(tag))
    })
}

#[cfg(test)]
mod tests {
    use rscni::{Args, Command, NetConf};

    use super::*;
    use crate::plugin::call::testing::with_call;

    fn saved(dir: &Path) -> Backup {
        let args = Args::new(Command::Add).with_attachment("ctr-a", "/run/netns/a", "eth0");
        with_call(args, NetConf::default(), |call| Backup::new(dir, call))
    }

    fn owner(network: &str) -> Owner<'_> {
        Owner { network, container_id: "ctr-a", ifname: "eth0" }
    }

    fn state(attributes: Attributes) -> State {
        State::new(attributes, owner("net"), &Link::default())
    }

    #[test]
    fn the_file_has_the_format_of_the_go_plugin_and_one_more_key() {
        let dir = tempfile::tempdir().unwrap();
        let attributes = Attributes {
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            promisc: Some(false),
            mtu: Some(1500),
            allmulti: Some(true),
            txqlen: Some(0),
        };
        saved(dir.path()).write(&State { rscni: None, ..state(attributes.clone()) }, None).unwrap();
        let text = fs::read_to_string(dir.path().join("ctr-a_eth0.json")).unwrap();
        let expected = "{\n \"mac\": \"02:00:00:00:00:01\",\n \"promisc\": false,\n \
                        \"mtu\": 1500,\n \"allmulti\": true,\n \"txQLen\": 0\n}";
        assert_eq!(text, expected);
        let read = saved(dir.path()).read().unwrap().unwrap();
        assert_eq!(read.attributes(), attributes);
        assert!(!read.is_of_another(owner("other")));
    }

    #[test]
    fn a_second_plugin_of_the_list_keeps_the_original_values() {
        let dir = tempfile::tempdir().unwrap();
        let mtu = |mtu| Attributes { mtu: Some(mtu), ..Attributes::default() };
        let saved = saved(dir.path());
        let write = |attributes| {
            let previous = saved.content().unwrap();
            saved.write(&state(attributes), previous.as_deref()).unwrap();
            previous
        };
        assert_eq!(write(mtu(1500)), None);
        let first = write(Attributes { txqlen: Some(1000), ..mtu(1400) });
        let read = || saved.read().unwrap().unwrap();
        assert_eq!(read().attributes(), Attributes { txqlen: Some(1000), ..mtu(1500) });
        saved.put_back(first).unwrap();
        assert_eq!(read().attributes(), mtu(1500));
        // A file of another owner does not hold original values.
        fs::write(dir.path().join("ctr-a_eth0.json"), r#"{ "mtu": 9000 }"#).unwrap();
        write(mtu(1400));
        assert_eq!(read().attributes(), mtu(1400));
    }

    #[test]
    fn a_file_describes_one_link_of_one_owner() {
        let state = state(Attributes::default());
        assert!(state.is_about(&Link::default()) && !state.is_of_another(owner("net")));
        assert!(state.is_of_another(Owner {
            container_id: "ctr",
            ifname: "a_eth0",
            ..owner("net")
        }));
        // A network that was renamed since the ADD.
        assert!(!state.is_of_another(owner("other")));
    }
}
