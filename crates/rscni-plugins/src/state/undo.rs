//! Taking back the steps of an ADD that fails half way.

use crate::plugin::error::Result;

/// The steps that are to be taken back unless the ADD completes; the last one first.
///
/// A step says how to undo itself right after it succeeded, so every way out of the function, `?` included, leaves
/// the host as it was.
#[derive(Default)]
pub(crate) struct Undo<'a> {
    steps: Vec<Box<dyn FnOnce() -> Result<()> + 'a>>,
}

impl<'a> Undo<'a> {
    /// Registers how to undo the step that has just succeeded.
    pub(crate) fn push(&mut self, step: impl FnOnce() -> Result<()> + 'a) {
        self.steps.push(Box::new(step));
    }

    /// The ADD is complete: nothing is taken back.
    pub(crate) fn commit(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for step in self.steps.drain(..).rev() {
            if let Err(failure) = step() {
                // The error that led here is the one in the reply.
                eprintln!("undo: {failure}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn steps_are_taken_back_last_first_unless_committed() {
        let seen = RefCell::new(Vec::new());
        let run = |commit: bool| {
            let mut undo = Undo::default();
            for step in [1, 2, 3] {
                let seen = &seen;
                undo.push(move || {
                    seen.borrow_mut().push(step);
                    Err(rscni::Error::Internal(
                        "an undo that fails does not stop the others".into(),
                    )
                    .into())
                });
            }
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
