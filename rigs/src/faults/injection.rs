//! Which call is hit, and by what: which errors make sense for which call, and which answer to them is right.

use nix::{errno::Errno, libc};

use crate::tracer::{Call, Verdict, Watch};

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    /// SIGKILL for the plugin and all that it has started.
    Kill,
    /// The call is not made, and fails with this error.
    Error(Errno),
}

impl std::fmt::Display for Blow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kill => f.write_str("kill"),
            Self::Error(errno) => write!(f, "{errno:?}"),
        }
    }
}

impl std::str::FromStr for Blow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "kill" {
            return Ok(Self::Kill);
        }
        let known = ERRORS.iter().find(|errno| format!("{errno:?}") == text);
        known
            .map(|errno| Self::Error(*errno))
            .ok_or_else(|| format!("`{text}` is neither `kill` nor one of {ERRORS:?}"))
    }
}

use Errno::{EAGAIN, EINTR, EIO, EMFILE, ENOBUFS, ENOMEM, ENOSPC, EPERM};

/// All errors that are tried.
const ERRORS: [Errno; 8] = [ENOSPC, EIO, EMFILE, ENOMEM, EINTR, EAGAIN, EPERM, ENOBUFS];

/// The errors that are tried for a call: those that the kernel can give there. None where it has none to give, or
/// where a program can do nothing about it: its own end, signals, clocks, and `execve` and memory, which end the
/// process as a SIGKILL does.
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
        // Not `close`: whatever it answers, the file is closed, which that of a call that is not made is not.
        libc::SYS_getrandom => &[EINTR],
        _ => &[],
    }
}

/// Whether a code of the spec is a right answer to the error: I/O, "try again later" for what passes, and where
/// a file was opened or read the code for what it was: the namespace, or a configuration that could not be read. The
/// plugins' own code, 100, is theirs for what the kernel refused; 999 is for what nobody should ever see.
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

/// Watches a run of one or more programs, and deals the blow at the call of that number.
#[derive(Debug)]
pub(super) struct Injection {
    /// The number of the first call that may be hit, and by what.
    at: Option<(u64, Blow)>,
    /// How many calls the programs before this one have made.
    before: u64,
    /// Every call: its number, and its first argument.
    pub(super) seen: Vec<(i64, u64)>,
    /// The call that was hit.
    pub(super) hit: Option<(i64, u64)>,
}

impl Injection {
    /// Hits nothing, and takes down the calls.
    pub(super) fn none() -> Self {
        Self { at: None, before: 0, seen: Vec::new(), hit: None }
    }

    pub(super) fn at(index: u64, blow: Blow) -> Self {
        Self { at: Some((index, blow)), ..Self::none() }
    }

    /// A program has ended; the next one's calls are counted on.
    pub(super) fn next_program(&mut self, calls: u64) {
        self.before += calls;
    }

    /// Whether the programs were killed.
    pub(super) fn killed(&self) -> bool {
        self.hit.is_some() && matches!(self.at, Some((_, Blow::Kill)))
    }
}

impl Watch for Injection {
    fn entry(&mut self, call: &Call) -> Verdict {
        let seen = (call.number, call.arguments[0]);
        self.seen.push(seen);
        let Some((index, blow)) = self.at else { return Verdict::Pass };
        if self.hit.is_some() || self.before + call.index < index {
            return Verdict::Pass;
        }
        match blow {
            Blow::Kill => {
                self.hit = Some(seen);
                Verdict::Kill
            }
            // Where threads and processes take turns, another call may have this number today: then the next one is hit.
            Blow::Error(errno) if errors_of(call.number).contains(&errno) => {
                self.hit = Some(seen);
                Verdict::Fail(errno)
            }
            Blow::Error(_) => Verdict::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blow_is_read_as_it_is_written() {
        for blow in std::iter::once(Blow::Kill).chain(ERRORS.map(Blow::Error)) {
            assert_eq!(blow.to_string().parse(), Ok(blow));
        }
        assert!("EBADF".parse::<Blow>().is_err());
    }

    #[test]
    fn enobufs_is_for_sockets_and_code_7_for_what_was_read() {
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
