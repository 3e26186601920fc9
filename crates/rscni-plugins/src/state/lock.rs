//! Waiting for other processes.

use std::os::fd::AsFd;

use rustix::{
    fs::{FlockOperation, flock},
    io::{Result, retry_on_intr},
};

/// Waits until nobody else has the file locked, and keeps it until it is closed. A signal does not end the wait.
pub(crate) fn lock(file: impl AsFd) -> Result<()> {
    retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
}
