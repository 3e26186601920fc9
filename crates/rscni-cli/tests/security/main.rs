//! The promises of SECURITY.md: malicious input, files of other users, and capabilities. The tests
//! that the page names exist.

mod capabilities;
mod files;
mod input;
mod page;
mod privileges;
#[path = "../support/mod.rs"]
mod support;
