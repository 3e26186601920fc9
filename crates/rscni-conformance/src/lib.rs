//! Holds a CNI plugin against the specification, whatever language it is written in.
//!
//! A [`Subject`] is a plugin with a configuration, and the plugins before it in its list. Every [`Requirement`] has an
//! id, the section of the specification that it is from, and a check, which calls the plugin as a container runtime
//! does. All of it happens in namespaces of its own, where nothing of the host can be reached.
//!
//! [`run`] starts workers, which are this program once more ([`work`]): a process has to have one thread to enter a
//! user namespace, and a plugin that leaves something behind spoils the world for the requirements that come after, so
//! that a new one is made then. Each has a guard, another process of this program, which ends all that is left of the worker,
//! also when the run itself is killed. What comes out is a [`Report`], as text, JSON or `JUnit` XML.

mod guard;
mod job;
mod orphans;
mod overdue;
mod report;
mod requirement;
mod requirements;
mod sample;
mod shape;
mod subject;
mod verdict;
mod world;

pub use job::{run, work};
pub use orphans::Orphans;
pub use report::{Counts, Entry, Report, Result};
pub use requirement::{Level, Requirement};
pub use requirements::ALL;
pub use subject::{Subject, SubjectError, Wanted};
pub use verdict::{CallRecord, Failure};
