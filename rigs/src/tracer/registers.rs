//! What the registers mean in which a system call goes in and its result comes out.
//!
//! The only part of the tracer that depends on the architecture. It is written for `x86_64`. On `aarch64` the number
//! of a call that is under way can be changed only through a register set that nix does not have, so calls could be
//! watched there, but not failed; elsewhere tracing is refused before anything is started.

use nix::{errno::Errno, unistd::Pid};

/// A system call as its registers show it at entry.
pub(super) struct Entry {
    pub(super) number: i64,
    pub(super) arguments: [u64; 6],
}

#[cfg(target_arch = "x86_64")]
mod known {
    use nix::sys::ptrace;

    use super::{Entry, Errno, Pid};

    /// Whether this architecture is known.
    pub(in crate::tracer) const KNOWN: bool = true;

    pub(in crate::tracer) fn entry(pid: Pid) -> nix::Result<Entry> {
        let registers = ptrace::getregs(pid)?;
        Ok(Entry {
            number: registers.orig_rax.cast_signed(),
            arguments: [
                registers.rdi,
                registers.rsi,
                registers.rdx,
                registers.r10,
                registers.r8,
                registers.r9,
            ],
        })
    }

    /// The result at exit: what the call gives, or the negative number of an error.
    pub(in crate::tracer) fn result(pid: Pid) -> nix::Result<i64> {
        Ok(ptrace::getregs(pid)?.rax.cast_signed())
    }

    /// At entry: makes the kernel do nothing. The number -1 is no call, and its exit is reported like any other.
    pub(in crate::tracer) fn skip(pid: Pid) -> nix::Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        registers.orig_rax = u64::MAX;
        ptrace::setregs(pid, registers)
    }

    /// At exit: has the program see `error`.
    pub(in crate::tracer) fn set_error(pid: Pid, error: Errno) -> nix::Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        registers.rax = (-i64::from(error as i32)).cast_unsigned();
        ptrace::setregs(pid, registers)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod known {
    use super::{Entry, Errno, Pid};

    pub(in crate::tracer) const KNOWN: bool = false;

    pub(in crate::tracer) fn entry(_: Pid) -> nix::Result<Entry> {
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

pub(super) use known::{KNOWN, entry, result, set_error, skip};
