//! Checks CNI plugins, in any language, for conformance with the specification.
//!
//! A [`Subject`] is a plugin with a configuration, and the plugins before it in its list. Each
//! [`Requirement`] has an id, a section of the specification, and a check that calls the plugin as
//! a container runtime does. All calls run in separate namespaces and cannot reach the host.
//!
//! [`run`] starts workers, which are new processes of this program ([`work`]), because only a
//! single-threaded process can enter a user namespace. If a plugin leaves something behind, the
//! next requirement gets a new worker with new namespaces. Each worker has a guard process that
//! kills everything left of it, even if the run itself is killed. The [`Report`] is written as
//! text, JSON or `JUnit` XML.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod guard;
mod host;
mod job;
mod orphans;
mod report;
mod requirement;
mod requirements;
mod sample;
mod shape;
mod subject;
mod timeouts;
mod verdict;

pub use job::{run, work};
pub use orphans::Orphans;
pub use report::{Counts, Entry, Report, Result};
pub use requirement::{Level, Requirement};
pub use requirements::ALL;
pub use subject::{Subject, SubjectError, SubjectOptions};
pub use verdict::{CallRecord, Failure};
