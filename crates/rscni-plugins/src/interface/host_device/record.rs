//! The host settings of a device while it is in a container: one file per device.
//!
//! The Go plugin keeps only the name, as the alias of the device. We set that alias too; the Go
//! plugin ignores the files.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use rscni::Error;
use rscni_linux::{Address, Link, NewAddress};
use serde::{Deserialize, Serialize};

use super::{
    identity::Identity,
    network::{Network, SavedAddress},
};
use crate::{
    plugin::{Call, Context, Result},
    state::{Owned, OwnedBy, inventory, state_file},
};

/// The directory of the files, which a reboot may clear like the devices' places.
pub(crate) const DIRECTORY: &str = "/run/cni/host-device";

/// A device as it was on the host, and its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// The owner tag of the attachment.
    pub(super) owner: String,
    /// `CNI_NETNS` and `CNI_IFNAME` of the attachment.
    pub(super) netns: PathBuf,
    pub(super) ifname: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) mac: Option<String>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    #[serde(default)]
    pub(super) alias: Option<String>,
    /// Whether the kernel returns it to the host when its namespace is removed.
    #[serde(default)]
    pub(super) is_physical: bool,
    #[serde(default)]
    addresses: Vec<SavedAddress>,
    /// Missing in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<Identity>,
    /// The addresses, routes and rules that the container got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<Network>,
}

impl Record {
    pub(super) fn new(call: &Call<'_>, link: &Link, addresses: &[Address]) -> Result<Self> {
        Ok(Self {
            owner: call.owner().tag(),
            netns: call.args.require_netns()?.to_owned(),
            ifname: call.args.ifname.clone(),
            name: link.name.clone(),
            mac: link.mac.map(|mac| mac.to_string()),
            mtu: link.mtu,
            up: link.up,
            alias: link.alias.clone(),
            is_physical: link.kind.is_none(),
            addresses: addresses
                .iter()
                .filter(|address| is_kept(address))
                .map(SavedAddress::from)
                .collect(),
            identity: None,
            network: None,
        })
    }

    /// Its addresses. Those that expire are included only if the container got them.
    pub(super) fn addresses(&self) -> impl Iterator<Item = NewAddress> {
        let of_network = self.network.iter().flat_map(|network| &network.addresses);
        let others = of_network.filter(|address| !self.addresses.contains(address));
        self.addresses.iter().chain(others).map(SavedAddress::as_new)
    }
}

/// Whether an address has to be restored. The source of an address that expires renews it, and the
/// kernel adds link-local addresses.
fn is_kept(address: &Address) -> bool {
    let is_link_local = matches!(address.net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    address.permanent && !is_link_local
}

/// The files. Their names are names of devices, never paths. No other call moves a device while
/// this value exists.
pub(super) struct Store {
    directory: PathBuf,
    _lock: File,
}

impl Store {
    pub(super) fn open() -> Result<Self> {
        Self::open_in(Path::new(DIRECTORY))
    }

    fn open_in(directory: &Path) -> Result<Self> {
        rscni_linux::make_directory(directory, 0o700)
            .map_err(state_file::failed("host-device: make", directory))?;
        let lock =
            File::open(directory).map_err(state_file::failed("host-device: open", directory))?;
        crate::state::state_file::lock(&lock)
            .map_err(|errno| state_file::failed("host-device: lock", directory)(errno.into()))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    /// Reads the file of a device. Returns `None` if it cannot be read or describes another device.
    pub(super) fn by_name(&self, device: &str) -> Option<Record> {
        if rscni::name::interface_name_problem(device).is_some() {
            return None;
        }
        let saved: Record =
            serde_json::from_slice(&state_file::read(&self.directory.join(device)).ok()?).ok()?;
        (saved.name == device).then_some(saved)
    }

    pub(super) fn all(&self) -> Result<Vec<Record>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory)
            .map_err(state_file::failed("host-device: list", &self.directory))?
        {
            let entry = entry.map_err(state_file::failed("host-device: list", &self.directory))?;
            let name = entry.file_name();
            if state_file::is_draft(&name) {
                // Its writer was killed: under the lock there is no other.
                let _ = fs::remove_file(entry.path());
            }
            all.extend(name.to_str().and_then(|name| self.by_name(name)));
        }
        Ok(all)
    }

    pub(super) fn write(&self, saved: &Record) -> Result<()> {
        let path = self.directory.join(&saved.name);
        let text = serde_json::to_vec(saved)
            .map_err(|error| Error::Internal(format!("write as JSON: {error}")))?;
        state_file::replace(&path, &text)
            .map_err(state_file::failed("host-device: write", &path))?;
        Ok(())
    }

    pub(super) fn remove_file(&self, device: &str) -> Result<()> {
        state_file::remove(&self.directory.join(device)).context("host-device")
    }
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let Ok(saved) = serde_json::from_slice::<Record>(data) else { return };
    let written = serde_json::to_vec(&saved).expect("what is saved is JSON");
    assert_eq!(
        serde_json::from_slice::<Record>(&written).expect("what was written is read"),
        saved
    );
    assert!(saved.addresses().count() >= saved.addresses.len());
}

pub(super) fn inventory(directory: &Path) -> Result<Vec<Owned>> {
    inventory::json_files(
        directory,
        |_| true,
        |_, json| Some(OwnedBy::of_tag(json.get("owner")?.as_str()?)),
    )
}

#[cfg(test)]
mod tests {
    use rscni::{Args, Command, NetConf};

    use super::*;
    use crate::{plugin::call::testing::with_call, state::Resources};

    fn saved(owner: &str, name: &str) -> Record {
        let args = Args::new(Command::Add).with_attachment("", "/run/netns/a", "net1");
        let saved = with_call(args, NetConf::default(), |call| {
            Record::new(call, &Link::default(), &[]).unwrap()
        });
        Record { owner: owner.into(), name: name.into(), ..saved }
    }

    #[test]
    fn a_file_is_found_by_the_device_and_by_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open_in(&dir.path().join("run/devices")).unwrap();
        for (owner, name) in
            [("net a net1", "eth1"), ("net b net1", "eth2"), ("net c net1", "eth1")]
        {
            store.write(&saved(owner, name)).unwrap();
        }
        assert_eq!(store.by_name("eth1"), Some(saved("net c net1", "eth1")));
        let mut of = |tag| store.find(&|by| *by == OwnedBy::of_tag(tag)).unwrap();
        assert_eq!(of("net b net1"), [saved("net b net1", "eth2")]);
        assert_eq!(of("net a net1"), []);
        store.remove_file("eth1").unwrap();
        store.remove_file("eth1").unwrap();
        assert_eq!(store.all().unwrap(), [saved("net b net1", "eth2")]);
    }

    #[test]
    fn files_of_other_programs_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_in(dir.path()).unwrap();
        fs::write(dir.path().join("eth1"), "{").unwrap();
        fs::write(
            dir.path().join("new:eth2"),
            serde_json::to_vec(&saved("net a net1", "eth2")).unwrap(),
        )
        .unwrap();
        fs::copy(dir.path().join("new:eth2"), dir.path().join("eth3")).unwrap();
        assert_eq!((store.by_name("../eth1"), store.by_name("eth3")), (None, None));
        assert_eq!(store.all().unwrap(), []);
        assert!(!dir.path().join("new:eth2").exists());
    }
}
