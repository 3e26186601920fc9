//! Work that is shared out among threads.

use std::sync::Mutex;

use anyhow::Result;

/// How many processors there are.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does all jobs, the first ones first, and so many at a time. What comes of them is in the order in which they ended. After
/// an error the others are done all the same.
pub(crate) fn share_out<Job: Send, Outcome: Send>(
    jobs: Vec<Job>,
    at_once: usize,
    work: impl Fn(Job) -> Result<Outcome> + Sync,
) -> Result<Vec<Outcome>> {
    let jobs = Mutex::new(jobs.into_iter());
    let outcomes = Mutex::new(Vec::new());
    let next = || jobs.lock().expect("no job panics").next();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let outcome = work(job);
                    outcomes.lock().expect("no job panics").push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().expect("no job panics").into_iter().collect()
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn each_job_is_done_once_and_an_error_is_told() {
        let mut outcomes = share_out((0..50).collect(), 3, |job| Ok(2 * job)).unwrap();
        outcomes.sort_unstable();
        assert_eq!(outcomes, (0..50).map(|job| 2 * job).collect::<Vec<i32>>());
        let done = Mutex::new(0);
        let failed = share_out((0..50).collect(), 3, |job| {
            *done.lock().unwrap() += 1;
            ensure!(job != 7, "seven");
            Ok(())
        });
        assert_eq!(
            (failed.unwrap_err().to_string(), done.into_inner().unwrap()),
            ("seven".to_owned(), 50)
        );
    }
}
