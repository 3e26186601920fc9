//! The keys of a configuration that are not defined by the protocol.

use std::{collections::HashMap, ops::Deref};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// The keys of a configuration that are not defined by the protocol, in their order.
///
/// It dereferences to a `HashMap<String, Value>`; serialization keeps the order of the keys.
/// [`NetConf::custom_as`](crate::NetConf::custom_as) reads it into a struct.
///
/// ```
/// use rscni::Custom;
///
/// let custom: Custom = [("mtu", 1400), ("vlan", 7)].into_iter().collect();
/// assert_eq!(custom["vlan"], 7);
/// for (key, value) in &custom {
///     println!("{key}: {value}");
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Custom {
    values: HashMap<String, Value>,
    order: Vec<String>,
}

impl Custom {
    /// Returns keys and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.order.iter().filter_map(|key| self.values.get_key_value(key))
    }

    /// Sets a key; a new one is appended.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let key = key.into();
        let previous = self.values.insert(key.clone(), value.into());
        if previous.is_none() {
            self.order.push(key);
        }
        previous
    }

    /// Converts to a JSON object.
    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        for (key, value) in self.iter() {
            map.insert(key.clone(), value.clone());
        }
        map
    }
}

impl Deref for Custom {
    type Target = HashMap<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.values
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Custom {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut custom = Self::default();
        for (key, value) in pairs {
            custom.insert(key, value);
        }
        custom
    }
}

impl<'a> IntoIterator for &'a Custom {
    type Item = (&'a String, &'a Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter().collect::<Vec<_>>().into_iter()
    }
}

impl IntoIterator for Custom {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(mut self) -> Self::IntoIter {
        let take = |key: String| self.values.remove(&key).map(|value| (key, value));
        self.order.into_iter().filter_map(take).collect::<Vec<_>>().into_iter()
    }
}

impl From<Map<String, Value>> for Custom {
    fn from(map: Map<String, Value>) -> Self {
        map.into_iter().collect()
    }
}

impl<'de> Deserialize<'de> for Custom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
    }
}

impl Serialize for Custom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_key_keeps_its_position() {
        let mut custom: Custom = [("z", 1), ("a", 2), ("m", 3)].into_iter().collect();
        assert_eq!(custom.insert("a", 5), Some(2.into()));
        assert_eq!(serde_json::to_string(&custom).unwrap(), r#"{"z":1,"a":5,"m":3}"#);
        assert_eq!((custom.len(), &custom["m"]), (3, &Value::from(3)));
    }

    #[test]
    fn iteration_and_json_keep_the_order() {
        let text = r#"{"z":1,"a":[2],"m":null}"#;
        let custom: Custom = serde_json::from_str(text).unwrap();
        let mut keys = Vec::new();
        for (key, _) in &custom {
            keys.push(key.as_str());
        }
        assert_eq!(keys, ["z", "a", "m"]);
        assert_eq!(serde_json::to_string(&custom).unwrap(), text);
        let pairs: Vec<_> = custom.into_iter().collect();
        assert_eq!(pairs[1], ("a".to_owned(), serde_json::json!([2])));
    }
}
