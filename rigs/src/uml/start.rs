//! Starts User-Mode Linux, also on a processor with more registers than it supports.
//!
//! User-Mode Linux asks the host's kernel for all registers of its processes, into a buffer of the
//! size that processors had when it was built. With AMX they are larger, the host's kernel refuses,
//! and User-Mode Linux ends at its first process. If the request for all registers is an error, it
//! uses the registers that every processor has. A seccomp filter makes the request an error.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Name of the hidden command.
pub(crate) const START: &str = "uml-start";

/// A program and its arguments.
#[derive(clap::Args)]
pub(crate) struct StartOptions {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Becomes the program.
pub(crate) fn run(options: &StartOptions) -> Result<ExitCode> {
    if has_too_many_registers() {
        hide_registers().context("hide registers from User-Mode Linux")?;
    }
    let (program, arguments) = options.command.split_first().context("no program is named")?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("start {program}"))
}

/// Whether the processor has registers that User-Mode Linux does not support.
fn has_too_many_registers() -> bool {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    processor.lines().any(|line| line.starts_with("flags") && line.contains(" amx_tile"))
}

/// Variables that keep glibc and Go's runtime inside from using registers that are not saved, if
/// registers are hidden.
pub(super) fn tunables() -> &'static [(&'static str, &'static str)] {
    const VECTORS: &str =
        "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX,-AVX_Fast_Unaligned_Load";
    if has_too_many_registers() {
        &[("GLIBC_TUNABLES", VECTORS), ("GODEBUG", "cpu.all=off,asyncpreemptoff=1")]
    } else {
        &[]
    }
}

/// Makes `PTRACE_GETREGSET` an error for this process and its descendants.
fn hide_registers() -> Result<()> {
    let is_getregset = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(libc::PTRACE_GETREGSET),
    )?;
    let rules = [(libc::SYS_ptrace, vec![SeccompRule::new(vec![is_getregset])?])];
    let refused = SeccompAction::Errno(libc::EIO.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules.into(), SeccompAction::Allow, refused, architecture)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
