//! Information from `/proc` about a traced process while it is stopped.

use nix::unistd::Pid;

/// The process of a thread. `None` if it has ended.
pub(super) fn of_thread(thread: Pid) -> Option<Pid> {
    status(thread, "Tgid").and_then(|id| Some(Pid::from_raw(i32::try_from(id).ok()?)))
}

/// Peak resident memory in KiB. Unlike the value of `wait4`, it is reset when a program is
/// executed.
pub(super) fn peak_memory(pid: Pid) -> Option<u64> {
    status(pid, "VmHWM")
}

/// Anonymous memory in KiB. Other resident pages belong to the program's file, and all processes
/// share them.
pub(super) fn own_memory(pid: Pid) -> Option<u64> {
    status(pid, "RssAnon")
}

/// Page faults so far, without those that waited for a disk.
pub(super) fn page_faults(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in parentheses, and may contain spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(7)?.parse().ok()
}

fn status(pid: Pid, key: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_page_faults_and_is_its_own_process() {
        let this = Pid::this();
        assert!(peak_memory(this).unwrap() > 100);
        assert!(page_faults(this).unwrap() > 100);
        assert_eq!(of_thread(this), Some(this));
        assert_eq!(of_thread(nix::unistd::gettid()), Some(this));
    }
}
