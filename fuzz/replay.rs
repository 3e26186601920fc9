//! Replays what fuzzing began with and what it found, in an ordinary test: so a target that no longer compiles, or
//! whose properties no longer hold, fails without a fuzzer. Each crate that has targets includes this file.

use std::path::Path;

/// Runs `target` on each file of `fuzz/corpus/<name>`.
pub(crate) fn replay(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .unwrap_or_else(|error| panic!("list {}: {error}", directory.display()))
        .iter()
        .map(std::fs::DirEntry::path)
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no file", directory.display());
    for file in files {
        let bytes =
            std::fs::read(&file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
        // Shown if the test fails.
        println!("{}", file.display());
        target(&bytes);
    }
}
