//! Unknown keys of a result, which a plugin passes on.

use std::{
    hash::{Hash, Hasher},
    ops::Deref,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{any_case, object::Shape};

/// The keys of a result that are not in the specification, in their order.
///
/// It dereferences to a JSON object. It also records which keys of newer spec versions were read,
/// so that a plugin passes them on in an old version too; comparisons ignore this.
///
/// ```
/// let mut result = rscni::CNIResult::from_json(br#"{ "vendor": { "vni": 7 } }"#)?;
/// assert_eq!(result.extra["vendor"]["vni"], 7);
/// result.extra.insert("mine", true);
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Extra {
    keys: Map<String, Value>,
    /// The keys of newer versions that were read, as a bit mask.
    given: u16,
}

impl Extra {
    /// Sets a key; a new one is appended.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.keys.insert(key.into(), value.into())
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        any_case::remove(&mut self.keys, key)
    }

    /// Removes keys, in any case, that have a meaning in the shape to be written.
    pub(crate) fn without(mut self, shape: &Shape) -> Self {
        self.keys.retain(|key, _| !shape.has(key));
        self
    }

    /// Removes a key in any case and returns its value.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        any_case::take(&mut self.keys, key)
    }

    /// Whether the key at this index of [`Shape::newer`] was read.
    pub(crate) fn has_given(&self, newer: usize) -> bool {
        self.given & 1 << newer != 0
    }
}

impl Deref for Extra {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.keys
    }
}

impl From<Map<String, Value>> for Extra {
    fn from(keys: Map<String, Value>) -> Self {
        Self { keys, given: 0 }
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Extra {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut extra = Self::default();
        for (key, value) in pairs {
            extra.insert(key, value);
        }
        extra
    }
}

impl<'a> IntoIterator for &'a Extra {
    type Item = (&'a String, &'a Value);
    type IntoIter = serde_json::map::Iter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.keys.iter()
    }
}

impl IntoIterator for Extra {
    type Item = (String, Value);
    type IntoIter = serde_json::map::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.keys.into_iter()
    }
}

impl PartialEq for Extra {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

impl Eq for Extra {}

impl Hash for Extra {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.keys.len().hash(state);
    }
}

impl<'de> Deserialize<'de> for Extra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
    }
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.keys.serialize(serializer)
    }
}

/// A field for the unknown keys of an object.
pub(crate) trait Rest {
    /// Takes the keys, and a bit for each key of [`Shape::newer`] that was read.
    fn read(keys: Map<String, Value>, given: u16) -> Self;
}

impl Rest for Extra {
    fn read(keys: Map<String, Value>, given: u16) -> Self {
        Self { keys, given }
    }
}

impl Rest for Map<String, Value> {
    fn read(keys: Map<String, Value>, _: u16) -> Self {
        keys
    }
}
