//! What the commands print: JSON and text on stdout, errors on stderr.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::ValueEnum;
use rscni::Error;
use serde_json::ser::{PrettyFormatter, Serializer};

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Json,
    Text,
}

impl Format {
    /// Text for people, and JSON for programs, which read from a pipe or a file.
    pub(crate) fn of_results() -> Self {
        if std::io::stdout().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// What a terminal is told about how text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) bold: bool,
}

impl Style {
    /// Bold on a terminal that can, unless `NO_COLOR` asks for plain text.
    pub(crate) fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let plain = set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb");
        Self { bold: !plain && std::io::stdout().is_terminal() }
    }

    /// The text in bold, where there is that.
    pub(crate) fn bold(self, text: &str) -> String {
        if self.bold { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints JSON, indented as Go's tools indent it.
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

/// Prints a line beside what was asked for.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints text that has its line ends.
pub(crate) fn text(text: &str) {
    write(text.as_bytes());
}

/// A reader that has gone away wants no more, and there is no one else to tell.
fn write(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// The exit of a command: an error becomes one message on stderr, with its code, and status 1.
pub(crate) fn exit(program: &str, outcome: Result<(), Error>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let _ = writeln!(std::io::stderr(), "{program}: {error} (code {})", error.code());
    ExitCode::FAILURE
}
