//! Counts the tests that programs report, for the sum at the end of a run.

/// Tests that passed and failed so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
}

impl Tally {
    /// Adds the counts of a line, if it is a `test result:` line of cargo or ends with a displayed
    /// [`Tally`].
    pub fn read(&mut self, line: &str) {
        let counts = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". "),
            None => line.split_once(": "),
        };
        let mut counts = counts.map_or("", |(_, counts)| counts).split([',', ';']);
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
    part?.trim().strip_suffix(what)?.strip_suffix(' ')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_cargo_test_and_of_a_tally_are_summed() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; finished in 0.00s",
            "handover: 10 passed, 1 failed",
            "a line: 5 passengers, 2 failed",
            "",
        ] {
            tally.read(line);
        }
        assert_eq!(tally.to_string(), "14 passed, 3 failed");
    }
}
