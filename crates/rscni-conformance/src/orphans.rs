//! Processes that plugins have started and left running.

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};

/// Adopts the processes that plugins leave running, such as daemons, and kills them on drop.
///
/// It kills all children that this process gets in the meantime, so the process must have no
/// others.
#[derive(Debug)]
pub struct Orphans {
    /// The children that existed before.
    own: Vec<Pid>,
}

impl Orphans {
    /// Starts to adopt processes.
    #[must_use = "the processes are killed on drop"]
    pub fn adopt() -> Self {
        // Best effort: otherwise the system's init adopts them.
        let _ = set_child_subreaper(Some(getpid()));
        Self { own: children() }
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        let is_orphan = |pid: &Pid| !self.own.contains(pid);
        // The children of a killed process are adopted next.
        while let Some(orphan) = children().into_iter().find(is_orphan) {
            let _ = kill_process(orphan, Signal::KILL);
            if waitpid(Some(orphan), WaitOptions::empty()).is_err() {
                break;
            }
        }
        let _ = set_child_subreaper(None);
    }
}

/// Returns the children of this process.
fn children() -> Vec<Pid> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    });
    pids.filter_map(Pid::from_raw).collect()
}
