//! Things that an attachment has left behind: everything that did not exist in the network without
//! attachments.

use std::time::{Duration, Instant};

use rscni_test::{Lab, Snapshot};

use super::index;

/// Time that the kernel gets on a busy machine to remove namespaces and links in the background.
const SETTLE: Duration = Duration::from_secs(60);
/// The same for the Go plugins, which often leave something that never goes.
const SETTLE_PEER: Duration = Duration::from_secs(10);

/// Things that may differ between attachments: host-local's last address and index; the addresses
/// and the IPv6 state that the kernel keeps of a `lo` that was up; and the kernel's rule for the
/// first VRF of a namespace.
const CHANGES: [&str; 6] = [
    "/last_reserved_ip.",
    "/.index/",
    "sysctl net/ipv6/conf/lo/disable_ipv6",
    "address 127.0.0.1/8 on lo",
    "address ::1/128 on lo",
    "policy rule 1000: (action 1 table 0)",
];

/// Everything in a network without attachments.
pub(super) fn baseline(lab: &Lab) -> Snapshot {
    CHANGES.iter().fold(lab.snapshot(), |snapshot, text| snapshot.ignoring(text))
}

/// Everything else, once the kernel has finished; and wrong entries of host-local's index.
pub(super) fn since(lab: &Lab, baseline: &Snapshot, is_peer: bool) -> Vec<String> {
    let deadline = Instant::now() + if is_peer { SETTLE_PEER } else { SETTLE };
    let mut pause = Duration::from_millis(5);
    let mut left = loop {
        let left = baseline.changes_to(&lab.snapshot());
        // The kernel does not remove rules and files.
        let is_lasting = |line: &String| {
            [": nft ", "file /var", "file /run"].iter().any(|kind| line.contains(kind))
        };
        if left.is_empty() || left.iter().any(is_lasting) || Instant::now() > deadline {
            break left;
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(200));
    };
    left.extend(index::disagreements());
    left
}
