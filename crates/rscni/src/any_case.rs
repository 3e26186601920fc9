//! JSON as the Go plugins read it: keys in any case, null as absent, whole numbers in any notation.
//!
//! `ipmasq` is read as `ipMasq`, and `1500.0` and `1.5e3`, which templating tools write, as 1500.
//! The exact spelling of a key wins. An error names the path of each wrong key, its value and what
//! is expected.

use serde::{
    de::{
        DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess,
        SeqAccess, Unexpected, Visitor,
        value::{BorrowedStrDeserializer, MapAccessDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Map, Number, Value};

use crate::fault::{Fault, Step, join};

/// Reads a value from JSON in which the keys of structs may be spelled in any case.
///
/// Nested structs are included, structs with a `#[serde(flatten)]` field are not. A key of a struct
/// that is null counts as absent.
///
/// ```
/// #[derive(Debug, serde::Deserialize)]
/// #[serde(rename_all = "camelCase")]
/// struct Keys { hairpin_mode: bool, mtu: u32 }
///
/// let json = serde_json::json!({ "hairpinmode": true, "mtu": 1.5e3 });
/// let keys: Keys = rscni::any_case::from_value(json)?;
/// assert!(keys.hairpin_mode && keys.mtu == 1500);
///
/// let json = serde_json::json!({ "hairpinMode": "on", "mtu": -1 });
/// let error = rscni::any_case::from_value::<Keys>(json).unwrap_err();
/// let expected = r#"hairpinMode: "on" is not true or false; mtu: -1 is not a whole number"#;
/// assert!(error.to_string().starts_with(expected));
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
/// An error that names the path of each missing or wrong key.
pub fn from_value<T: DeserializeOwned>(json: impl Into<Value>) -> Result<T, Error> {
    read(&json.into(), "").map_err(Error::custom)
}

/// Reads the object at `path` of a configuration, such as `ipam`.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`](crate::Error::InvalidNetworkConfig) with the path of each wrong
/// key.
pub fn section<T: DeserializeOwned>(
    part: &Map<String, Value>,
    path: &str,
) -> Result<T, crate::Error> {
    let entries: Vec<_> = part.iter().map(|(key, value)| (key.as_str(), value)).collect();
    read_entries(&entries, path).map_err(crate::Error::InvalidNetworkConfig)
}

/// Reads the value at `path` of a configuration.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`](crate::Error::InvalidNetworkConfig) with the path of each wrong
/// key.
pub fn value_at<T: DeserializeOwned>(value: &Value, path: &str) -> Result<T, crate::Error> {
    read(value, path).map_err(crate::Error::InvalidNetworkConfig)
}

/// Reads a value; errors name paths below `path`.
pub(crate) fn read<T: DeserializeOwned>(value: &Value, path: &str) -> Result<T, String> {
    read_any_case(AnyCase::Value(value), path)
}

/// Reads an object, given as its entries; errors name paths below `path`.
pub(crate) fn read_entries<T: DeserializeOwned>(
    entries: &[(&str, &Value)],
    path: &str,
) -> Result<T, String> {
    read_any_case(AnyCase::Object(entries), path)
}

fn read_any_case<T: DeserializeOwned>(json: AnyCase<'_>, path: &str) -> Result<T, String> {
    T::deserialize(json)
        .map_err(|fault| explain(json, path, fault, &mut |rest| T::deserialize(rest).err()))
}

/// Describes all faults: removes each key with a wrong value in turn and reads the rest again.
#[cold]
fn explain(
    json: AnyCase<'_>,
    path: &str,
    first: Fault,
    read_again: &mut dyn FnMut(AnyCase<'_>) -> Option<Fault>,
) -> String {
    if let AnyCase::Value(value) = json
        && !value.is_object()
    {
        return describe(path, Some(value), &first);
    }
    let mut rest = json.entries();
    let mut faults: Vec<String> = Vec::new();
    let mut left_out: Vec<String> = Vec::new();
    let mut next = Some(first);
    while let Some(fault) = next {
        if let (Some(key), true) = (fault.missing_key(), fault.path().is_empty())
            && left_out.iter().any(|wrong| wrong.eq_ignore_ascii_case(key))
        {
            break;
        }
        let Some(Step::Key(first)) = fault.path().first() else {
            faults.push(describe(path, None, &fault));
            break;
        };
        let is_it = |key: &str| key.eq_ignore_ascii_case(first);
        let value = rest
            .iter()
            .find(|(key, _)| key == first)
            .or_else(|| rest.iter().find(|(key, value)| is_it(key) && !value.is_null()))
            .map(|(_, value)| *value);
        let before = rest.len();
        faults.push(describe(path, value, &fault));
        rest.retain(|(key, _)| !is_it(key));
        if rest.len() == before {
            break;
        }
        left_out.push(first.clone());
        next = read_again(AnyCase::Object(&rest));
    }
    faults.join("; ")
}

/// The message about a fault below `path`. `value` is the value of the first step, if that is a
/// key.
fn describe(path: &str, value: Option<&Value>, fault: &Fault) -> String {
    let mut path = path.to_owned();
    let mut value = value;
    for (i, step) in fault.path().iter().enumerate() {
        match step {
            Step::Key(key) => {
                path = join(&path, key);
                if i > 0 {
                    value = value.and_then(Value::as_object).and_then(|map| get(map, key));
                }
            }
            Step::Index(index) => {
                path = format!("{path}[{index}]");
                value = value.and_then(|list| list.get(index));
            }
        }
    }
    fault.at(&path, value)
}

/// Removes a key in any case and returns its value.
pub(crate) fn take(map: &mut Map<String, Value>, key: &str) -> Option<Value> {
    let spelled = spelling(map, key)?.clone();
    let mut taken = None;
    map.retain(|other, value| {
        if *other == spelled {
            taken = Some(std::mem::take(value));
        }
        // The exact spelling won; the other spellings must not be read as the key later.
        !other.eq_ignore_ascii_case(key)
    });
    taken
}

/// Removes a key and keeps the order of the others.
pub(crate) fn remove(map: &mut Map<String, Value>, key: &str) -> Option<Value> {
    let mut removed = None;
    map.retain(|other, value| {
        let is_it = other == key;
        if is_it {
            removed = Some(std::mem::take(value));
        }
        !is_it
    });
    removed
}

/// Returns the value of a key in any case; the exact spelling wins.
pub fn get<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(spelling(map, key)?)
}

fn spelling<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a String> {
    let own = map.get_key_value(key).map(|(key, _)| key);
    own.or_else(|| map.keys().find(|other| other.eq_ignore_ascii_case(key)))
}

/// The whole number that a JSON number with a fraction or an exponent stands for.
pub(crate) enum Whole {
    Unsigned(u64),
    Signed(i64),
}

impl Whole {
    /// Converts a float without a fraction.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the ranges are checked, and a whole float has no fraction to lose"
    )]
    pub(crate) fn of(number: f64) -> Option<Self> {
        // 2^64 and -2^63 are exact as floats; u64::MAX and i64::MAX are not.
        const UNSIGNED_END: f64 = 18_446_744_073_709_551_616.0;
        const SIGNED_START: f64 = -9_223_372_036_854_775_808.0;
        match number {
            number if number.fract() != 0.0 => None,
            number if (0.0..UNSIGNED_END).contains(&number) => Some(Self::Unsigned(number as u64)),
            number if (SIGNED_START..0.0).contains(&number) => Some(Self::Signed(number as i64)),
            _ => None,
        }
    }
}

/// A deserializer that matches keys in any case.
#[derive(Clone, Copy)]
enum AnyCase<'de> {
    Value(&'de Value),
    /// The entries of an object.
    Object(&'de [(&'de str, &'de Value)]),
}

impl<'de> AnyCase<'de> {
    fn number<V: Visitor<'de>>(number: &Number, visitor: V) -> Result<V::Value, Fault> {
        if let Some(number) = number.as_u64() {
            visitor.visit_u64(number)
        } else if let Some(number) = number.as_i64() {
            visitor.visit_i64(number)
        } else {
            visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
        }
    }

    fn whole<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if let Self::Value(Value::Number(number)) = self
            && number.is_f64()
            && let Some(whole) = number.as_f64().and_then(Whole::of)
        {
            return match whole {
                Whole::Unsigned(number) => visitor.visit_u64(number),
                Whole::Signed(number) => visitor.visit_i64(number),
            };
        }
        self.deserialize_any(visitor)
    }

    fn is_object(self) -> bool {
        matches!(self, Self::Object(_) | Self::Value(Value::Object(_)))
    }

    /// The entries of an object.
    fn entries(self) -> Vec<(&'de str, &'de Value)> {
        match self {
            Self::Object(entries) => entries.to_vec(),
            Self::Value(Value::Object(map)) => map.iter().map(|(k, v)| (k.as_str(), v)).collect(),
            Self::Value(_) => Vec::new(),
        }
    }

    fn visit_entries<V: Visitor<'de>>(
        entries: Vec<(&'de str, &'de Value)>,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_map(Entries { rest: entries.into_iter(), value: None })
    }
}

/// The entries of an object that are not read yet. A fault gets the key that it is at.
struct Entries<'de> {
    rest: std::vec::IntoIter<(&'de str, &'de Value)>,
    value: Option<(&'de str, &'de Value)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.value = self.rest.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, value)) = self.value.take() else {
            return Err(Fault::custom("a value is read before its key"));
        };
        seed.deserialize(AnyCase::Value(value)).map_err(|fault| fault.below(Step::Key(key.into())))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The items of a list that are not read yet. A fault gets the index that it is at.
struct Items<'de> {
    list: &'de [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let (index, Some(value)) = (self.next, self.list.get(self.next)) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(AnyCase::Value(value))
            .map(Some)
            .map_err(|fault| fault.below(Step::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.list.len() - self.next)
    }
}

macro_rules! whole_numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.whole(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for AnyCase<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self {
            Self::Value(Value::Null) => visitor.visit_unit(),
            Self::Value(Value::Bool(on)) => visitor.visit_bool(*on),
            Self::Value(Value::Number(number)) => Self::number(number, visitor),
            Self::Value(Value::String(text)) => visitor.visit_borrowed_str(text),
            Self::Value(Value::Array(list)) => {
                let mut items = Items { list, next: 0 };
                let value = visitor.visit_seq(&mut items)?;
                if items.next < list.len() {
                    let expected = format!("{} elements in sequence", items.next);
                    return Err(Fault::invalid_length(list.len(), &expected.as_str()));
                }
                Ok(value)
            }
            Self::Value(Value::Object(_)) | Self::Object(_) => {
                Self::visit_entries(self.entries(), visitor)
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if !self.is_object() {
            // Serde would accept a list and take its values as the fields in order.
            return Err(Fault::invalid_type(Unexpected::Other("no object"), &"an object"));
        }
        let mut entries = self.entries();
        let is_exact = |key: &str| fields.contains(&key);
        let exact: Vec<&str> =
            entries.iter().map(|(key, _)| *key).filter(|key| is_exact(key)).collect();
        let mut taken: Vec<&str> = Vec::new();
        entries.retain_mut(|(key, value)| {
            if value.is_null() {
                return false;
            }
            let field = fields.iter().copied().find(|field| field.eq_ignore_ascii_case(key));
            let Some(field) = field.filter(|_| !is_exact(key)) else { return true };
            // Another spelling of a present key is dropped; it must not count as unknown either.
            if exact.contains(&field) || taken.contains(&field) {
                return false;
            }
            taken.push(field);
            *key = field;
            true
        });
        Self::visit_entries(entries, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self {
            Self::Value(Value::Null) => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self {
            Self::Value(Value::String(text)) => {
                visitor.visit_enum(IntoDeserializer::<Fault>::into_deserializer(text.as_str()))
            }
            object if object.is_object() => {
                let entries = Entries { rest: object.entries().into_iter(), value: None };
                visitor.visit_enum(MapAccessDeserializer::new(entries))
            }
            _ => Err(Fault::unknown_variant("", variants)),
        }
    }

    whole_numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Fault> for AnyCase<'de> {
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
    fn keys_are_read_in_any_case_in_nested_structs() {
        let keys: Keys = from_value(json!({
            "isgateway": true, "MTU": 1400, "PortMappings": [{ "hostip": "10.1.0.1" }],
            "Backend": "iptables", "REST": { "Its": "own" }, "net": "10.1.0.0/16", "unknown": [1]
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
    fn the_exact_spelling_of_a_key_wins() {
        for json in [json!({ "mtu": 1, "MTU": 2 }), json!({ "MTU": 2, "mtu": 1 })] {
            assert_eq!(from_value::<Keys>(json).unwrap().mtu, 1);
        }
    }

    #[test]
    fn whole_numbers_are_read_in_any_notation() {
        for text in ["1500", "1500.0", "1.5e3", "15e2", "150000e-2"] {
            let json: Value = serde_json::from_str(&format!(r#"{{ "mtu": {text} }}"#)).unwrap();
            assert_eq!(from_value::<Keys>(json).unwrap().mtu, 1500, "{text}");
        }
        for text in ["1500.5", "-1.0", "1e30", "4294967296.0", "1e-1"] {
            let json: Value = serde_json::from_str(&format!(r#"{{ "mtu": {text} }}"#)).unwrap();
            let error = from_value::<Keys>(json).unwrap_err().to_string();
            assert!(error.contains("is not a whole number from 0 to 4294967295"), "{error}");
        }
        assert_eq!(from_value::<i64>(json!(-9.223_372_036_854_776e18)).unwrap(), i64::MIN);
        assert!(from_value::<u64>(json!(1.844_674_407_370_955_2e19)).is_err());
    }

    #[test]
    fn a_null_key_counts_as_absent() {
        let keys: Keys =
            from_value(json!({ "mtu": null, "portMappings": null, "x": null })).unwrap();
        assert_eq!(keys, Keys::default());
    }

    #[test]
    fn errors_name_the_path_of_each_wrong_key_and_its_value() {
        let json = json!({
            "MTU": "x", "isGateway": 1,
            "portMappings": [{ "hostIP": "10.1.0.1" }, { "hostip": "10.1.0.300" }], "backend": "pf",
        });
        let error = from_value::<Keys>(json).unwrap_err().to_string();
        for part in [
            r#"mtu: "x" is not a whole number"#,
            "isGateway: 1 is not true or false",
            r#"portMappings[1].hostIP: "10.1.0.300""#,
            r#"backend: "pf" is not "iptables""#,
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("line"), "{error}");
        let part = json!({ "portMappings": [{}] }).as_object().cloned().unwrap();
        let error = section::<Keys>(&part, "a.b").unwrap_err();
        assert_eq!(error.details(), "a.b.portMappings[0].hostIP: missing, but required");
        assert!(from_value::<u8>(json!("x")).unwrap_err().to_string().contains("not a"));
    }

    #[test]
    fn a_list_is_rejected_as_a_struct() {
        let error = from_value::<Keys>(json!({ "portMappings": [["10.1.0.1"]] })).unwrap_err();
        assert_eq!(error.to_string(), r#"portMappings[0]: ["10.1.0.1"] is not an object"#);
    }

    #[test]
    fn unknown_keys_can_be_rejected() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Strict {
            _a: Option<u8>,
        }
        let error = from_value::<Strict>(json!({ "b": 1 })).unwrap_err().to_string();
        assert!(error.contains("unknown key \"b\""), "{error}");
        from_value::<Strict>(json!({ "_a": 1, "_A": 2 })).unwrap();
    }

    #[test]
    fn a_value_of_the_wrong_type_is_an_error() {
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
