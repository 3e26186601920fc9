//! Faults of JSON values, described by path, value and expectation.

use std::fmt;

use serde::de::{Expected, Unexpected};
use serde_json::Value;

/// An error of reading JSON; the reader adds the path and the value in [`Fault::at`].
#[derive(Debug)]
pub(crate) enum Fault {
    /// The value has the wrong type or is not allowed. The noun phrase names what is expected.
    Expected(String),
    /// A key is missing.
    Missing(&'static str),
    /// Anything else.
    Other(String),
}

impl Fault {
    /// Returns the message about the value at `path`, which is empty for the whole document.
    pub(crate) fn at(&self, path: &str, value: Option<&Value>) -> String {
        let place = match value.filter(|_| !path.is_empty()) {
            Some(value) => format!("{path}: {}", excerpt(value)),
            None => path.to_owned(),
        };
        match self {
            Self::Expected(what) if place.is_empty() => format!("not {what}"),
            Self::Expected(what) => format!("{place} is not {what}"),
            Self::Missing(key) => format!("{}: missing, but required", join(path, key)),
            Self::Other(text) if place.is_empty() => text.clone(),
            Self::Other(text) => format!("{place}: {text}"),
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
    let mut text = value.to_string();
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
        Self::Other(text.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Expected(expectation(expected))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Expected(expectation(expected))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::Expected(expectation(expected))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::Expected(one_of(expected))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let known = if expected.is_empty() { "none".into() } else { expected.join(", ") };
        Self::Other(format!("unknown key {field:?}; known keys: {known}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::Other(format!("duplicate key {field:?}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.at("", None))
    }
}

impl std::error::Error for Fault {}
