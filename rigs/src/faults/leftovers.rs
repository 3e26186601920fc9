//! What an attachment has left behind: everything that was not there when the network had no attachment.

use std::time::{Duration, Instant};

use rscni_test::{Lab, Snapshot};

use super::index;

/// How long the kernel may take on a busy machine to finish what it does in the background after a namespace or a link
/// went away.
const SETTLE: Duration = Duration::from_secs(60);
/// The same where something is often left, and all that time waited for.
const SETTLE_PEER: Duration = Duration::from_secs(10);

/// What legitimately differs from one attachment to the next: which address was given last, the index that says
/// the same as the directory faster, what the kernel keeps of a `lo` that was up once: its own addresses, and that IPv6
/// was switched on for it; and the rule for VRFs that it makes with a namespace's first one.
const CHANGES: [&str; 6] = [
    "/last_reserved_ip.",
    "/.index/",
    "sysctl net/ipv6/conf/lo/disable_ipv6",
    "address 127.0.0.1/8 on lo",
    "address ::1/128 on lo",
    "policy rule 1000: (action 1 table 0)",
];

/// Everything that is there in a network without attachments.
pub(super) fn baseline(lab: &Lab) -> Snapshot {
    CHANGES.iter().fold(lab.snapshot(), |snapshot, text| snapshot.ignoring(text))
}

/// What is there beside that, once the kernel has come to rest; and what host-local's index says that is not so.
pub(super) fn since(lab: &Lab, baseline: &Snapshot, is_peer: bool) -> Vec<String> {
    let mut left = at_rest(lab, baseline, if is_peer { SETTLE_PEER } else { SETTLE });
    left.extend(index::disagreements());
    left
}

fn at_rest(lab: &Lab, baseline: &Snapshot, settle: Duration) -> Vec<String> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let left = baseline.changes_to(&lab.snapshot());
        // Rules and files do not go by themselves.
        let is_lasting = |line: &String| {
            [": nft ", "file /var", "file /run"].iter().any(|kind| line.contains(kind))
        };
        if left.is_empty() || left.iter().any(is_lasting) || begin.elapsed() > settle {
            return left;
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(200));
    }
}
