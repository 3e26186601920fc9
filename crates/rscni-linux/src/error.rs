//! Errors of kernel operations.
//!
//! Every error names the operation and its object, then the kernel's answer. Callers map errors to
//! CNI codes; this crate knows nothing of CNI.

use std::{borrow::Cow, io};

use rustix::io::Errno;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation: the action, its object, and the reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("{action}: {}{}", describe_errno(*errno), explanation(*errno, extack.as_deref()))]
    Netlink {
        /// The action, such as `create veth vethab12 with peer eth0`.
        action: String,
        /// The error number, positive as in `errno(3)`.
        errno: i32,
        /// The message of the kernel (`NLMSGERR_ATTR_MSG`), if it sent one.
        extack: Option<String>,
    },
    /// A system call failed.
    #[error("{action}: {}", describe_io(source))]
    Io {
        /// The action, such as `open network namespace /run/netns/a`.
        action: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The object does not exist, or no longer exists.
    #[error("{what} does not exist")]
    NotFound {
        /// The object, such as `interface eth0`.
        what: String,
    },
    /// The caller passed an unusable value.
    #[error("{what}: {reason}")]
    Invalid {
        /// The value or object.
        what: String,
        /// The reason why it cannot be used.
        reason: String,
    },
    /// The answer of the kernel could not be parsed.
    #[error("{action}: cannot parse the kernel's answer: {reason}")]
    Decode {
        /// The action.
        action: String,
        /// The part of the answer that was wrong.
        reason: String,
    },
    /// An expected state was not reached in time.
    #[error("{what} timed out")]
    Timeout {
        /// The expected event.
        what: String,
    },
}

impl Error {
    /// Returns the error number, if the kernel returned one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink { errno, .. } => Some(*errno),
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    pub(crate) fn has_errno(&self, errno: Errno) -> bool {
        self.errno() == Some(errno.raw_os_error())
    }

    /// Whether the object already exists (`EEXIST`).
    pub fn is_exists(&self) -> bool {
        self.has_errno(Errno::EXIST)
    }

    /// Whether the object, or one that it needs, does not exist (`ENODEV`, `ENOENT`, `ENXIO`,
    /// `ESRCH`, `EADDRNOTAVAIL` or [`Error::NotFound`]).
    pub fn is_not_found(&self) -> bool {
        // The kernel returns the last two for a missing route and a missing address.
        const ABSENT: [Errno; 5] =
            [Errno::NODEV, Errno::NOENT, Errno::NXIO, Errno::SRCH, Errno::ADDRNOTAVAIL];
        matches!(self, Self::NotFound { .. }) || ABSENT.iter().any(|errno| self.has_errno(*errno))
    }

    /// Whether the object is in use (`EBUSY`).
    pub fn is_busy(&self) -> bool {
        self.has_errno(Errno::BUSY)
    }

    /// Whether permission was denied (`EPERM`, `EACCES`).
    pub fn is_permission(&self) -> bool {
        self.has_errno(Errno::PERM) || self.has_errno(Errno::ACCESS)
    }

    /// Whether the kernel does not support the operation (`EOPNOTSUPP`).
    pub fn is_unsupported(&self) -> bool {
        self.has_errno(Errno::OPNOTSUPP)
    }

    pub(crate) fn io(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { action: action.into(), source: source.into() }
    }

    /// Like [`Error::io`], naming the capability if it is missing.
    pub(crate) fn io_with(
        capability: &str,
        action: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        let (mut action, source) = (action.into(), source.into());
        if source.raw_os_error() == Some(Errno::PERM.raw_os_error()) {
            action = format!("{action} ({capability} is needed)");
        }
        Self::Io { action, source }
    }

    pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    pub(crate) fn decode(action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Decode { action: action.into(), reason: reason.into() }
    }
}

/// Formats an error number as `Operation not permitted (EPERM)`.
fn describe_errno(errno: i32) -> String {
    // rustix has no names for its error numbers.
    match nix::errno::Errno::from_raw(errno) {
        nix::errno::Errno::UnknownErrno => format!("error {errno}"),
        known => format!("{} ({known:?})", known.desc()),
    }
}

fn describe_io(error: &io::Error) -> Cow<'static, str> {
    match error.raw_os_error() {
        Some(errno) => describe_errno(errno).into(),
        None => error.to_string().into(),
    }
}

/// Returns the text after the error's name: the kernel's message or the missing capability.
fn explanation(errno: i32, extack: Option<&str>) -> String {
    match extack {
        Some(message) => format!("; {message}"),
        None if errno == Errno::PERM.raw_os_error() => "; CAP_NET_ADMIN is needed".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: Errno, extack: Option<&str>) -> Error {
        Error::Netlink {
            action: "attach vethab12cd34 to cni0".to_owned(),
            errno: errno.raw_os_error(),
            extack: extack.map(str::to_owned),
        }
    }

    #[test]
    fn permission_error_names_action_and_capability() {
        assert_eq!(
            refused(Errno::PERM, None).to_string(),
            "attach vethab12cd34 to cni0: Operation not permitted (EPERM); CAP_NET_ADMIN is needed"
        );
    }

    #[test]
    fn message_of_the_kernel_is_shown() {
        assert!(
            refused(Errno::INVAL, Some("Device can not be enslaved while up"))
                .to_string()
                .ends_with("(EINVAL); Device can not be enslaved while up")
        );
    }

    #[test]
    fn errors_are_classified() {
        assert!(refused(Errno::EXIST, None).is_exists());
        assert!(refused(Errno::NODEV, None).is_not_found());
        assert!(Error::not_found("interface eth0").is_not_found());
        assert!(refused(Errno::BUSY, None).is_busy());
        assert!(refused(Errno::PERM, None).is_permission());
        assert!(!refused(Errno::PERM, None).is_exists());
        let gone = Error::io("open a", Errno::NOENT);
        assert!(gone.is_not_found());
        assert_eq!(gone.to_string(), "open a: No such file or directory (ENOENT)");
    }
}
