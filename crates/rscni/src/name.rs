//! Validation of names by the rules of the spec and the kernel.
//!
//! Every external name is checked before it becomes part of a path, an interface or a rule.

use crate::Error;

/// Maximum length of a container id and of a network name, in bytes. File names of at most 255
/// bytes consist of one, an interface name and an extension.
pub const LONGEST_IDENTIFIER: usize = 200;

/// Maximum length of a path in the kernel, in bytes.
const LONGEST_PATH: usize = 4095;

/// Checks a container id (spec: "Parameters"): an alphanumeric character, then alphanumeric
/// characters, `_`, `.` and `-`; at most [`LONGEST_IDENTIFIER`] bytes.
///
/// # Errors
/// [`Error::InvalidEnvValue`].
pub fn check_container_id(id: &str) -> Result<(), Error> {
    match identifier_problem(id) {
        None => Ok(()),
        Some(problem) => Err(Error::InvalidEnvValue(format!("CNI_CONTAINERID={id:?} {problem}"))),
    }
}

/// Checks a network name (spec: "Configuration format") by the rules for container ids.
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

/// Checks an interface name by the kernel's rules: 1 to 15 bytes without `/`, `:`, `%` and white
/// space, and not `.` or `..`.
///
/// # Errors
/// [`Error::InvalidEnvValue`].
pub fn check_interface_name(name: &str) -> Result<(), Error> {
    match interface_name_problem(name) {
        None => Ok(()),
        Some(problem) => Err(Error::InvalidEnvValue(format!("CNI_IFNAME={name:?} {problem}"))),
    }
}

/// Returns the reason why the kernel rejects an interface name, as the end of a sentence.
pub fn interface_name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > 15 {
        Some("is longer than the 15 bytes that the kernel allows")
    } else if name == "." || name == ".." {
        Some("is not allowed by the kernel")
    } else if name.contains('%') {
        Some("contains '%', which the kernel replaces by a number")
    } else if name.contains(|c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace())
        || name.as_bytes().contains(&NBSP)
    {
        Some("contains a character that the kernel does not allow (/, :, white space)")
    } else {
        None
    }
}

/// The kernel checks single bytes and treats this one as white space, even inside a UTF-8 letter.
const NBSP: u8 = 0xa0;

/// Checks the path that a configuration sets as `key`, in any directory.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if it contains NUL or is longer than the kernel allows.
pub fn check_path(key: &str, path: &str) -> Result<(), Error> {
    let problem = if path.contains('\0') {
        format!("{key}: {path:?} is not a path: remove the NUL character")
    } else if path.len() > LONGEST_PATH {
        format!("{key}: the path has {} bytes, the maximum is {LONGEST_PATH}", path.len())
    } else {
        return Ok(());
    };
    Err(Error::InvalidNetworkConfig(problem))
}

/// Checks the `type` of a plugin: a plain file name.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if it is empty, `.` or `..`, or contains a path separator or a
/// control character.
pub fn check_plugin_type(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::InvalidNetworkConfig(
            "the plugin has no type: set \"type\" to the name of a plugin".into(),
        ));
    }
    if matches!(name, "." | "..")
        || name.contains(|c: char| matches!(c, '/' | '\\') || c.is_control())
    {
        return Err(Error::InvalidNetworkConfig(format!(
            "type {name:?} is not the name of a plugin: use a file name without a path"
        )));
    }
    Ok(())
}

fn identifier_problem(name: &str) -> Option<&'static str> {
    if name.len() > LONGEST_IDENTIFIER {
        return Some("is longer than 200 bytes: shorten it, since it is part of file names");
    }
    let is_identifier = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    (!is_identifier).then_some(
        "must start with a letter or digit; letters, digits, '_', '.' and '-' may follow",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_checked_by_the_spec() {
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
    fn interface_names_are_checked_by_the_kernels_rules() {
        for good in ["eth0", "a.b", "fifteen-letters", "@x", "é"] {
            assert!(check_interface_name(good).is_ok(), "{good}");
        }
        let too_long_or_special = ["", ".", "..", "sixteen-letters!", "eth%d", "à"];
        let bad_characters = ["a/b", "a:b", "a b", "a\tb", "a\nb", "a\0"];
        for bad in too_long_or_special.into_iter().chain(bad_characters) {
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
    fn paths_are_limited_as_in_the_kernel() {
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
