//! Which names the spec and the kernel allow.
//!
//! Every name that comes from outside passes one of these before a path, an interface or a rule is made from it.

use crate::Error;

/// Checks a container id (spec: "Parameters"): an alphanumeric character, then any of these, `_`, `.` and `-`.
///
/// # Errors
/// [`Error::InvalidEnvValue`].
pub fn check_container_id(id: &str) -> Result<(), Error> {
    if is_identifier(id) { Ok(()) } else { Err(Error::InvalidEnvValue(format!("CNI_CONTAINERID={id:?} {IDENTIFIER}"))) }
}

/// Checks a network name (spec: "Configuration format"); the rule is that of container ids.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`].
pub fn check_network_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::InvalidNetworkConfig("the network has no name: set \"name\"".into()));
    }
    if is_identifier(name) { Ok(()) } else { Err(Error::InvalidNetworkConfig(format!("name {name:?} {IDENTIFIER}"))) }
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
    } else if name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace()) {
        Some("holds a character that the kernel does not allow (/, :, white space)")
    } else {
        None
    }
}

/// Checks a plugin's `type`: a plain file name.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if it is empty, `.` or `..`, or holds a path separator or NUL.
pub fn check_plugin_type(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::InvalidNetworkConfig("the plugin has no type: set \"type\" to a plugin's name".into()));
    }
    if matches!(name, "." | "..") || name.contains(['/', '\\', '\0']) {
        return Err(Error::InvalidNetworkConfig(format!(
            "type {name:?} is not the name of a plugin: it must be a file name, without a path"
        )));
    }
    Ok(())
}

const IDENTIFIER: &str = "must start with a letter or digit and go on with letters, digits, '_', '.' or '-'";

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_the_spec() {
        for good in ["a", "0", "A-b_c.d", "cnitool-77383ca0a0715733ca6f"] {
            assert!(check_container_id(good).is_ok() && check_network_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "a\0", "é", "a;b"] {
            assert_eq!(check_container_id(bad).unwrap_err().code(), 4, "{bad:?}");
            assert_eq!(check_network_name(bad).unwrap_err().code(), 7, "{bad:?}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "a.b", "fifteen-letters", "@x", "é"] {
            assert!(check_interface_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "sixteen-letters!", "a/b", "a:b", "a b", "a\tb", "a\0", "eth%d"] {
            assert_eq!(check_interface_name(bad).unwrap_err().code(), 4, "{bad:?}");
        }
    }

    #[test]
    fn plugin_types_are_file_names() {
        assert!(check_plugin_type("host-local").is_ok());
        for bad in ["", ".", "..", "a/b", "/bin/sh", "../x", "a\\b", "a\0"] {
            assert_eq!(check_plugin_type(bad).unwrap_err().code(), 7, "{bad:?}");
        }
    }
}
