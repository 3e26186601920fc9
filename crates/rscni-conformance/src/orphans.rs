//! Processes that plugins have started and left behind.

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};

/// What plugins have left running, such as one that makes a daemon of itself, once the workers that called them are
/// gone. It becomes a child of this process, and is ended when this value is dropped.
///
/// So is every other child that this process has got meanwhile: it is for a process that does nothing else.
#[derive(Debug)]
pub struct Orphans {
    /// Who was a child before.
    own: Vec<Pid>,
}

impl Orphans {
    /// Takes them from now on.
    #[must_use = "they are ended when it is dropped"]
    pub fn adopt() -> Self {
        // Where that is not possible they are the system's.
        let _ = set_child_subreaper(Some(getpid()));
        Self { own: children() }
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        let is_orphan = |pid: &Pid| !self.own.contains(pid);
        // The children of who is ended are next.
        while let Some(orphan) = children().into_iter().find(is_orphan) {
            let _ = kill_process(orphan, Signal::KILL);
            if waitpid(Some(orphan), WaitOptions::empty()).is_err() {
                break;
            }
        }
        let _ = set_child_subreaper(None);
    }
}

/// The children of this process, as far as the kernel tells.
fn children() -> Vec<Pid> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    });
    pids.filter_map(Pid::from_raw).collect()
}
