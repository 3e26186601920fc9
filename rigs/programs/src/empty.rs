//! Does nothing, to measure the start and the end of a static program.

fn main() {}
