//! The node daemon of rscni for Kubernetes: a pod network, and garbage collection.
//!
//! The decisions are made by pure cores, [`podnet::Core`] and [`gc::core::Core`]. The rest waits
//! for events and carries out changes.

pub mod gc;
pub mod kube;
pub mod metrics;
pub mod podnet;
pub mod report;
pub mod run;
pub mod status;
