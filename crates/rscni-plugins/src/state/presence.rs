//! Whether the namespace of an attachment still exists.

use std::path::Path;

use rscni::runtime::CacheEntry;
use rscni_linux::{Netlink, Netns};

/// Whether a namespace exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The path leads to a namespace.
    Exists,
    /// The path does not exist, or is a file that no namespace is mounted on.
    Gone,
    /// This process cannot open the path, for this reason.
    Unknown(String),
}

/// Returns whether the path leads to a namespace.
pub fn presence(path: &Path) -> Presence {
    match Netns::open(path) {
        Ok(_) => Presence::Exists,
        Err(rscni_linux::Error::NotFound { .. } | rscni_linux::Error::Invalid { .. }) => {
            Presence::Gone
        }
        Err(error) => Presence::Unknown(error.to_string()),
    }
}

/// Whether the path is `/proc/PID/...`.
pub fn is_of_process(path: &Path) -> bool {
    let rest = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next());
    let pid = rest.unwrap_or_default().as_encoded_bytes();
    !pid.is_empty() && pid.iter().all(u8::is_ascii_digit)
}

/// Returns whether the namespace of the attachment exists, or `None` if its path is not known.
///
/// The process id in `/proc/PID/ns/net` may be reused by a process of the host. A path that leads
/// to the caller's namespace without the attachment's interface counts as gone.
pub fn namespace(entry: &CacheEntry) -> Option<Presence> {
    let path = entry.params.netns.as_deref()?;
    let presence = presence(path);
    let is_own = || Netns::open(path)?.is_same(&Netns::current()?);
    let is_reused = presence == Presence::Exists
        && is_of_process(path)
        && is_own().unwrap_or_default()
        && has_its_interface(entry).is_ok_and(|has_it| !has_it);
    Some(if is_reused { Presence::Gone } else { presence })
}

/// Whether the caller's namespace has an interface that the attachment created in its container.
fn has_its_interface(entry: &CacheEntry) -> Result<bool, rscni_linux::Error> {
    let links = Netlink::open()?.links()?;
    let inside = entry.result.interfaces.iter().filter(|interface| interface.sandbox.is_some());
    let mut known = inside.filter_map(|interface| Some((&interface.name, interface.mac.as_ref()?)));
    Ok(known.any(|(name, mac)| {
        links.iter().any(|link| {
            link.name == *name
                && link.mac.is_some_and(|it| it.to_string().eq_ignore_ascii_case(mac))
        })
    }))
}
