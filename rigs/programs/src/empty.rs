//! Does nothing: what it takes to start a static program and to wait for its end.

fn main() {}
