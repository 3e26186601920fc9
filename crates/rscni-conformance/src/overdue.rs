//! When to give up: a plugin that does not answer takes the time limit for each requirement.

use crate::report::Result;

/// How many requirements in a row.
const ENOUGH: usize = 3;

/// Why the others are not tried.
pub(crate) const REASON: &str =
    "not tried: in three requirements in a row, a call took longer than the time limit";

/// How many requirements in a row there were, up to the last one, in which a call was overdue.
#[derive(Default)]
pub(crate) struct Overdue {
    in_a_row: usize,
}

impl Overdue {
    /// Counts a requirement. One that does not concern the plugin, and took no time, is not in the row.
    pub(crate) fn note(&mut self, result: &Result, was_overdue: bool) {
        match result {
            _ if was_overdue => self.in_a_row += 1,
            Result::NotApplicable { .. } => {}
            Result::Pass | Result::Fail(_) => self.in_a_row = 0,
        }
    }

    pub(crate) fn is_enough(&self) -> bool {
        self.in_a_row >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enough_after(requirements: &[(Result, bool)]) -> bool {
        let mut overdue = Overdue::default();
        for (result, was_overdue) in requirements {
            overdue.note(result, *was_overdue);
        }
        overdue.is_enough()
    }

    #[test]
    fn an_answer_begins_a_new_row_and_what_does_not_concern_the_plugin_does_not() {
        let none = || Result::NotApplicable { reason: String::new() };
        let (late, answered, skipped) = ((none(), true), (Result::Pass, false), (none(), false));
        assert!(!enough_after(&[late.clone(), late.clone()]));
        assert!(enough_after(&[late.clone(), late.clone(), late.clone()]));
        assert!(enough_after(&[
            late.clone(),
            skipped.clone(),
            late.clone(),
            skipped,
            late.clone()
        ]));
        assert!(!enough_after(&[late.clone(), late.clone(), answered, late.clone(), late]));
    }
}
