//! Errors of the plugins: kernel errors get their CNI code here.

use std::fmt::Display;

use rscni::Error;

/// The result of a step of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A CNI error, made from any error of a step.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<rscni_linux::Error> for Failure {
    fn from(error: rscni_linux::Error) -> Self {
        Self(match error {
            // Only the configuration can have brought such a value.
            rscni_linux::Error::Invalid { .. } => Error::InvalidNetworkConfig(error.to_string()),
            // A retry may succeed.
            rscni_linux::Error::Timeout { .. } => Error::TryAgainLater(error.to_string()),
            _ => Error::IOFailure(error.to_string()),
        })
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Adds what was being done to an error.
pub(crate) trait Context<T> {
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Into<Failure>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Failure(error.into().0.context(what)))
    }
}

/// An error about the configuration of a plugin.
pub(crate) fn invalid(plugin: &str, problem: impl Display) -> Failure {
    Failure(Error::InvalidNetworkConfig(format!("{plugin}: {problem}")))
}

/// An error of CHECK: `what` differs from what ADD left.
pub(crate) fn differs(what: impl Display) -> Failure {
    Failure(Error::Custom(
        CHECK_FAILED,
        "the attachment is not as ADD left it".into(),
        what.to_string(),
    ))
}

/// Accepts that the thing to add exists.
pub(crate) fn unless_exists(outcome: rscni_linux::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if !error.is_exists() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Accepts that the thing to remove does not exist.
pub(crate) fn unless_absent(outcome: rscni_linux::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// The code of differences that CHECK finds, in the range for plugins.
const CHECK_FAILED: u32 = 100;

/// Runs all steps of DEL or GC, given as their outcomes, and reports the first error.
pub(crate) fn best_effort<E: Into<Failure>>(
    outcomes: impl IntoIterator<Item = std::result::Result<(), E>>,
) -> Result<()> {
    let mut all = BestEffort::default();
    outcomes.into_iter().for_each(|outcome| all.step(outcome));
    all.finish()
}

/// The outcome of all steps of DEL or GC.
#[derive(Default)]
pub(crate) struct BestEffort {
    first: Option<Failure>,
}

impl BestEffort {
    pub(crate) fn step<E: Into<Failure>>(&mut self, outcome: std::result::Result<(), E>) {
        if let Err(error) = outcome {
            let failure = error.into();
            match &self.first {
                None => self.first = Some(failure),
                Some(_) => eprintln!("{failure}"),
            }
        }
    }

    /// Runs a step of a repair only if `look` finds something missing.
    pub(crate) fn restore_if_missing(
        &mut self,
        look: impl FnOnce() -> Result<()>,
        restore: impl FnOnce() -> Result<()>,
    ) {
        if look().is_err() {
            self.step(restore());
        }
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.first.map_or(Ok(()), Err)
    }
}
