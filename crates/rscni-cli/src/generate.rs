//! Shell completions and manual pages, generated from the definitions of the command lines.

use std::path::Path;

use clap::{Command, ValueEnum};
use rscni::Error;

use crate::output;

/// A shell with completion support.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
}

/// Removes the descriptions of arguments and subcommands.
pub(crate) fn without_descriptions(command: Command) -> Command {
    let command = command.mut_args(|argument| argument.help(None).long_help(None));
    command.mut_subcommands(|one| without_descriptions(one.about(None).long_about(None)))
}

/// Prints the completion script of the command.
pub(crate) fn completions(shell: Shell, command: &mut Command) {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Powershell => clap_complete::Shell::PowerShell,
    };
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    output::text(&String::from_utf8_lossy(&script));
}

/// Writes the manual pages of the commands and their subcommands.
pub(crate) fn manual(dir: &Path, commands: impl IntoIterator<Item = Command>) -> Result<(), Error> {
    let failed = |e: std::io::Error| {
        Error::IOFailure(format!("write manual pages to {}: {e}", dir.display()))
    };
    rscni_linux::make_directory(dir, 0o755).map_err(failed)?;
    commands
        .into_iter()
        .try_for_each(|command| clap_mangen::generate_to(command, dir))
        .map_err(failed)
}
