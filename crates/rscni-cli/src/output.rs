//! Output of the commands: JSON and text on stdout, errors on stderr.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::ValueEnum;
use rscni::Error;
use serde_json::ser::{PrettyFormatter, Serializer};

/// The format of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Json,
    Text,
}

impl Format {
    /// Returns text on a terminal, and JSON for a pipe or a file.
    pub(crate) fn of_results() -> Self {
        if std::io::stdout().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// The text attributes that the terminal supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) bold: bool,
}

impl Style {
    /// Returns bold for a capable terminal, unless `NO_COLOR` is set.
    pub(crate) fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let plain = set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb");
        Self { bold: !plain && std::io::stdout().is_terminal() }
    }

    /// Returns the text in bold if the style has that.
    pub(crate) fn bold(self, text: &str) -> String {
        if self.bold { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints JSON, indented as Go's tools do.
pub(crate) fn json(value: &impl serde::Serialize) {
    let mut bytes = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    if value.serialize(&mut serializer).is_ok() {
        bytes.push(b'\n');
        write(&bytes);
    }
}

/// Prints a line.
pub(crate) fn line(text: &str) {
    write(format!("{text}\n").as_bytes());
}

/// Prints a line to stderr.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints text that includes its line ends.
pub(crate) fn text(text: &str) {
    write(text.as_bytes());
}

/// Writes to stdout. Errors are ignored: the reader has closed the pipe.
fn write(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Returns the exit status of a command. Prints an error to stderr with its code.
pub(crate) fn exit(program: &str, outcome: Result<(), Error>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    note(&format!("{program}: {error} (code {})", error.code()));
    ExitCode::FAILURE
}
