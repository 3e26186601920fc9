//! What SECURITY.md promises: input that is meant to harm, files that others have put in the way, and what each plugin
//! may do.

mod capabilities;
mod files;
mod input;
mod privileges;
#[path = "../support/mod.rs"]
mod support;
