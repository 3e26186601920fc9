//! Kernel settings under `/proc/sys`, as `sysctl` reads and writes them.
//!
//! A key is a path (`net/ipv4/conf/eth0.10/forwarding`) or dotted (`net.ipv4.ip_forward`). In a
//! dotted key, as with `sysctl`, a slash stands for a dot within a name:
//! `net.ipv4.conf.eth0/10.forwarding`. The first separator of a key decides which form it has.
//!
//! Network settings belong to a namespace: [`get`] and [`set`] use that of the calling thread,
//! [`get_in`] and [`set_in`] any other.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::{Error, Netns, Result};

const ROOT: &str = "/proc/sys";
/// Larger than nearly all values.
const PAGE: usize = 4096;

/// Returns the value of a setting, without the final newline.
///
/// # Errors
///
/// [`Error::Invalid`] for a malformed key, [`Error::NotFound`] if the kernel has no such setting.
pub fn get(key: &str) -> Result<String> {
    let path = path(key)?;
    // The kernel returns a value in one read, if the buffer is large enough.
    let mut value = vec![0; PAGE];
    let read = || {
        let mut file = open(&path, OFlags::RDONLY)?;
        let length = file.read(&mut value)?;
        value.truncate(length);
        if length == PAGE {
            file.read_to_end(&mut value)?;
        }
        String::from_utf8(value).map_err(io::Error::other)
    };
    match read() {
        Ok(value) => Ok(value.trim_end_matches('\n').to_owned()),
        Err(error) => Err(failed("read", key, error)),
    }
}

/// Sets a value, and returns whether it was written. A setting that already has the value may be
/// read-only, so it is not written.
///
/// # Errors
///
/// As [`get`]; also if the kernel refuses the value.
pub fn set(key: &str, value: &str) -> Result<bool> {
    // Some settings can be written but not read.
    if get(key).is_ok_and(|current| same(&current, value)) {
        return Ok(false);
    }
    write(key, value).map(|()| true)
}

/// Writes a setting even if it already has the value. Some settings have side effects:
/// `net/ipv6/conf/all/disable_ipv6` sets that of every interface.
///
/// # Errors
///
/// As [`set`].
pub fn write(key: &str, value: &str) -> Result<()> {
    let path = path(key)?;
    // Without `O_CREAT`, a missing key is an error and not a new file.
    open(&path, OFlags::WRONLY)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|error| failed("set", key, error))
}

/// Opens a file in one system call; `open` of musl makes a second one for close-on-exec.
fn open(path: &Path, flags: OFlags) -> io::Result<fs::File> {
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Like [`get`], in a namespace.
pub fn get_in(netns: &Netns, key: &str) -> Result<String> {
    netns.enter(|| get(key))?
}

/// Like [`set`], in a namespace.
pub fn set_in(netns: &Netns, key: &str, value: &str) -> Result<bool> {
    netns.enter(|| set(key, value))?
}

/// Sets several values in a namespace, in order, with one change of namespace.
///
/// # Errors
///
/// The first failure; later settings are not changed.
pub fn set_all_in(netns: &Netns, settings: &[(&str, &str)]) -> Result<()> {
    netns.enter(|| settings.iter().try_for_each(|(key, value)| set(key, value).map(drop)))?
}

/// Returns the file of a key.
///
/// # Errors
///
/// [`Error::Invalid`] for a key that is empty, absolute, or leads out of `/proc/sys`.
pub fn path(key: &str) -> Result<PathBuf> {
    let invalid = |reason: &str| Err(Error::invalid(format!("sysctl {key:?}"), reason));
    let dotted = matches!(key.find(['.', '/']), Some(first) if key.as_bytes()[first] == b'.');
    let names: Vec<String> = if dotted {
        key.split('.').map(|name| name.replace('/', ".")).collect()
    } else {
        key.split('/').map(str::to_owned).collect()
    };
    for name in &names {
        if name.is_empty() {
            return invalid("contains an empty name");
        }
        if name == "." || name == ".." {
            return invalid("must not contain . or .. as a name");
        }
        if name.contains('\0') {
            return invalid("contains a NUL byte");
        }
    }
    let mut path = PathBuf::from(ROOT);
    path.extend(names);
    Ok(path)
}

/// Whether two values are equal. The kernel separates several numbers by tabs, people by spaces.
pub fn same(current: &str, value: &str) -> bool {
    current.split_whitespace().eq(value.split_whitespace())
}

fn failed(verb: &str, key: &str, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        Error::not_found(format!("sysctl {key}"))
    } else {
        Error::io(format!("{verb} sysctl {key}"), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_key_forms_map_to_the_file() {
        for (key, file) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.10/forwarding", "net/ipv4/conf/eth0.10/forwarding"),
            ("net.ipv4.conf.eth0/10.forwarding", "net/ipv4/conf/eth0.10/forwarding"),
        ] {
            assert_eq!(path(key).unwrap(), PathBuf::from(ROOT).join(file), "{key}");
        }
    }

    #[test]
    fn key_cannot_escape_proc_sys() {
        for key in [
            "",
            "/",
            "/etc/passwd",
            "../etc/passwd",
            "net/../../etc/passwd",
            "net//ipv4",
            "net..ipv4",
            "net.//.x",
            "net/ipv4/",
            ".net",
            "net/./ipv4",
            "net\0",
        ] {
            assert!(matches!(path(key), Err(Error::Invalid { .. })), "{key:?}");
        }
    }
}
