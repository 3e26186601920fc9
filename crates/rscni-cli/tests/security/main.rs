//! What SECURITY.md promises: input that is meant to harm and files that others have put in the way.

mod files;
mod input;
#[path = "../support/mod.rs"]
mod support;
