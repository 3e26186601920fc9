//! Rolls back the steps of a failed ADD.

use crate::error::{Result, unless_absent};

/// The steps to undo unless ADD completes, last one first.
///
/// Each undo is registered before its step, because a step can fail half way, and the kernel can
/// complete a step whose answer is lost. Undoing something absent is not an error.
#[derive(Default)]
pub(crate) struct Undo<'a> {
    steps: Vec<Box<dyn FnOnce() -> Result<()> + 'a>>,
}

impl<'a> Undo<'a> {
    /// Registers how to undo the next step.
    pub(crate) fn push(&mut self, step: impl FnOnce() -> Result<()> + 'a) {
        self.steps.push(Box::new(step));
    }

    /// Registers how to remove what the next step creates. A missing object is not an error.
    pub(crate) fn push_removal(&mut self, remove: impl FnOnce() -> rscni_linux::Result<()> + 'a) {
        self.push(move || unless_absent(remove()));
    }

    /// Drops the undo registered last, for a step that fails without a change.
    pub(crate) fn cancel_last(&mut self) {
        self.steps.pop();
    }

    /// Passes on the outcome of a step that creates something. If it exists, it belongs to another
    /// call, and its undo is dropped.
    pub(crate) fn unless_exists<T>(
        &mut self,
        outcome: rscni_linux::Result<T>,
    ) -> rscni_linux::Result<T> {
        if outcome.as_ref().is_err_and(rscni_linux::Error::is_exists) {
            self.cancel_last();
        }
        outcome
    }

    /// Keeps everything, because ADD is complete.
    pub(crate) fn commit(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for step in self.steps.drain(..).rev() {
            if let Err(failure) = step() {
                // The reply contains the error that caused the rollback.
                eprintln!("undo: {failure}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn steps_are_undone_last_first_unless_committed() {
        let seen = RefCell::new(Vec::new());
        let run = |commit: bool| {
            let mut undo = Undo::default();
            for step in [1, 2, 3, 4] {
                let seen = &seen;
                undo.push(move || {
                    seen.borrow_mut().push(step);
                    Err(rscni::Error::Internal("a failed undo does not stop others".into()).into())
                });
            }
            undo.cancel_last();
            if commit {
                undo.commit();
            }
        };
        run(true);
        assert!(seen.borrow().is_empty());
        run(false);
        assert_eq!(*seen.borrow(), [3, 2, 1]);
    }
}
