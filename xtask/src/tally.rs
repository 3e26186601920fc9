//! Counts the tests that programs report, so that a whole run can close with one sum.

/// How many tests passed and failed so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
}

impl Tally {
    /// Adds what a line says, if it is one of cargo's `test result:` lines or one that [`Tally`] displays as.
    pub fn read(&mut self, line: &str) {
        let counts = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ").map(|(_, counts)| counts),
            None => line.split_once(": ").map(|(_, counts)| counts),
        };
        let mut counts = counts.unwrap_or_default().split([',', ';']);
        let passed = count(counts.next(), "passed");
        let failed = count(counts.next(), "failed");
        if let (Some(passed), Some(failed)) = (passed, failed) {
            self.passed += passed;
            self.failed += failed;
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

fn count(part: Option<&str>, what: &str) -> Option<usize> {
    let (number, word) = part?.trim().split_once(' ')?;
    (word == what).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_what_cargo_test_and_the_end_to_end_run_say_and_nothing_else() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "handover: 10 passed, 1 failed",
            "a line: 5 passengers, 2 failed",
            "",
        ] {
            tally.read(line);
        }
        assert_eq!(tally.to_string(), "14 passed, 3 failed");
    }
}
