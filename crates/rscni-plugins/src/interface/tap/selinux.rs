//! A tap with a label of `SELinux`.
//!
//! The kernel gives a tap the label of the program that creates it, and a program can only change
//! its label at exec. So `ip` is started with the label, if one is configured.

use std::process::Command;

use rscni::Error;
use rscni_linux::{Netns, Tap};

use crate::plugin::{Failure, Result};

/// The label of the next program of this thread.
const NEXT_LABEL: &str = "/proc/thread-self/attr/exec";

/// Creates the tap as [`Tap::add_in`] does, with the label `context`.
pub(super) fn add(tap: &Tap, netns: &Netns, context: &str) -> Result<()> {
    let file_systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !file_systems.split_whitespace().any(|name| name == "selinuxfs") {
        let problem = "this kernel has no SELinux, or it is switched off: remove the key";
        return Err(Error::InvalidNetworkConfig(problem.into()).into());
    }
    netns.enter(|| {
        std::fs::write(NEXT_LABEL, context)
            .map_err(|error| failed(&format!("{context:?} is refused: {error}")))?;
        let output = Command::new("ip")
            .args(arguments(tap))
            .output()
            .map_err(|error| failed(&format!("start ip, which iproute2 has: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        Err(failed(&format!("ip could not create tap {}: {}", tap.name, words.trim())))
    })?
}

fn failed(problem: &str) -> Failure {
    Error::IOFailure(problem.to_owned()).into()
}

/// The arguments of `ip tuntap add`.
fn arguments(tap: &Tap) -> Vec<String> {
    let mut words =
        ["tuntap", "add", "mode", "tap", "name", &tap.name, "vnet_hdr"].map(str::to_owned).to_vec();
    if tap.multi_queue {
        words.push("multi_queue".into());
    }
    for (word, id) in [("user", tap.owner), ("group", tap.group)] {
        words.extend(id.into_iter().flat_map(|id| [word.to_owned(), id.to_string()]));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_is_asked_for_the_same_tap() {
        let tap = Tap { multi_queue: true, owner: Some(0), ..Tap::new("eth0") };
        assert_eq!(
            arguments(&tap).join(" "),
            "tuntap add mode tap name eth0 vnet_hdr multi_queue user 0"
        );
    }
}
