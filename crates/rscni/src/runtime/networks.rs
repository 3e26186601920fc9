//! The networks that containers are attached to, in order.

use std::{path::PathBuf, sync::LazyLock, time::SystemTime};

use super::{
    ConfDir, NetConfList,
    conf_dir::{Stamp, stamps},
};
use crate::Error;

/// The networks that containers are attached to, in order, with the interface of each.
///
/// The first network is the default network, with the interface `eth0`. By convention it is the
/// first file of a directory, in lexical order:
///
/// ```
/// use rscni::runtime::Networks;
///
/// let networks = Networks::first_in("/etc/cni/net.d").with_loopback();
/// match networks.ready() {
///     Ok(networks) => println!("interfaces: {:?}", networks.iter().map(|it| &it.ifname)),
///     Err(error) => println!("the network is not ready: {error}"),
/// }
/// ```
///
/// If a file that decides about the networks is invalid, [`ready`](Self::ready) and all operations
/// fail with an error that names it. The next file never takes its place, since containers would
/// be attached to another network. A daemon can start before its network is installed.
#[derive(Clone, Debug)]
pub struct Networks {
    source: Source,
    lists: Result<Vec<NetConfList>, Error>,
    /// The files as they were when `lists` was read.
    files: Option<Files>,
    has_loopback: bool,
    prefix: String,
    minimum: usize,
    is_parallel: bool,
}

/// A network with the container interface of its attachments.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Network<'a> {
    /// The container interface.
    pub ifname: String,
    /// The configuration.
    pub list: &'a NetConfList,
}

/// The origin of the configurations.
#[derive(Clone, Debug)]
enum Source {
    Memory,
    Dir(PathBuf, Choice),
}

/// The networks of a directory that are used.
#[derive(Clone, Debug)]
enum Choice {
    First,
    All,
    Named(Vec<String>),
}

impl Networks {
    /// The default network of a directory: that of its first file, in lexical order.
    pub fn first_in(dir: impl Into<PathBuf>) -> Self {
        Self::in_dir(dir, Choice::First)
    }

    /// All networks of a directory, in the lexical order of their files. Each file must be valid.
    pub fn all_in(dir: impl Into<PathBuf>) -> Self {
        Self::in_dir(dir, Choice::All)
    }

    /// The networks of a directory with these names, in the order of the names.
    ///
    /// Invalid files do not matter if all names are found. Of several networks with one name, that
    /// of [`ConfDir::find`] is used.
    pub fn named_in<N: Into<String>>(
        dir: impl Into<PathBuf>,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        Self::in_dir(dir, Choice::Named(names.into_iter().map(Into::into).collect()))
    }

    /// Networks that are not in a directory, in this order.
    pub fn of(lists: impl IntoIterator<Item = NetConfList>) -> Self {
        Self::new(Source::Memory, Ok(lists.into_iter().collect()))
    }

    fn in_dir(dir: impl Into<PathBuf>, choice: Choice) -> Self {
        let mut networks = Self::new(Source::Dir(dir.into(), choice), Ok(Vec::new()));
        networks.reload();
        networks
    }

    fn new(source: Source, lists: Result<Vec<NetConfList>, Error>) -> Self {
        Self {
            source,
            lists,
            files: None,
            has_loopback: false,
            prefix: "eth".into(),
            minimum: 1,
            is_parallel: false,
        }
    }

    /// Adds a network of the plugin `loopback` before all others, with the interface `lo`.
    #[must_use]
    pub fn with_loopback(mut self) -> Self {
        self.has_loopback = true;
        self
    }

    /// Sets the prefix of the interfaces, which are numbered from 0; `eth` by default.
    #[must_use]
    pub fn with_interface_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the number of networks that must exist, without the loopback network; 1 by default.
    #[must_use]
    pub fn with_minimum(mut self, count: usize) -> Self {
        self.minimum = count;
        self
    }

    /// Lets a container be attached to all networks at the same time, as containerd does.
    ///
    /// By default, it is attached to one network after the other, up to the first failure: a
    /// runtime must not invoke parallel operations for the same container (spec: "Lifecycle &
    /// Ordering"). Use this only if all plugins allow it.
    #[must_use]
    pub fn in_parallel(mut self) -> Self {
        self.is_parallel = true;
        self
    }

    /// Returns the networks in order.
    ///
    /// # Errors
    /// The error of an invalid file, which it names; [`Error::IOFailure`] if the directory cannot
    /// be read; [`Error::PluginNotAvailable`] if there are fewer networks than
    /// [required](Self::with_minimum); [`Error::InvalidNetworkConfig`] if there is no network with
    /// a requested name.
    pub fn ready(&self) -> Result<Vec<Network<'_>>, Error> {
        let lists = self.lists.as_ref().map_err(Clone::clone)?;
        if lists.len() < self.minimum {
            let origin = match &self.source {
                Source::Memory => String::new(),
                Source::Dir(dir, _) => format!(
                    " in {}: install a network configuration (*.conflist, *.conf, *.json)",
                    dir.display()
                ),
            };
            let (count, minimum) = (lists.len(), self.minimum);
            let text = format!("networks: {count}, required: {minimum}{origin}");
            return Err(Error::PluginNotAvailable(text));
        }
        let mut networks = Vec::with_capacity(lists.len() + 1);
        if self.has_loopback {
            let list = LOOPBACK.as_ref().map_err(Clone::clone)?;
            networks.push(Network { ifname: "lo".into(), list });
        }
        networks.extend(
            lists
                .iter()
                .enumerate()
                .map(|(index, list)| Network { ifname: format!("{}{index}", self.prefix), list }),
        );
        Ok(networks)
    }

    /// Reads the files again. Networks that are not in a directory stay the same.
    pub fn reload(&mut self) {
        if let Source::Dir(dir, choice) = &self.source {
            // Before the files are read, so that a later change is noticed by the next call.
            self.files = Files::of(dir);
            self.lists = ConfDir::load(dir).and_then(|dir| choice.of(&dir));
        }
    }

    /// Reads the files again if one was added, removed or changed. Returns whether the networks, or
    /// the error in their place, are different now.
    ///
    /// Without a change, it lists the directory and looks at each file once without opening it:
    /// some microseconds per file. So it can be called before each operation. The files are also
    /// read if the last change is less than two seconds old, since the file system may not
    /// distinguish two changes within its resolution of time.
    pub fn reload_if_changed(&mut self) -> bool {
        let Source::Dir(dir, _) = &self.source else { return false };
        if self.files.as_ref().is_some_and(|files| files.are_settled && files.are_in(dir)) {
            return false;
        }
        let before = self.lists.clone();
        self.reload();
        self.lists != before
    }

    /// Lets the files count as not changed recently.
    #[cfg(test)]
    pub(super) fn settle(&mut self) {
        self.files.as_mut().unwrap().are_settled = true;
    }

    /// Remembers the present files, without reading them.
    #[cfg(test)]
    pub(super) fn stamp_again(&mut self) {
        let Source::Dir(dir, _) = &self.source else { return };
        self.files = Files::of(dir);
    }

    pub(super) fn is_parallel(&self) -> bool {
        self.is_parallel
    }
}

impl Choice {
    fn of(&self, dir: &ConfDir) -> Result<Vec<NetConfList>, Error> {
        let all = || dir.networks.iter().map(|(_, list)| list.clone()).collect();
        match self {
            Self::First => Ok(dir.first()?.cloned().into_iter().collect()),
            Self::All => dir.broken.first().map_or_else(|| Ok(all()), |(_, e)| Err(e.clone())),
            Self::Named(names) => names.iter().map(|name| dir.find(name).cloned()).collect(),
        }
    }
}

/// The network that brings up the loopback interface, under the name that go-cni gives it: so each
/// can detach what the other has attached.
static LOOPBACK: LazyLock<Result<NetConfList, Error>> = LazyLock::new(|| {
    NetConfList::from_json(
        br#"{ "cniVersion": "1.0.0", "name": "cni-loopback", "plugins": [{ "type": "loopback" }] }"#,
    )
});

/// The files of a directory of networks.
#[derive(Clone, Debug)]
struct Files {
    stamps: Vec<Stamp>,
    /// Whether another change would be visible in the times of the files.
    are_settled: bool,
}

impl Files {
    /// Resolution of the times of file systems, in seconds.
    const RESOLUTION: u64 = 2;

    /// Returns `None` if the directory cannot be read.
    fn of(dir: &std::path::Path) -> Option<Self> {
        let stamps = stamps(dir).ok()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let last = i64::try_from(now.saturating_sub(Self::RESOLUTION)).ok()?;
        Some(Self { are_settled: stamps.iter().all(|stamp| stamp.changed.0 < last), stamps })
    }

    fn are_in(&self, dir: &std::path::Path) -> bool {
        stamps(dir).is_ok_and(|stamps| stamps == self.stamps)
    }
}
