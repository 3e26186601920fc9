//! Faults: the errors that are tried at each system call, and the codes that are right answers to
//! them.

use nix::{errno::Errno, libc};

use crate::tracer::{Call, Verdict, Watch};

/// A fault at a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL for the plugin and all processes that it has started.
    Kill,
    /// The call is not executed, and returns this error.
    Error(Errno),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kill => f.write_str("kill"),
            Self::Error(errno) => write!(f, "{errno:?}"),
        }
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = std::iter::once(Self::Kill).chain(ERRORS.map(Self::Error));
        faults
            .find(|fault| fault.to_string() == text)
            .ok_or_else(|| format!("`{text}` is neither `kill` nor one of {ERRORS:?}"))
    }
}

use Errno::{EAGAIN, EINTR, EIO, EMFILE, ENOBUFS, ENOMEM, ENOSPC, EPERM};

/// All errors that are tried.
const ERRORS: [Errno; 8] = [ENOSPC, EIO, EMFILE, ENOMEM, EINTR, EAGAIN, EPERM, ENOBUFS];

/// The errors that the kernel can return for a call. There are none for calls without errors, and
/// for calls after whose failure a program can do nothing: its own end, signals, clocks, `execve`
/// and memory, which end the process as a SIGKILL does.
pub(super) fn errors_of(number: i64) -> &'static [Errno] {
    match number {
        libc::SYS_open | libc::SYS_openat | libc::SYS_openat2 | libc::SYS_creat => {
            &[ENOSPC, EIO, EMFILE, ENOMEM, EPERM]
        }
        libc::SYS_mkdir
        | libc::SYS_mkdirat
        | libc::SYS_link
        | libc::SYS_linkat
        | libc::SYS_symlink
        | libc::SYS_symlinkat
        | libc::SYS_rename
        | libc::SYS_renameat
        | libc::SYS_renameat2 => &[ENOSPC, EIO, ENOMEM, EPERM],
        libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 => &[ENOSPC, EIO, EINTR],
        libc::SYS_ftruncate
        | libc::SYS_truncate
        | libc::SYS_fallocate
        | libc::SYS_fsync
        | libc::SYS_fdatasync => &[ENOSPC, EIO],
        libc::SYS_read | libc::SYS_readv | libc::SYS_pread64 => &[EIO, EINTR],
        libc::SYS_getdents64
        | libc::SYS_readlink
        | libc::SYS_readlinkat
        | libc::SYS_stat
        | libc::SYS_fstat
        | libc::SYS_lstat
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_statfs
        | libc::SYS_fstatfs
        | libc::SYS_access
        | libc::SYS_faccessat
        | libc::SYS_faccessat2 => &[EIO, ENOMEM],
        libc::SYS_unlink
        | libc::SYS_unlinkat
        | libc::SYS_rmdir
        | libc::SYS_utimensat
        | libc::SYS_fchmod
        | libc::SYS_fchmodat
        | libc::SYS_fchown
        | libc::SYS_ioctl => &[EIO, EPERM],
        libc::SYS_flock | libc::SYS_poll | libc::SYS_ppoll => &[EINTR, ENOMEM],
        libc::SYS_fcntl | libc::SYS_dup | libc::SYS_dup3 | libc::SYS_pipe2 => &[EMFILE],
        libc::SYS_socket | libc::SYS_socketpair => &[EMFILE, ENOMEM, EPERM],
        libc::SYS_sendto | libc::SYS_sendmsg => &[ENOBUFS, ENOMEM, EINTR, EAGAIN, EPERM],
        libc::SYS_recvfrom | libc::SYS_recvmsg => &[ENOBUFS, ENOMEM, EINTR, EAGAIN],
        libc::SYS_setns
        | libc::SYS_unshare
        | libc::SYS_bind
        | libc::SYS_connect
        | libc::SYS_setsockopt
        | libc::SYS_getsockopt
        | libc::SYS_getsockname => &[ENOMEM, EPERM],
        libc::SYS_clone | libc::SYS_clone3 | libc::SYS_fork | libc::SYS_vfork => &[EAGAIN, ENOMEM],
        // Not `close`: it always closes the file, but a call that is not executed does not.
        libc::SYS_getrandom => &[EINTR],
        _ => &[],
    }
}

/// Whether a code of the spec is a right answer to the error: I/O (5), "try again later" (11) for
/// temporary errors, and for calls that open or read a file also decoding, configuration and
/// namespace (6 to 8). 100 is the plugins' code for an error of the kernel, 999 for an internal
/// one.
pub(super) fn is_right(code: u64, errno: Errno, call: i64) -> bool {
    let reads = matches!(
        call,
        libc::SYS_open
            | libc::SYS_openat
            | libc::SYS_read
            | libc::SYS_pread64
            | libc::SYS_setns
            | libc::SYS_statfs
            | libc::SYS_fstatfs
            | libc::SYS_fstat
            | libc::SYS_stat
            | libc::SYS_newfstatat
            | libc::SYS_statx
            | libc::SYS_ioctl
            | libc::SYS_readlink
            | libc::SYS_readlinkat
    );
    match code {
        5 | 100 | 999 => true,
        11 => matches!(errno, EAGAIN | EINTR | ENOBUFS | ENOMEM | EMFILE),
        6..=8 => reads,
        _ => false,
    }
}

/// Injects a fault at one call of one or more programs.
#[derive(Debug, Default)]
pub(super) struct Injection {
    /// Index of the first call that may be hit, and the fault.
    at: Option<(u64, Fault)>,
    /// Calls of previous programs.
    before: u64,
    /// All calls: number and first argument.
    pub(super) seen: Vec<(i64, u64)>,
    /// The call that was hit.
    pub(super) hit: Option<(i64, u64)>,
}

impl Injection {
    pub(super) fn at(index: u64, fault: Fault) -> Self {
        Self { at: Some((index, fault)), ..Self::default() }
    }

    /// Continues the index after a program that made this many calls.
    pub(super) fn next_program(&mut self, calls: u64) {
        self.before += calls;
    }

    /// Whether the programs were killed.
    pub(super) fn killed(&self) -> bool {
        self.hit.is_some() && matches!(self.at, Some((_, Fault::Kill)))
    }
}

impl Watch for Injection {
    fn entry(&mut self, call: &Call) -> Verdict {
        let seen = (call.number, call.arguments[0]);
        self.seen.push(seen);
        let Some((index, fault)) = self.at else { return Verdict::Pass };
        if self.hit.is_some() || self.before + call.index < index {
            return Verdict::Pass;
        }
        let verdict = match fault {
            Fault::Kill => Verdict::Kill,
            // With several threads or processes another call may have this index. Then the next one
            // is hit.
            Fault::Error(errno) if !errors_of(call.number).contains(&errno) => {
                return Verdict::Pass;
            }
            Fault::Error(errno) => Verdict::Fail(errno),
        };
        self.hit = Some(seen);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_parsed_from_its_display() {
        for fault in std::iter::once(Fault::Kill).chain(ERRORS.map(Fault::Error)) {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert!("EBADF".parse::<Fault>().is_err());
    }

    #[test]
    fn enobufs_is_for_sockets_and_code_7_for_calls_that_read() {
        let with_enobufs =
            (0..500).filter(|number| errors_of(*number).contains(&ENOBUFS)).collect::<Vec<_>>();
        assert_eq!(
            with_enobufs,
            [libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg]
        );
        assert!(is_right(7, EIO, libc::SYS_read) && !is_right(7, EIO, libc::SYS_linkat));
        assert!(is_right(11, EAGAIN, libc::SYS_sendto) && !is_right(11, ENOSPC, libc::SYS_write));
        assert!(!is_right(0, EIO, libc::SYS_read) && !is_right(4, EIO, libc::SYS_read));
    }
}
