//! Faults of JSON values, described by path, value and expectation.

use std::fmt;

use serde::de::{Expected, Unexpected};
use serde_json::Value;

/// An error of reading JSON, with the path of the value in the document. The reader adds the value
/// in [`Fault::at`].
#[derive(Debug)]
pub(crate) struct Fault {
    kind: Kind,
    path: Vec<Step>,
}

/// One step of the path to a value.
#[derive(Debug)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

#[derive(Debug)]
enum Kind {
    /// The value has the wrong type or is not allowed. The noun phrase names what is expected.
    Expected(String),
    /// A key is missing.
    Missing(&'static str),
    /// Anything else.
    Other(String),
    /// Problems of a value and of its parts, with [`PLACE`] for the path of the value.
    Parts(String),
}

/// Stands for the path of a value that is read without knowing its path.
pub(crate) const PLACE: &str = "\u{1}";

/// Puts the path of the value into the text of its problems.
pub(crate) fn with_path(text: &str, path: &str) -> String {
    let text = match path {
        "" => text.replace("\u{1}.", "").replace("\u{1}: ", ""),
        _ => text.to_owned(),
    };
    text.replace(PLACE, path)
}

impl From<Kind> for Fault {
    fn from(kind: Kind) -> Self {
        Self { kind, path: Vec::new() }
    }
}

impl Fault {
    /// Puts `step` before the path.
    #[cold]
    pub(crate) fn below(mut self, step: Step) -> Self {
        self.path.insert(0, step);
        self
    }

    /// Returns the path from the whole document to the value.
    pub(crate) fn path(&self) -> &[Step] {
        &self.path
    }

    /// Returns the key that is missing, if that is the fault.
    pub(crate) fn missing_key(&self) -> Option<&'static str> {
        if let Kind::Missing(key) = self.kind { Some(key) } else { None }
    }

    /// Returns the message about the value at `path`, which is empty for the whole document.
    pub(crate) fn at(&self, path: &str, value: Option<&Value>) -> String {
        let place = match value.filter(|_| !path.is_empty()) {
            Some(value) => format!("{path}: {}", excerpt(value)),
            None => path.to_owned(),
        };
        match &self.kind {
            Kind::Expected(what) if place.is_empty() => format!("not {what}"),
            Kind::Expected(what) => format!("{place} is not {what}"),
            Kind::Missing(key) => format!("{}: missing, but required", join(path, key)),
            Kind::Other(text) if place.is_empty() => text.clone(),
            Kind::Other(text) => format!("{place}: {text}"),
            Kind::Parts(text) => with_path(text, path),
        }
    }
}

/// Appends a key to a path.
pub(crate) fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", key) => key.to_owned(),
        (path, "") => path.to_owned(),
        (path, key) if key.starts_with('[') => format!("{path}{key}"),
        (path, key) => format!("{path}.{key}"),
    }
}

/// The beginning of a value as JSON, for a message.
pub(crate) fn excerpt(value: &Value) -> String {
    const LENGTH: usize = 120;
    let mut text = serde_json::to_string(value).unwrap_or_default();
    if let Some((at, _)) = text.char_indices().nth(LENGTH) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// Rephrases serde's expectation for readers who do not know Rust.
fn expectation(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    let range = |low: &dyn fmt::Display, high: &dyn fmt::Display| {
        format!("a whole number from {low} to {high}")
    };
    match text.as_str() {
        "u8" => range(&u8::MIN, &u8::MAX),
        "u16" => range(&u16::MIN, &u16::MAX),
        "u32" => range(&u32::MIN, &u32::MAX),
        "u64" | "usize" => range(&u64::MIN, &u64::MAX),
        "i8" => range(&i8::MIN, &i8::MAX),
        "i16" => range(&i16::MIN, &i16::MAX),
        "i32" => range(&i32::MIN, &i32::MAX),
        "i64" | "isize" => range(&i64::MIN, &i64::MAX),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a borrowed string" => "a string".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        other if other.starts_with("struct ") => "an object".to_owned(),
        other => other.to_owned(),
    }
}

fn one_of(names: &'static [&'static str]) -> String {
    match names {
        [one] => format!("{one:?}"),
        names => {
            let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
            format!("one of {}", names.join(", "))
        }
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(text: T) -> Self {
        let text = format!("{text:#}");
        if text.starts_with(PLACE) { Kind::Parts(text) } else { Kind::Other(text) }.into()
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Kind::Expected(expectation(expected)).into()
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Kind::Expected(expectation(expected)).into()
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Kind::Expected(expectation(expected)).into()
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Kind::Expected(one_of(expected)).into()
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let known = if expected.is_empty() { "none".into() } else { expected.join(", ") };
        Kind::Other(format!("unknown key {field:?}; known keys: {known}")).into()
    }

    fn missing_field(field: &'static str) -> Self {
        Kind::Missing(field).into()
    }

    fn duplicate_field(field: &'static str) -> Self {
        Kind::Other(format!("duplicate key {field:?}")).into()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.at("", None))
    }
}

impl std::error::Error for Fault {}
