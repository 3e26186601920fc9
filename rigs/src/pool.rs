//! A pool of threads for independent jobs.

use std::sync::Mutex;

use anyhow::Result;

/// Number of processors.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs all jobs in their order, `at_once` at a time, and returns their results in the same order.
/// After an error the other jobs still run.
pub(crate) fn run<Job: Send, Outcome: Send>(
    jobs: Vec<Job>,
    at_once: usize,
    work: impl Fn(Job) -> Result<Outcome> + Sync,
) -> Result<Vec<Outcome>> {
    let jobs = Mutex::new(jobs.into_iter().enumerate());
    let outcomes = Mutex::new(Vec::new());
    let next = || jobs.lock().expect("no job panics").next();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some((index, job)) = next() {
                    let outcome = work(job);
                    outcomes.lock().expect("no job panics").push((index, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no job panics");
    outcomes.sort_unstable_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn each_job_runs_once_and_an_error_is_returned_at_the_end() {
        let outcomes = run((0..50).collect(), 3, |job| Ok(2 * job)).unwrap();
        assert_eq!(outcomes, (0..50).map(|job| 2 * job).collect::<Vec<i32>>());
        let done = Mutex::new(0);
        let failed = run((0..50).collect(), 3, |job| {
            *done.lock().unwrap() += 1;
            ensure!(job != 7, "seven");
            Ok(())
        });
        assert_eq!(failed.unwrap_err().to_string(), "seven");
        assert_eq!(done.into_inner().unwrap(), 50);
    }
}
