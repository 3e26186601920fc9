//! Registers at entry and exit of a system call.
//!
//! This is the only part of the tracer that depends on the architecture. It supports `x86_64`. On
//! `aarch64` the number of a call in progress can be changed only through a register set that nix
//! lacks, so calls could be watched but not failed; elsewhere tracing is refused before anything is
//! started.

use nix::{errno::Errno, unistd::Pid};

#[cfg(target_arch = "x86_64")]
mod supported {
    use nix::sys::ptrace;

    use super::{Errno, Pid};

    pub(in crate::tracer) const SUPPORTED: bool = true;

    /// Number and arguments at entry.
    pub(in crate::tracer) fn entry(pid: Pid) -> nix::Result<(i64, [u64; 6])> {
        let r = ptrace::getregs(pid)?;
        Ok((r.orig_rax.cast_signed(), [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]))
    }

    /// Result at exit: the value of the call, or the negative number of an error.
    pub(in crate::tracer) fn result(pid: Pid) -> nix::Result<i64> {
        Ok(ptrace::getregs(pid)?.rax.cast_signed())
    }

    /// At entry: makes the kernel do nothing. The number -1 is no call, and its exit is reported
    /// like any other.
    pub(in crate::tracer) fn skip(pid: Pid) -> nix::Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        registers.orig_rax = u64::MAX;
        ptrace::setregs(pid, registers)
    }

    /// At exit: replaces the result by `error`.
    pub(in crate::tracer) fn set_error(pid: Pid, error: Errno) -> nix::Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        registers.rax = (-i64::from(error as i32)).cast_unsigned();
        ptrace::setregs(pid, registers)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod supported {
    use super::{Errno, Pid};

    pub(in crate::tracer) const SUPPORTED: bool = false;

    pub(in crate::tracer) fn entry(_: Pid) -> nix::Result<(i64, [u64; 6])> {
        Err(Errno::ENOSYS)
    }

    pub(in crate::tracer) fn result(_: Pid) -> nix::Result<i64> {
        Err(Errno::ENOSYS)
    }

    pub(in crate::tracer) fn skip(_: Pid) -> nix::Result<()> {
        Err(Errno::ENOSYS)
    }

    pub(in crate::tracer) fn set_error(_: Pid, _: Errno) -> nix::Result<()> {
        Err(Errno::ENOSYS)
    }
}

pub(super) use supported::{SUPPORTED, entry, result, set_error, skip};
