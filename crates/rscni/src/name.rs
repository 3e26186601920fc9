//! Which names the spec and the kernel allow.
//!
//! Every name that comes from outside passes one of these before a path, an interface or a rule is made from it.

use crate::Error;

/// The longest container id and the longest name of a network, in bytes: files are named after them, with an interface's
/// name and an extension behind, in 255 bytes.
pub const LONGEST_IDENTIFIER: usize = 200;

/// The longest path that the kernel takes, in bytes.
const LONGEST_PATH: usize = 4095;

/// Checks a container id (spec: "Parameters"): an alphanumeric character, then any of these, `_`, `.` and `-`; not more
/// than [`LONGEST_IDENTIFIER`].
///
/// # Errors
/// [`Error::InvalidEnvValue`].
pub fn check_container_id(id: &str) -> Result<(), Error> {
    match identifier_problem(id) {
        None => Ok(()),
        Some(problem) => Err(Error::InvalidEnvValue(format!("CNI_CONTAINERID={id:?} {problem}"))),
    }
}

/// Checks a network name (spec: "Configuration format"); the rule is that of container ids.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`].
pub fn check_network_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::InvalidNetworkConfig("the network has no name: set \"name\"".into()));
    }
    match identifier_problem(name) {
        None => Ok(()),
        Some(problem) => Err(Error::InvalidNetworkConfig(format!("name {name:?} {problem}"))),
    }
}

/// Checks an interface name by the kernel's rules: 1 to 15 bytes, no `/`, `:`, `%` or white space, not `.` or `..`.
///
/// # Errors
/// [`Error::InvalidEnvValue`].
pub fn check_interface_name(name: &str) -> Result<(), Error> {
    match interface_name_problem(name) {
        None => Ok(()),
        Some(problem) => Err(Error::InvalidEnvValue(format!("CNI_IFNAME={name:?} {problem}"))),
    }
}

/// What is wrong with an interface name, as the end of a sentence; none if the kernel takes it.
pub fn interface_name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > 15 {
        Some("is longer than the 15 bytes that the kernel allows")
    } else if name == "." || name == ".." {
        Some("is not a name that the kernel allows")
    } else if name.contains('%') {
        Some("holds a %, of which the kernel makes a number")
    } else if name.contains(|c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace())
        || name.as_bytes().contains(&NBSP)
    {
        Some("holds a character that the kernel does not allow (/, :, white space)")
    } else {
        None
    }
}

/// The kernel knows characters of one byte each, and takes this one for white space, in whatever letter it is.
const NBSP: u8 = 0xa0;

/// Checks a path that a configuration gives as `key`. Which directories it may be in is up to whoever configures.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if it holds NUL, or is longer than the kernel allows.
pub fn check_path(key: &str, path: &str) -> Result<(), Error> {
    if path.contains('\0') {
        return Err(Error::InvalidNetworkConfig(format!(
            "{key}: {path:?} is not a path: remove the NUL character"
        )));
    }
    if path.len() > LONGEST_PATH {
        let problem =
            format!("{key}: {} bytes are too long: a path has up to {LONGEST_PATH}", path.len());
        return Err(Error::InvalidNetworkConfig(problem));
    }
    Ok(())
}

/// Checks a plugin's `type`: a plain file name.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if it is empty, `.` or `..`, or holds a path separator or a control character.
pub fn check_plugin_type(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::InvalidNetworkConfig(
            "the plugin has no type: set \"type\" to a plugin's name".into(),
        ));
    }
    if matches!(name, "." | "..")
        || name.contains(|c: char| matches!(c, '/' | '\\') || c.is_control())
    {
        return Err(Error::InvalidNetworkConfig(format!(
            "type {name:?} is not the name of a plugin: it must be a file name, without a path"
        )));
    }
    Ok(())
}

const IDENTIFIER: &str =
    "must start with a letter or digit and go on with letters, digits, '_', '.' or '-'";

fn identifier_problem(name: &str) -> Option<&'static str> {
    if name.len() > LONGEST_IDENTIFIER {
        return Some(
            "is longer than 200 bytes: give it a shorter one, since files are named after it",
        );
    }
    let is_identifier = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    (!is_identifier).then_some(IDENTIFIER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_the_spec() {
        for good in ["a", "0", "A-b_c.d", "cnitool-77383ca0a0715733ca6f"] {
            assert!(check_container_id(good).is_ok() && check_network_name(good).is_ok(), "{good}");
        }
        let longest = "x".repeat(LONGEST_IDENTIFIER);
        assert!(check_container_id(&longest).is_ok() && check_network_name(&longest).is_ok());
        let longer = longest + "x";
        for bad in
            ["", ".", "..", "-a", "_a", "a/b", "../a", "a b", "a\n", "a\0", "é", "a;b", &longer]
        {
            assert_eq!(check_container_id(bad).unwrap_err().code(), 4, "{bad:?}");
            assert_eq!(check_network_name(bad).unwrap_err().code(), 7, "{bad:?}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "a.b", "fifteen-letters", "@x", "é"] {
            assert!(check_interface_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "sixteen-letters!",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "a\nb",
            "a\0",
            "eth%d",
            "à",
        ] {
            assert_eq!(check_interface_name(bad).unwrap_err().code(), 4, "{bad:?}");
        }
    }

    #[test]
    fn plugin_types_are_file_names() {
        assert!(check_plugin_type("host-local").is_ok());
        for bad in ["", ".", "..", "a/b", "/bin/sh", "../x", "a\\b", "a\0", "a\n"] {
            assert_eq!(check_plugin_type(bad).unwrap_err().code(), 7, "{bad:?}");
        }
    }

    #[test]
    fn paths_end_where_the_kernel_s_do() {
        let longest = "x".repeat(LONGEST_PATH);
        for good in ["/run", "relative", "/a b/\n", &longest] {
            assert_eq!(check_path("dataDir", good), Ok(()), "{good}");
        }
        for bad in ["/run\0/x", &(longest + "x")] {
            let error = check_path("dataDir", bad).unwrap_err();
            assert_eq!(error.code(), 7);
            assert!(error.details().starts_with("dataDir: "), "{error}");
        }
    }
}
