//! Replays the seeds and regression inputs in an ordinary test, so that a broken target fails
//! without a fuzzer. Each crate with targets includes this file.

use std::path::Path;

/// Runs `target` on each file of `fuzz/corpus/<name>`.
pub(crate) fn replay(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", directory.display()))
        .iter()
        .map(std::fs::DirEntry::path)
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    for file in files {
        // Shown if the test fails.
        println!("{}", file.display());
        target(&std::fs::read(&file).expect("read the input"));
    }
}
