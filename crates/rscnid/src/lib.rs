//! The node daemon of rscni for Kubernetes: a pod network.
//!
//! The decisions are made by a pure core, [`podnet::Core`]. The rest waits for events and carries
//! out changes.

pub mod kube;
pub mod metrics;
pub mod podnet;
pub mod run;
pub mod status;
