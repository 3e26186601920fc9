//! The file of `--keep`: results of finished jobs, so that a long run can be made in pieces.
//! Results of another program are ignored.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, Result};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use xtask::digest::sha256;

use super::{jobs::Job, table::Count};

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// SHA-256 of the program: ours, or a Go plugin.
    program: String,
    job: Job,
    count: Count,
}

/// The results file. Without a path it remembers nothing.
pub(super) struct ResultsFile {
    path: Option<PathBuf>,
    program: String,
    peer: String,
    entries: Mutex<Vec<Entry>>,
}

impl ResultsFile {
    /// Reads the file, if it exists.
    pub(super) fn open(path: Option<&Path>, rscni: &Path, peer: Option<&Path>) -> Result<Self> {
        let hash = |program: &Path| Ok::<_, anyhow::Error>(sha256(&fs::read(program)?));
        let text = path.filter(|path| path.exists()).map(fs::read_to_string).transpose()?;
        let entries = text.as_deref().unwrap_or_default().lines().map(serde_json::from_str);
        let entries = entries.collect::<Result<_, _>>().context("read the results file")?;
        Ok(Self {
            path: path.map(Path::to_owned),
            program: hash(rscni)?,
            peer: peer.map_or(Ok(String::new()), |set| hash(&set.join("bridge")))?,
            entries: Mutex::new(entries),
        })
    }

    /// The result of a job with this program. A job that failed runs again.
    pub(super) fn of(&self, job: &Job) -> Option<Count> {
        let entries = self.entries.lock().expect("no job panics");
        let is_it = |entry: &&Entry| entry.program == self.program_of(job) && entry.job == *job;
        let found = entries.iter().rev().find(is_it).map(|entry| entry.count.clone());
        found.filter(|count| job.peer || count.failed == 0)
    }

    fn program_of(&self, job: &Job) -> &str {
        if job.peer { &self.peer } else { &self.program }
    }

    /// Appends a result. An error is printed; it is no failure of a plugin.
    pub(super) fn add(&self, job: &Job, count: &Count) {
        let Some(path) = &self.path else { return };
        let program = self.program_of(job).to_owned();
        let entry = Entry { program, job: job.clone(), count: count.clone() };
        // One writer at a time.
        let _entries = self.entries.lock().expect("no job panics");
        let write = || -> Result<()> {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
            Ok(file.write_all((serde_json::to_string(&entry)? + "\n").as_bytes())?)
        };
        if let Err(error) = write() {
            println!("  {job}: cannot write the result: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(list: &str) -> Job {
        let text = format!(
            r#"{{"list":"{list}","kind":"kill","peer":false,"every":1,"seconds":0,"part":0,"parts":4}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_result_is_found_again_for_the_same_program() {
        let directory = tempfile::tempdir().unwrap();
        let [file, program] = ["results", "rscni"].map(|name| directory.path().join(name));
        fs::write(&program, "one").unwrap();
        let open = || ResultsFile::open(Some(&file), &program, None).unwrap();
        let results = open();
        let passed = Count { passed: 7, ..Count::default() };
        results.add(&job("bridge"), &passed);
        results.add(&job("ptp"), &Count { failed: 1, ..Count::default() });
        let again = open();
        assert_eq!(again.of(&job("bridge")), Some(passed));
        assert_eq!((again.of(&job("ptp")), again.of(&job("tap"))), (None, None));
        fs::write(&program, "two").unwrap();
        assert_eq!(open().of(&job("bridge")), None);
    }
}
