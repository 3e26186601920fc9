//! The objects of the protocol, as tables of their keys.
//!
//! Reading and writing go through `Value`, with one reader and one writer for all objects: the code
//! that serde generates for each type would be a third of a plugin. Keys are read in any case, null
//! counts as absent, and all wrong keys are reported with their paths.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};

use crate::{
    any_case,
    fault::{PLACE, with_path},
    json::{Json, Problems, is_negative, read},
};

/// The field of a key.
pub(crate) trait Field {
    fn set(&mut self, value: &Value, problems: &mut Problems);
    /// Returns the value, if it is written.
    fn get(&self) -> Option<Value>;
}

impl<T: Json> Field for T {
    fn set(&mut self, value: &Value, problems: &mut Problems) {
        if let Some(value) = T::read(value, problems) {
            *self = value;
        }
    }

    fn get(&self) -> Option<Value> {
        (!self.is_omitted()).then(|| self.write())
    }
}

/// The keys of an object.
pub(crate) struct Shape {
    /// Noun phrase for errors.
    pub(crate) description: &'static str,
    /// The keys of the fields, in their order.
    pub(crate) keys: &'static [&'static str],
    pub(crate) required: &'static [&'static str],
    /// Keys without a field that are not passed on.
    pub(crate) ignored: &'static [&'static str],
    /// The keys of version 1.1.0.
    pub(crate) newer: &'static [&'static str],
    /// Keys whose negative values count as absent.
    pub(crate) indices: &'static [&'static str],
    /// Keys that are not written if they are an empty string.
    pub(crate) omitted_if_empty: &'static [&'static str],
    /// Whether the object keeps its unknown keys.
    pub(crate) has_rest: bool,
}

impl Shape {
    /// Whether the shape gives a key, in any case, a meaning.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.iter().chain(self.ignored).any(|known| known.eq_ignore_ascii_case(key))
    }

    /// Reads the fields. Returns the unknown keys, and a bit for each key of `newer` that was read.
    fn read(
        &self,
        fields: &mut [&mut dyn Field],
        value: &Value,
        problems: &mut Problems,
    ) -> Option<(Map<String, Value>, u16)> {
        let Some(map) = value.as_object() else {
            problems.not(value, self.description);
            return None;
        };
        for (key, field) in self.keys.iter().zip(fields) {
            let value = any_case::get(map, key).filter(|value| match value {
                Value::Null => false,
                Value::Number(number) => !self.indices.contains(key) || !is_negative(number),
                _ => true,
            });
            match value {
                Some(value) => problems.below(key, |problems| field.set(value, problems)),
                None if self.required.contains(key) => problems.missing(key),
                None => {}
            }
        }
        let given = self.newer.iter().map(|key| any_case::get(map, key).is_some());
        let given = given.enumerate().fold(0, |bits, (i, given)| bits | u16::from(given) << i);
        let mut rest = Map::new();
        for (key, value) in map.iter().filter(|(key, _)| self.has_rest && !self.has(key)) {
            rest.insert(key.clone(), value.clone());
        }
        Some((rest, given))
    }

    fn write(
        &self,
        fields: &[&dyn Field],
        rest: Option<&Map<String, Value>>,
    ) -> Map<String, Value> {
        let mut map = Map::new();
        for (key, field) in self.keys.iter().zip(fields) {
            if let Some(value) = field.get()
                && !(value == "" && self.omitted_if_empty.contains(key))
            {
                map.insert((*key).into(), value);
            }
        }
        for (key, value) in rest.into_iter().flatten() {
            map.insert(key.clone(), value.clone());
        }
        map
    }
}

/// An object of the protocol; [`object!`] implements it.
pub(crate) trait Object: Default {
    const SHAPE: Shape;

    fn fields(&self) -> Vec<&dyn Field>;

    fn fields_mut(&mut self) -> Vec<&mut dyn Field>;

    /// The unknown keys, if the object keeps them.
    fn rest(&self) -> Option<&Map<String, Value>>;

    fn set_rest(&mut self, rest: Map<String, Value>, given: u16);

    /// Completes an object that was read.
    fn complete(&mut self, problems: &mut Problems);

    /// Changes an object that is written.
    fn adjust(map: &mut Map<String, Value>);
}

impl<T: Object> Json for T {
    fn read(value: &Value, problems: &mut Problems) -> Option<Self> {
        let mut object = T::default();
        let (rest, given) = T::SHAPE.read(&mut object.fields_mut(), value, problems)?;
        object.set_rest(rest, given);
        object.complete(problems);
        Some(object)
    }

    fn write(&self) -> Value {
        to_map(self).into()
    }
}

/// Returns an object as JSON.
pub(crate) fn to_map<T: Object>(object: &T) -> Map<String, Value> {
    let mut map = T::SHAPE.write(&object.fields(), object.rest());
    T::adjust(&mut map);
    map
}

/// Reads an object with serde.
pub(crate) fn deserialize<'de, T: Json, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    read(&value, PLACE).map_err(|problems| D::Error::custom(Parts(problems)))
}

/// The problems of an object that may be a part of a document. `{:#}` is for
/// [`Fault::custom`](crate::fault::Fault), which knows the path of the object later.
struct Parts(String);

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { f.write_str(&self.0) } else { f.write_str(&with_path(&self.0, "")) }
    }
}

/// Implements [`Object`], `Serialize` and `Deserialize`: for each key its field, and the lists of
/// [`Shape`]. `rest` is the field of the unknown keys.
macro_rules! object {
    (
        $object:ty: $description:literal,
        keys: { $($key:literal: $($field:ident).+),* $(,)? }
        $(, required: [$($required:literal),*])?
        $(, ignored: [$($ignored:literal),*])?
        $(, newer: [$($newer:literal),*])?
        $(, indices: [$($index:literal),*])?
        $(, omitted_if_empty: [$($omitted:literal),*])?
        $(, rest: $($rest:ident).+)?
        $(, complete: $complete:path)?
        $(, adjust: $adjust:path)?
    ) => {
        impl $crate::object::Object for $object {
            const SHAPE: $crate::object::Shape = $crate::object::Shape {
                description: $description,
                keys: &[$($key),*],
                required: &[$($($required),*)?],
                ignored: &[$($($ignored),*)?],
                newer: &[$($($newer),*)?],
                indices: &[$($($index),*)?],
                omitted_if_empty: &[$($($omitted),*)?],
                has_rest: <[&str]>::len(&[$(stringify!($($rest).+))?]) > 0,
            };

            fn fields(&self) -> Vec<&dyn $crate::object::Field> {
                vec![$(&self.$($field).+),*]
            }

            fn fields_mut(&mut self) -> Vec<&mut dyn $crate::object::Field> {
                vec![$(&mut self.$($field).+),*]
            }

            fn rest(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
                $(return Some(&self.$($rest).+);)?
                #[allow(unreachable_code, reason = "for objects without `rest`")]
                None
            }

            fn set_rest(&mut self, rest: serde_json::Map<String, serde_json::Value>, given: u16) {
                let _ = (&rest, given);
                $(self.$($rest).+ = $crate::extra::Rest::read(rest, given);)?
            }

            fn complete(&mut self, problems: &mut $crate::json::Problems) {
                let _ = problems;
                $($complete(self, problems);)?
            }

            fn adjust(map: &mut serde_json::Map<String, serde_json::Value>) {
                let _ = map;
                $($adjust(map);)?
            }
        }

        impl serde::Serialize for $object {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&$crate::object::to_map(self), serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $object {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::object::deserialize(deserializer)
            }
        }
    };
}
pub(crate) use object;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{CNIResult, Dns, Route};

    #[derive(Debug, Deserialize)]
    struct Own {
        _a: Vec<Route>,
        _b: Option<Dns>,
    }

    #[test]
    fn problems_within_a_struct_of_a_plugin_have_the_whole_path() {
        let json = json!({ "_a": [{ "dst": "x", "gw": 5 }, {}], "_b": 1 });
        let error = any_case::from_value::<Own>(json).unwrap_err();
        assert_eq!(
            error.to_string(),
            "_a[0].dst: \"x\" is not a CIDR such as 10.1.0.0/16 or fd00::/64; \
             _a[0].gw: 5 is not a string; _b: 1 is not DNS settings, an object"
        );
    }

    #[test]
    fn serde_reports_all_problems_of_an_object() {
        let json =
            json!({ "ips": [{}, { "address": "10.0.0.1/24", "interface": 1.5 }], "dns": [] });
        let error = serde_json::from_value::<CNIResult>(json).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ips[0].address: missing, but required; \
             ips[1].interface: 1.5 is not a whole number from 0 to 4294967295; \
             dns: [] is not DNS settings, an object"
        );
        let error = serde_json::from_value::<Route>(json!([])).unwrap_err();
        assert_eq!(error.to_string(), "[] is not a route, an object");
    }

    #[test]
    fn the_exact_spelling_of_a_key_wins_and_the_others_are_not_passed_on() {
        let json = json!({ "DST": "fd00::/8", "dst": "10.0.0.0/8", "Gw": null, "x": 1 });
        let route: Route = serde_json::from_value(json).unwrap();
        assert_eq!(serde_json::to_value(&route).unwrap(), json!({ "dst": "10.0.0.0/8", "x": 1 }));
    }
}
