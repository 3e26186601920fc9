//! Names of system calls.

use nix::libc;

macro_rules! names {
    ($($call:ident)*) => {
        /// The name of a system call, or its number if the name is unknown.
        pub(crate) fn name_of(number: i64) -> String {
            $(if number == libc::$call {
                return stringify!($call).trim_start_matches("SYS_").to_owned();
            })*
            format!("call {number}")
        }
    };
}

names! {
    SYS_read SYS_write SYS_open SYS_close SYS_stat SYS_fstat
    SYS_lstat SYS_poll SYS_lseek SYS_mmap SYS_mprotect SYS_munmap
    SYS_brk SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_ioctl SYS_pread64
    SYS_pwrite64 SYS_readv SYS_writev SYS_access SYS_pipe SYS_select
    SYS_sched_yield SYS_mremap SYS_madvise SYS_dup SYS_dup2 SYS_nanosleep
    SYS_getpid SYS_sendfile SYS_socket SYS_connect SYS_accept SYS_sendto
    SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_shutdown SYS_bind SYS_getsockname
    SYS_getpeername SYS_socketpair SYS_setsockopt SYS_getsockopt SYS_clone SYS_fork
    SYS_vfork SYS_execve SYS_exit SYS_wait4 SYS_kill SYS_uname
    SYS_fcntl SYS_flock SYS_fsync SYS_fdatasync SYS_truncate SYS_ftruncate
    SYS_getdents SYS_getcwd SYS_chdir SYS_rename SYS_mkdir SYS_rmdir
    SYS_link SYS_unlink SYS_symlink SYS_readlink SYS_chmod SYS_fchmod
    SYS_chown SYS_umask SYS_gettimeofday SYS_getrlimit SYS_getrusage SYS_getuid
    SYS_getgid SYS_geteuid SYS_getegid SYS_getppid SYS_setsid SYS_capget
    SYS_sigaltstack SYS_statfs SYS_fstatfs SYS_prctl SYS_arch_prctl SYS_mount
    SYS_umount2 SYS_gettid SYS_futex SYS_sched_setaffinity SYS_sched_getaffinity SYS_getdents64
    SYS_set_tid_address SYS_restart_syscall SYS_clock_gettime SYS_clock_nanosleep SYS_exit_group SYS_epoll_wait
    SYS_epoll_ctl SYS_tgkill SYS_waitid SYS_openat SYS_mkdirat SYS_fchownat
    SYS_newfstatat SYS_unlinkat SYS_renameat SYS_linkat SYS_symlinkat SYS_readlinkat
    SYS_fchmodat SYS_faccessat SYS_pselect6 SYS_ppoll SYS_unshare SYS_set_robust_list
    SYS_splice SYS_utimensat SYS_epoll_pwait SYS_timerfd_create SYS_eventfd2 SYS_epoll_create1
    SYS_dup3 SYS_pipe2 SYS_inotify_init1 SYS_prlimit64 SYS_sendmmsg SYS_setns
    SYS_getcpu SYS_renameat2 SYS_seccomp SYS_getrandom SYS_memfd_create SYS_execveat
    SYS_copy_file_range SYS_statx SYS_rseq SYS_pidfd_send_signal SYS_clone3 SYS_close_range
    SYS_openat2 SYS_pidfd_open SYS_faccessat2
}
