//! `CNI_ARGS`: pairs of key and value for all plugins (CNI conventions).

use serde::{Serialize, Serializer};

use crate::Error;

/// The `KEY=VALUE` pairs of `CNI_ARGS`, separated by `;`.
///
/// By convention a plugin rejects unknown keys, unless the caller sets `IgnoreUnknown=1`:
///
/// ```
/// use rscni::CniArgs;
///
/// let args = CniArgs::parse("IP=10.0.0.5;K8S_POD_NAME=web;IgnoreUnknown=1")?;
/// args.refuse_unknown(&["IP"])?;
/// assert_eq!(args.get("IP"), Some("10.0.0.5"));
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    pairs: Vec<(String, String)>,
    ignore_unknown: bool,
}

impl CniArgs {
    /// Parses the text of `CNI_ARGS`.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if a pair is not of the form `KEY=VALUE`, or `IgnoreUnknown` is
    /// not a boolean.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut args = Self::default();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                    Error::InvalidEnvValue(format!(
                        "CNI_ARGS: {pair:?} is not a pair of the form KEY=VALUE"
                    ))
                })?;
            if key == "IgnoreUnknown" {
                args.ignore_unknown = parse_bool(value).ok_or_else(|| {
                    Error::InvalidEnvValue(format!(
                        "CNI_ARGS: IgnoreUnknown={value} must be 0, 1, true or false"
                    ))
                })?;
            } else {
                args.pairs.push((key.into(), value.into()));
            }
        }
        Ok(args)
    }

    /// Returns the value of a key; the last one if it is repeated.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Returns all pairs in order, without `IgnoreUnknown`.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether the caller set `IgnoreUnknown`.
    pub fn ignores_unknown(&self) -> bool {
        self.ignore_unknown
    }

    /// Rejects keys other than `known`, unless the caller set `IgnoreUnknown`.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`], naming the unknown keys.
    pub fn refuse_unknown(&self, known: &[&str]) -> Result<(), Error> {
        let unknown: Vec<_> =
            self.pairs().map(|(key, _)| key).filter(|key| !known.contains(key)).collect();
        if unknown.is_empty() || self.ignore_unknown {
            return Ok(());
        }
        Err(Error::InvalidEnvValue(format!(
            "CNI_ARGS: unknown {}; known are {}; set IgnoreUnknown=1 to ignore others",
            unknown.join(", "),
            known.join(", ")
        )))
    }
}

impl<'a> IntoIterator for &'a CniArgs {
    type Item = (&'a str, &'a str);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    /// Iterates over the [`pairs`](CniArgs::pairs).
    fn into_iter(self) -> Self::IntoIter {
        self.pairs().collect::<Vec<_>>().into_iter()
    }
}

impl IntoIterator for CniArgs {
    type Item = (String, String);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.pairs.into_iter()
    }
}

impl Serialize for CniArgs {
    /// Writes an object with the [`pairs`](CniArgs::pairs); the last value of a repeated key wins.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_last = |index: usize, key: &str| {
            self.pairs.iter().skip(index + 1).all(|(other, _)| other != key)
        };
        let pairs = self.pairs().enumerate();
        let last = pairs.filter(|(index, (key, _))| is_last(*index, key)).map(|(_, pair)| pair);
        serializer.collect_map(last)
    }
}

/// Parses a boolean as Go's tools write it in variables.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_cni_args_are_found_by_key() {
        let args = CniArgs::parse("FOO=BAR;ABC=123;FOO=last;E=;Q=a=b;").unwrap();
        assert_eq!(args.get("FOO"), Some("last"));
        assert_eq!((args.get("E"), args.get("Q"), args.get("foo")), (Some(""), Some("a=b"), None));
        assert_eq!(args.pairs().count(), 5);
        assert!(CniArgs::parse("").unwrap().pairs().next().is_none());
    }

    #[test]
    fn pairs_are_iterated_in_order_and_written_as_an_object() {
        let args = CniArgs::parse("B=1;IgnoreUnknown=1;A=2;B=3").unwrap();
        let mut pairs = Vec::new();
        for (key, value) in &args {
            pairs.push(format!("{key}={value}"));
        }
        assert_eq!(pairs, ["B=1", "A=2", "B=3"]);
        assert_eq!(serde_json::to_string(&args).unwrap(), r#"{"A":"2","B":"3"}"#);
        assert_eq!(args.into_iter().next(), Some(("B".into(), "1".into())));
    }

    #[test]
    fn unknown_keys_are_rejected_unless_ignore_unknown_is_set() {
        let error = CniArgs::parse("IP=1;K8S_POD=x").unwrap().refuse_unknown(&["IP"]).unwrap_err();
        assert!(error.code() == 4 && error.details().contains("K8S_POD"), "{error}");
        for yes in ["1", "true", "True"] {
            let args = CniArgs::parse(&format!("IgnoreUnknown={yes};K8S_POD=x")).unwrap();
            assert!(args.ignores_unknown());
            args.refuse_unknown(&[]).unwrap();
        }
        assert!(CniArgs::parse("IgnoreUnknown=0;X=1").unwrap().refuse_unknown(&[]).is_err());
    }

    #[test]
    fn malformed_cni_args_are_code_4() {
        for bad in ["x", "=1", "IgnoreUnknown=maybe", "A=1;;b"] {
            assert_eq!(CniArgs::parse(bad).unwrap_err().code(), 4, "{bad}");
        }
    }
}
