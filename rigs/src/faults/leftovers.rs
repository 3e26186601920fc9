//! Things that an attachment has left behind: everything that did not exist in the network without
//! attachments.

use rscni_test::{Lab, Snapshot};

use super::index;

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
pub(super) fn since(lab: &Lab, baseline: &Snapshot) -> Vec<String> {
    let mut left = lab.changes_since(baseline);
    left.extend(index::disagreements());
    left
}
