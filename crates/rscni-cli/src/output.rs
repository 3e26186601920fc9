//! What the commands print: JSON and text on stdout, errors on stderr.

use std::io::Write;
use std::process::ExitCode;

use rscni::Error;
use serde_json::ser::{PrettyFormatter, Serializer};

/// Prints JSON, indented as Go's tools indent it.
pub(crate) fn json(value: &impl serde::Serialize) {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    if value.serialize(&mut serializer).is_ok() {
        bytes.push(b'\n');
        write(&bytes);
    }
}

/// Prints a line.
pub(crate) fn line(text: &str) {
    write(format!("{text}\n").as_bytes());
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
