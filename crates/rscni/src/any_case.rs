//! Keys in any case: `ipmasq` is `ipMasq`.
//!
//! The Go plugins read their configuration so, and there are configurations that rely on it. A key in its own spelling
//! goes before the others.

use serde::{
    de::{
        DeserializeOwned, Deserializer, IntoDeserializer, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Map, Value};

/// Reads a value from JSON in which the keys of structs may be spelled in any case.
///
/// It holds for structs within structs and lists too, but not for one that has a part flattened into it.
///
/// ```
/// #[derive(serde::Deserialize)]
/// #[serde(rename_all = "camelCase")]
/// struct Keys { hairpin_mode: bool }
///
/// let keys: Keys = rscni::any_case::from_value(serde_json::json!({ "hairpinmode": true }))?;
/// assert!(keys.hairpin_mode);
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
/// What is missing or of the wrong type.
pub fn from_value<T: DeserializeOwned>(json: impl Into<Value>) -> Result<T, Error> {
    T::deserialize(AnyCase(json.into()))
}

/// Takes the value of a key, however it is spelled.
pub(crate) fn take(map: &mut Map<String, Value>, key: &str) -> Option<Value> {
    let spelled = spelling(map, key)?.clone();
    let value = map.shift_remove(&spelled);
    // Other spellings were passed over. Whoever reads what is left must not take one of them for the key.
    map.retain(|other, _| !other.eq_ignore_ascii_case(key));
    value
}

/// The value of a key, however it is spelled.
pub fn get<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(spelling(map, key)?)
}

fn spelling<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a String> {
    let own = map.get_key_value(key).map(|(key, _)| key);
    own.or_else(|| map.keys().find(|other| other.eq_ignore_ascii_case(key)))
}

struct AnyCase(Value);

impl<'de> Deserializer<'de> for AnyCase {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(list) => {
                let mut list = SeqDeserializer::new(list.into_iter().map(AnyCase));
                let value = visitor.visit_seq(&mut list)?;
                list.end().map(|()| value)
            }
            Value::Object(map) => {
                let mut map =
                    MapDeserializer::new(map.into_iter().map(|(key, value)| (key, AnyCase(value))));
                let value = visitor.visit_map(&mut map)?;
                map.end().map(|()| value)
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::Object(mut map) = self.0 else { return self.deserialize_any(visitor) };
        for field in fields.iter().filter(|field| !field.is_empty()) {
            if let Some(value) = take(&mut map, field) {
                map.insert((*field).to_owned(), value);
            }
        }
        // What is left of other spellings is unknown to the struct.
        AnyCase(map.into()).deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl IntoDeserializer<'_, Error> for AnyCase {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Keys {
        is_gateway: bool,
        mtu: u32,
        port_mappings: Vec<Port>,
        backend: Option<Backend>,
        rest: Option<Value>,
        net: Option<ipnet::IpNet>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Port {
        #[serde(rename = "hostIP")]
        host_ip: std::net::IpAddr,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Backend {
        Iptables,
    }

    #[test]
    fn keys_are_read_in_any_case_in_structs_within_structs_too() {
        let keys: Keys = from_value(json!({
            "isgateway": true, "MTU": 1400, "PortMappings": [{ "hostip": "10.1.0.1" }], "Backend": "iptables",
            "REST": { "Its": "own" }, "net": "10.1.0.0/16", "unknown": [1]
        }))
        .unwrap();
        let expected = Keys {
            is_gateway: true,
            mtu: 1400,
            port_mappings: vec![Port { host_ip: "10.1.0.1".parse().unwrap() }],
            backend: Some(Backend::Iptables),
            rest: Some(json!({ "Its": "own" })),
            net: Some("10.1.0.0/16".parse().unwrap()),
        };
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_key_in_its_own_spelling_goes_before_others() {
        for json in [json!({ "mtu": 1, "MTU": 2 }), json!({ "MTU": 2, "mtu": 1 })] {
            assert_eq!(from_value::<Keys>(json).unwrap().mtu, 1);
        }
    }

    #[test]
    fn what_has_the_wrong_type_is_an_error() {
        for json in [
            json!({ "mtu": "x" }),
            json!({ "mtu": -1 }),
            json!({ "portMappings": [{}] }),
            json!([1]),
            json!(1),
        ] {
            assert!(from_value::<Keys>(json.clone()).is_err(), "{json}");
        }
    }
}
