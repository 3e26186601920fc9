//! The allow list of the node: the sysctls that a configuration may set. Without the file it may
//! set any.

use regex_lite::Regex;
use rscni::Error;

use super::config::Sysctl;
use crate::plugin::Result;

/// The file, with one regular expression per line, which may match any part of a key.
const FILE: &str = "/etc/cni/tuning/allowlist.conf";

/// Rejects sysctls whose key, as written in the configuration, matches no line of the file.
pub(super) fn check(sysctls: &[Sysctl]) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let text = match std::fs::read_to_string(FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::IOFailure(format!("read {FILE}: {error}")).into()),
    };
    let keys: Vec<&str> = sysctls.iter().map(|sysctl| sysctl.key.as_str()).collect();
    Ok(check_keys(&text, &keys).map_err(Error::InvalidNetworkConfig)?)
}

fn check_keys(text: &str, keys: &[&str]) -> std::result::Result<(), String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    for key in keys {
        let mut is_allowed = false;
        for line in &lines {
            let pattern =
                Regex::new(line).map_err(|problem| format!("{FILE}: {line}: {problem}"))?;
            if pattern.is_match(key) {
                is_allowed = true;
                break;
            }
        }
        if !is_allowed {
            let allowed = if lines.is_empty() { "none".into() } else { lines.join(", ") };
            return Err(format!("sysctl {key} is not allowed; {FILE} allows: {allowed}"));
        }
    }
    Ok(())
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let list = String::from_utf8_lossy(data);
    let key = "net.core.somaxconn";
    if check_keys(&list, &[key]).is_ok() {
        check_keys(&format!("{list}\n*"), &[key])
            .expect("what comes after a line that matches does not matter");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_needs_a_line_that_matches_it() {
        let list = "\n  ^net.ipv4.conf.IFNAME.arp_filter$  \r\n\n^net\\.core\\.\n";
        check_keys(list, &["net.ipv4.conf.IFNAME.arp_filter", "net/ipv4/conf/IFNAME/arp_filter"])
            .unwrap();
        check_keys(list, &["net.core.somaxconn"]).unwrap();
        let error = check_keys(list, &["net.core.somaxconn", "net.ipv4.ip_forward"]).unwrap_err();
        assert!(
            error.contains("net.ipv4.ip_forward is not allowed")
                && error.contains("^net\\.core\\."),
            "{error}"
        );
        assert!(check_keys(list, &["net/core/somaxconn"]).is_err());
        assert!(check_keys(list, &["net.ipv4.conf.IFNAME.arp_filter_"]).is_err());
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        assert!(check_keys("\n \n", &["net.core.somaxconn"]).unwrap_err().contains("allows: none"));
        check_keys("", &[]).unwrap();
    }

    #[test]
    fn an_invalid_pattern_is_an_error_unless_an_earlier_one_matches() {
        check_keys("^net\n*", &["net.x"]).unwrap();
        assert!(check_keys("*\n^net", &["net.x"]).unwrap_err().contains("allowlist.conf: *: "));
    }
}
