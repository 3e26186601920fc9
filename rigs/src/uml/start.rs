//! Starts User-Mode Linux, also on a processor with more registers than it has room for.
//!
//! It asks the host's kernel for all registers of its processes, into a buffer of the length that processors had when it
//! was built. With AMX they take more, the kernel refuses, and it ends at its first process. Where it cannot ask for all
//! it does with those that every processor has: a filter for system calls has it believe that.

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

/// The name of the hidden task.
pub(crate) const START: &str = "uml-start";

/// A program, and its arguments.
#[derive(clap::Args)]
pub(crate) struct StartOptions {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Becomes the program.
pub(crate) fn run(options: &StartOptions) -> Result<ExitCode> {
    if has_too_many_registers() {
        hide_registers()
            .context("have User-Mode Linux do with the registers that every processor has")?;
    }
    let (program, arguments) = options.command.split_first().context("no program is named")?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("start {program}"))
}

/// Whether the processor has registers that User-Mode Linux has no room for.
fn has_too_many_registers() -> bool {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    processor.lines().any(|line| line.starts_with("flags") && line.contains(" amx_tile"))
}

/// Where registers are hidden, the variables that have glibc and Go's runtime inside leave those alone that are not kept
/// for them.
pub(super) fn tunables() -> &'static [(&'static str, &'static str)] {
    const VECTORS: &str =
        "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX,-AVX_Fast_Unaligned_Load";
    if has_too_many_registers() {
        &[("GLIBC_TUNABLES", VECTORS), ("GODEBUG", "cpu.all=off,asyncpreemptoff=1")]
    } else {
        &[]
    }
}

/// From here on, to ask for a set of registers is an error for this process and all that it becomes and starts.
fn hide_registers() -> Result<()> {
    let asks_for_a_set = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(libc::PTRACE_GETREGSET),
    )?;
    let rules = [(libc::SYS_ptrace, vec![SeccompRule::new(vec![asks_for_a_set])?])];
    let refused = SeccompAction::Errno(libc::EIO.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules.into(), SeccompAction::Allow, refused, architecture)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
