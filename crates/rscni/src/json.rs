//! Values of the protocol, read from JSON and written to it without serde.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Number, Value};

use crate::{
    address::{AddressError, parse_address, parse_net},
    any_case::Whole,
    fault::{excerpt, join},
};

/// The problems of a document that is being read.
#[derive(Default)]
pub(crate) struct Problems {
    path: String,
    list: Vec<String>,
}

impl Problems {
    /// Problems of the value at `path`.
    pub(crate) fn at_path(path: &str) -> Self {
        Self { path: path.to_owned(), list: Vec::new() }
    }

    /// Reads the value at a key or an index (`[0]`) below the present path.
    pub(crate) fn below<T>(&mut self, step: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let value = read(self);
        self.path.truncate(length);
        value
    }

    /// Reports that the value at the present path is not `expected`.
    #[cold]
    pub(crate) fn not(&mut self, value: &Value, expected: &str) {
        let colon = if self.path.is_empty() { "" } else { ": " };
        self.list.push(format!("{}{colon}{} is not {expected}", self.path, excerpt(value)));
    }

    #[cold]
    pub(crate) fn missing(&mut self, key: &str) {
        self.list.push(format!("{}: missing, but required", join(&self.path, key)));
    }

    /// Returns the value if there is no problem.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, String> {
        value.filter(|_| self.list.is_empty()).ok_or_else(|| self.list.join("; "))
    }
}

/// Reads the value at `path` of a document.
pub(crate) fn read<T: Json>(value: &Value, path: &str) -> Result<T, String> {
    let mut problems = Problems::at_path(path);
    let read = T::read(value, &mut problems);
    problems.finish(read)
}

/// A value of the protocol as JSON.
pub(crate) trait Json: Sized {
    /// Whether an optional value counts as absent if it is an empty string.
    const EMPTY_IS_ABSENT: bool = false;

    /// Reads the value; `None` after a problem.
    fn read(value: &Value, problems: &mut Problems) -> Option<Self>;

    fn write(&self) -> Value;

    /// Whether a key with this value is not written.
    fn is_omitted(&self) -> bool {
        false
    }
}

impl Json for String {
    const EMPTY_IS_ABSENT: bool = true;

    fn read(value: &Value, problems: &mut Problems) -> Option<Self> {
        text(value, problems).map(str::to_owned)
    }

    fn write(&self) -> Value {
        self.as_str().into()
    }
}

impl Json for bool {
    fn read(value: &Value, problems: &mut Problems) -> Option<Self> {
        let on = value.as_bool();
        if on.is_none() {
            problems.not(value, "true or false");
        }
        on
    }

    fn write(&self) -> Value {
        (*self).into()
    }
}

impl Json for IpNet {
    fn read(value: &Value, problems: &mut Problems) -> Option<Self> {
        parsed(parse_net(text(value, problems)?), value, problems)
    }

    fn write(&self) -> Value {
        self.to_string().into()
    }
}

impl Json for IpAddr {
    const EMPTY_IS_ABSENT: bool = true;

    fn read(value: &Value, problems: &mut Problems) -> Option<Self> {
        parsed(parse_address(text(value, problems)?), value, problems)
    }

    fn write(&self) -> Value {
        self.to_string().into()
    }
}

impl Json for Map<String, Value> {
    fn read(value: &Value, problems: &mut Problems) -> Option<Self> {
        let map = value.as_object();
        if map.is_none() {
            problems.not(value, "an object");
        }
        map.cloned()
    }

    fn write(&self) -> Value {
        self.clone().into()
    }
}

macro_rules! whole_numbers {
    ($($number:ident: $is_omitted:expr),*) => {$(
        impl Json for $number {
            fn read(value: &Value, problems: &mut Problems) -> Option<Self> {
                whole(value, $number::MAX.into(), problems).and_then(|number| number.try_into().ok())
            }

            fn write(&self) -> Value {
                (*self).into()
            }

            fn is_omitted(&self) -> bool {
                $is_omitted(*self)
            }
        }
    )*};
}
// The rates of `bandwidth` are the only numbers of 64 bits.
whole_numbers!(u8: |_| false, u16: |_| false, u32: |_| false, u64: |rate| rate == 0);

impl<T: Json> Json for Option<T> {
    fn read(value: &Value, problems: &mut Problems) -> Option<Self> {
        if value.is_null() || T::EMPTY_IS_ABSENT && value == "" {
            return Some(None);
        }
        T::read(value, problems).map(Some)
    }

    fn write(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::write)
    }

    fn is_omitted(&self) -> bool {
        self.as_ref().is_none_or(|value| T::EMPTY_IS_ABSENT && value.write() == "")
    }
}

impl<T: Json> Json for Vec<T> {
    fn read(value: &Value, problems: &mut Problems) -> Option<Self> {
        let Some(list) = value.as_array() else {
            problems.not(value, "a list");
            return None;
        };
        let mut read = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            read.extend(problems.below(&format!("[{index}]"), |problems| T::read(value, problems)));
        }
        Some(read)
    }

    fn write(&self) -> Value {
        Value::Array(self.iter().map(T::write).collect())
    }

    fn is_omitted(&self) -> bool {
        self.is_empty()
    }
}

fn text<'a>(value: &'a Value, problems: &mut Problems) -> Option<&'a str> {
    let text = value.as_str();
    if text.is_none() {
        problems.not(value, "a string");
    }
    text
}

fn parsed<T>(parsed: Result<T, AddressError>, value: &Value, problems: &mut Problems) -> Option<T> {
    parsed.map_err(|error| problems.not(value, &error.expectation())).ok()
}

/// Reads a whole number in any notation.
fn whole(value: &Value, max: u64, problems: &mut Problems) -> Option<u64> {
    let number = match value.as_u64() {
        None => value.as_f64().and_then(Whole::of).and_then(|whole| match whole {
            Whole::Unsigned(number) => Some(number),
            Whole::Signed(_) => None,
        }),
        number => number,
    };
    let number = number.filter(|number| *number <= max);
    if number.is_none() {
        problems.not(value, &format!("a whole number from 0 to {max}"));
    }
    number
}

/// Whether a number is whole and negative.
pub(crate) fn is_negative(number: &Number) -> bool {
    number.as_i64().is_some_and(|number| number < 0)
        || matches!(number.as_f64().and_then(Whole::of), Some(Whole::Signed(_)))
}

/// Returns the text of an object.
pub(crate) fn to_text(object: Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(&Value::Object(object)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_in_any_notation_within_their_range() {
        let number = |json: Value| read::<u8>(&json, "a.b");
        assert_eq!([number(json!(255)), number(json!(2.5e1))], [Ok(255), Ok(25)]);
        for json in [json!(256), json!(-1), json!(-1.0), json!(0.5), json!("1"), json!(null)] {
            let expected = format!("a.b: {json} is not a whole number from 0 to 255");
            assert_eq!(number(json), Err(expected));
        }
    }
}
