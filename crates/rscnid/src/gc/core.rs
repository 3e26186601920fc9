//! Which attachments are stale.
//!
//! An attachment is stale if the container runtime does not know its sandbox, its namespace does
//! not exist, and that is confirmed. The runtime does not know a sandbox before its ADD is
//! complete, and the namespace of an attachment is known only from the cache, which is written at
//! the end of ADD. So it is confirmed only after the longest time that an ADD can take, or if an
//! earlier boot left the attachment.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// The sandboxes of the container runtime by id, and whether they are ready.
pub type Sandboxes = BTreeMap<String, bool>;

/// An attachment as the owner of something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The network.
    pub network: String,
    /// The container, which is the sandbox of a pod.
    pub container_id: String,
    /// The interface; some traces name only the container.
    pub ifname: Option<String>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.container_id)?;
        self.ifname.iter().try_for_each(|ifname| write!(f, "/{ifname}"))
    }
}

/// The namespace of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// It exists.
    Exists,
    /// Its path is that of a process, whose id may be reused after a reboot.
    OfProcess,
    /// Its path leads to no namespace.
    Gone(PathBuf),
    /// The cache does not name it, and no namespace has an interface of the attachment.
    NotFound,
    /// This process cannot tell, for this reason.
    Unknown(String),
}

/// Traces of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The owner.
    pub owner: Owner,
    /// The namespace.
    pub namespace: Namespace,
    /// When its files were last changed.
    pub modified: Option<SystemTime>,
    /// Whether the kernel has something of it, which is then of this boot.
    pub is_in_kernel: bool,
}

/// The traces of attachments on a node, taken before the list of sandboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The attachments.
    pub attachments: Vec<Attachment>,
    /// A time before which every file is from an earlier boot.
    pub boot: SystemTime,
    /// The time of the snapshot, by the clock of files.
    pub now: SystemTime,
    /// The time of the snapshot, by a clock that cannot be set.
    pub uptime: Duration,
}

/// Returns a time before which every file is from an earlier boot. `socket` is the time at which
/// the runtime created its socket.
///
/// The clock may have been set since the boot. Set forward, files of this boot seem older than the
/// boot, but not older than the socket that the runtime created before it attached anything. Set
/// back, they seem older than the socket, but not older than the boot.
pub fn boot_time(now: SystemTime, uptime: Duration, socket: Option<SystemTime>) -> SystemTime {
    // File systems take the time of the last tick.
    let boot = now.checked_sub(uptime + Duration::from_secs(1));
    let boot = boot.unwrap_or(SystemTime::UNIX_EPOCH);
    boot.min(socket.unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Why an attachment is stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its last change was before the boot.
    EarlierBoot,
    /// Its namespace does not exist.
    NamespaceGone(PathBuf),
    /// Its namespace is not known, and none has its interface.
    NotFound,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sandbox unknown to the runtime, ")?;
        match self {
            Self::EarlierBoot => f.write_str("left by an earlier boot"),
            Self::NamespaceGone(path) => write!(f, "namespace {} gone", path.display()),
            Self::NotFound => f.write_str("no namespace has its interface"),
        }
    }
}

/// A stale attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The owner.
    pub owner: Owner,
    /// Why it is stale.
    pub reason: Reason,
    /// How long its files are unchanged, or, without files, how long it has been seen.
    pub age: Duration,
    /// Whether it can be removed: no ADD of it can be in progress.
    pub is_confirmed: bool,
}

/// No namespace of a running sandbox is visible, so nothing can be concluded from missing ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no namespace of a running sandbox is visible, so nothing is removed: mount the directory of \
     the runtime's network namespaces (/run/netns) with mountPropagation HostToContainer"
)]
pub struct Blind;

/// The evidence for the time since which an attachment has been stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// This process has seen it in each pass since then. Does not depend on the clock.
    Observation,
    /// The times of its files, for a single pass. The clock must not be set during an ADD.
    Files,
}

/// Decides which attachments are stale, with the memory of earlier passes.
#[derive(Clone, Debug)]
pub struct Core {
    evidence: Evidence,
    grace: Duration,
    first_seen: BTreeMap<Owner, Duration>,
}

impl Core {
    /// `grace` is longer than any ADD takes.
    pub fn new(evidence: Evidence, grace: Duration) -> Self {
        Self { evidence, grace, first_seen: BTreeMap::new() }
    }

    /// Returns the stale attachments. `sandboxes` was listed after the snapshot.
    ///
    /// # Errors
    ///
    /// [`Blind`] if missing namespaces mean nothing.
    pub fn decide(
        &mut self,
        snapshot: &Snapshot,
        sandboxes: &Sandboxes,
    ) -> Result<Vec<Stale>, Blind> {
        if is_blind(snapshot, sandboxes) {
            return Err(Blind);
        }
        let unknown = snapshot
            .attachments
            .iter()
            .filter(|it| !sandboxes.contains_key(&it.owner.container_id));
        let stale: Vec<(&Attachment, Reason)> =
            unknown.filter_map(|it| Some((it, reason(it, snapshot.boot)?))).collect();
        let first_seen = stale.iter().map(|(it, _)| {
            let first = self.first_seen.get(&it.owner).copied().unwrap_or(snapshot.uptime);
            (it.owner.clone(), first)
        });
        self.first_seen = first_seen.collect();
        Ok(stale.into_iter().map(|(it, reason)| self.judge(it, reason, snapshot)).collect())
    }

    fn judge(&self, attachment: &Attachment, reason: Reason, snapshot: &Snapshot) -> Stale {
        let owner = attachment.owner.clone();
        let seen = snapshot.uptime.saturating_sub(self.first_seen[&owner]);
        let unchanged = attachment.modified.map(|it| snapshot.now.duration_since(it));
        let unchanged = unchanged.map(Result::unwrap_or_default);
        let confirmed_for = match self.evidence {
            Evidence::Observation => seen,
            Evidence::Files => unchanged.unwrap_or_default(),
        };
        let is_confirmed = reason == Reason::EarlierBoot || confirmed_for >= self.grace;
        Stale { owner, reason, age: unchanged.unwrap_or(seen), is_confirmed }
    }
}

/// Whether sandboxes are ready, and no namespace of them is visible.
fn is_blind(snapshot: &Snapshot, sandboxes: &Sandboxes) -> bool {
    let of_ready = snapshot
        .attachments
        .iter()
        .filter(|it| sandboxes.get(&it.owner.container_id) == Some(&true));
    let mut gone = 0;
    for attachment in of_ready {
        match attachment.namespace {
            Namespace::Exists | Namespace::OfProcess => return false,
            Namespace::Gone(_) => gone += 1,
            Namespace::NotFound | Namespace::Unknown(_) => {}
        }
    }
    gone > 0
}

/// Returns why an attachment of an unknown sandbox is stale.
fn reason(attachment: &Attachment, boot: SystemTime) -> Option<Reason> {
    let is_earlier =
        !attachment.is_in_kernel && attachment.modified.is_some_and(|modified| modified < boot);
    match &attachment.namespace {
        Namespace::Exists | Namespace::Unknown(_) => None,
        Namespace::OfProcess if !is_earlier => None,
        Namespace::OfProcess | Namespace::Gone(_) | Namespace::NotFound if is_earlier => {
            Some(Reason::EarlierBoot)
        }
        Namespace::Gone(path) => Some(Reason::NamespaceGone(path.clone())),
        Namespace::OfProcess | Namespace::NotFound => Some(Reason::NotFound),
    }
}
