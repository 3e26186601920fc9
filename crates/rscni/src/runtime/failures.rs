//! The errors of a best-effort operation.

use std::{fmt, iter, slice, vec};

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::Error;

/// One or several errors, in the order in which they occurred.
///
/// Converts to one [`Error`] with the code of the first and the text of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    first: Error,
    rest: Vec<Error>,
}

impl Failures {
    /// Succeeds if there are no errors.
    pub(super) fn of(errors: Vec<Error>) -> Result<(), Self> {
        let mut errors = errors.into_iter();
        errors.next().map_or(Ok(()), |first| Err(Self { first, rest: errors.collect() }))
    }

    /// Succeeds if there are no failures.
    pub(super) fn merged(failures: Vec<Self>) -> Result<(), Self> {
        let errors = |failures: Self| std::iter::once(failures.first).chain(failures.rest);
        Self::of(failures.into_iter().flat_map(errors).collect())
    }

    /// Returns all errors with `context` before their texts.
    pub(super) fn in_context(self, context: impl fmt::Display) -> impl Iterator<Item = Error> {
        self.into_iter().map(move |error| error.context(&context))
    }

    /// Returns all errors.
    pub fn iter(&self) -> impl Iterator<Item = &Error> {
        self.into_iter()
    }
}

impl<'a> IntoIterator for &'a Failures {
    type Item = &'a Error;
    type IntoIter = iter::Chain<iter::Once<&'a Error>, slice::Iter<'a, Error>>;

    fn into_iter(self) -> Self::IntoIter {
        iter::once(&self.first).chain(&self.rest)
    }
}

impl IntoIterator for Failures {
    type Item = Error;
    type IntoIter = iter::Chain<iter::Once<Error>, vec::IntoIter<Error>>;

    fn into_iter(self) -> Self::IntoIter {
        iter::once(self.first).chain(self.rest)
    }
}

impl Serialize for Failures {
    /// Writes a list of objects with `code`, `msg` and `details`, as in an error reply.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Described))
    }
}

#[cfg(feature = "tracing")]
impl<T> crate::span::Ended for Result<T, Failures> {
    fn failure(&self) -> Option<(u32, String)> {
        self.as_ref().err().map(|failures| (failures.first.code(), failures.to_string()))
    }
}

/// An error as an object with the members of an error reply.
pub(super) struct Described<'a>(pub(super) &'a Error);

impl Serialize for Described<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(error) = self;
        let mut members = serializer.serialize_struct("Error", 3)?;
        members.serialize_field("code", &error.code())?;
        members.serialize_field("msg", &error.msg())?;
        members.serialize_field("details", &error.details())?;
        members.end()
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.rest.iter().try_for_each(|error| write!(f, "; {error}"))
    }
}

impl std::error::Error for Failures {}

impl From<Error> for Failures {
    fn from(error: Error) -> Self {
        Self { first: error, rest: Vec::new() }
    }
}

impl From<Failures> for Error {
    fn from(failures: Failures) -> Self {
        if failures.rest.is_empty() {
            return failures.first;
        }
        let texts: Vec<_> = std::iter::once(failures.first.details().to_owned())
            .chain(failures.rest.iter().map(Error::to_string))
            .collect();
        failures.first.with_details(texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_errors_become_one_with_all_texts() {
        let errors = vec![Error::IOFailure("a".into()), Error::Internal("b".into())];
        let failures = Failures::of(errors).unwrap_err();
        assert_eq!(failures.iter().count(), 2);
        let json = r#"[{"code":5,"msg":"I/O failure","details":"a"},
            {"code":999,"msg":"internal error","details":"b"}]"#;
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_value(&failures).unwrap(), json);
        let mut codes = Vec::new();
        for error in &failures {
            codes.push(error.code());
        }
        assert_eq!(codes, [5, 999]);
        assert_eq!(failures.clone().into_iter().map(|error| error.code()).sum::<u32>(), 1004);
        let text = "I/O failure: a; internal error: b";
        assert_eq!(failures.to_string(), text);
        let error = Error::from(failures);
        assert_eq!((error.code(), error.to_string().as_str()), (5, text));
    }

    #[test]
    fn a_single_error_is_unchanged() {
        assert_eq!(Failures::of(vec![]), Ok(()));
        let error = Error::TryAgainLater("a".into());
        assert_eq!(Error::from(Failures::from(error.clone())), error);
    }
}
