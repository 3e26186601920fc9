//! What came out of each process, in a file: so that a run of an hour can be made in pieces, and what was tried with a
//! program is not mixed with what was tried with another.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{jobs::Job, table::Count};
use xtask::digest::sha256;

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// The hash of the program: ours, or a Go plugin.
    program: String,
    job: Job,
    count: Count,
}

/// The file, if there is to be one.
pub(super) struct Kept {
    path: Option<PathBuf>,
    program: String,
    peer: String,
    entries: Mutex<Vec<Entry>>,
}

impl Kept {
    /// Reads what was kept.
    pub(super) fn open(path: Option<&Path>, rscni: &Path, peer: Option<&Path>) -> Result<Self> {
        let hash = |program: &Path| -> Result<String> {
            Ok(sha256(
                &std::fs::read(program).with_context(|| format!("read {}", program.display()))?,
            ))
        };
        let program = hash(rscni)?;
        let peer = peer.map_or(Ok(String::new()), |set| hash(&set.join("bridge")))?;
        let text = path
            .filter(|path| path.exists())
            .map(std::fs::read_to_string)
            .transpose()
            .context("read what was kept")?;
        let entries =
            text.unwrap_or_default().lines().map(serde_json::from_str).collect::<Result<_, _>>();
        let entries = Mutex::new(entries.context("read what was kept")?);
        Ok(Self { path: path.map(Path::to_owned), program, peer, entries })
    }

    /// What came out of this job with this program, if it was run. One that failed is run again.
    pub(super) fn of(&self, job: &Job) -> Option<Count> {
        let entries = self.entries.lock().expect("no job panics");
        let is_it = |entry: &&Entry| entry.program == self.program_of(job) && entry.job == *job;
        let found = entries.iter().rev().find(is_it).map(|entry| entry.count.clone());
        found.filter(|count| job.peer || count.failed == 0)
    }

    fn program_of(&self, job: &Job) -> &str {
        if job.peer { &self.peer } else { &self.program }
    }

    /// Keeps what came out. What cannot be kept is told, and is no failure of a plugin.
    pub(super) fn add(&self, job: &Job, count: &Count) {
        let Some(path) = &self.path else { return };
        let entry = Entry {
            program: self.program_of(job).to_owned(),
            job: job.clone(),
            count: count.clone(),
        };
        // One at a time.
        let _entries = self.entries.lock().expect("no job panics");
        let write = || -> Result<()> {
            let mut file = std::fs::File::options().create(true).append(true).open(path)?;
            Ok(file.write_all((serde_json::to_string(&entry)? + "\n").as_bytes())?)
        };
        if let Err(error) = write() {
            println!("  {job}: cannot keep what came out in {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(world: &str) -> Job {
        let text = format!(
            r#"{{"world":"{world}","kind":"kill","peer":false,"every":1,"seconds":0,"part":0,"parts":4}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_came_out_is_known_again_for_the_same_program_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (file, program) = (directory.path().join("kept"), directory.path().join("rscni"));
        std::fs::write(&program, "one").unwrap();
        let kept = Kept::open(Some(&file), &program, None).unwrap();
        let held = Count { held: 7, ..Count::default() };
        kept.add(&job("bridge"), &held);
        kept.add(&job("ptp"), &Count { failed: 1, ..Count::default() });
        let again = Kept::open(Some(&file), &program, None).unwrap();
        assert_eq!(again.of(&job("bridge")), Some(held));
        assert_eq!((again.of(&job("ptp")), again.of(&job("tap"))), (None, None));
        std::fs::write(&program, "two").unwrap();
        assert_eq!(Kept::open(Some(&file), &program, None).unwrap().of(&job("bridge")), None);
    }
}
