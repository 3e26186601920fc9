//! What SECURITY.md promises: input that is meant to harm, files that others have put in the way, and what each plugin
//! may do; and that the tests which the page names are there.

mod capabilities;
mod files;
mod input;
mod page;
mod privileges;
#[path = "../support/mod.rs"]
mod support;
