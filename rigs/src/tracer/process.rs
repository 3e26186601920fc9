//! What `/proc` tells of a traced process while it is stopped.

use std::path::PathBuf;

use nix::unistd::Pid;

/// The process that a thread belongs to. `None` when it is gone.
pub(super) fn of_thread(thread: Pid) -> Option<Pid> {
    status(thread, "Tgid")
        .map(|id| Pid::from_raw(i32::try_from(id).expect("the kernel's own number of a process")))
}

/// The most memory that the program had at a time, in KiB. It starts anew when a program is executed, which what
/// `wait4` tells does not.
pub(super) fn peak_memory(pid: Pid) -> Option<u64> {
    status(pid, "VmHWM")
}

/// The memory that a process shares with no file, in KiB: what it has only because it runs. The rest of what is resident
/// are pages of its program, which are in memory once, however many processes run it.
pub(super) fn own_memory(pid: Pid) -> Option<u64> {
    status(pid, "RssAnon")
}

/// The page faults of a process so far, without those that had to wait for a disk.
pub(super) fn page_faults(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(file(pid, "stat")).ok()?;
    // The program's name is in parentheses, and may have spaces and parentheses itself.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(7)?.parse().ok()
}

fn status(pid: Pid, key: &str) -> Option<u64> {
    let status = std::fs::read_to_string(file(pid, "status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

fn file(pid: Pid, name: &str) -> PathBuf {
    format!("/proc/{pid}/{name}").into()
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
