//! Deserializer for pairs of key and value in which every value is text, such as `CNI_ARGS`.
//!
//! A value becomes what its field requires: a number, a boolean, an address, a list separated by
//! commas, text. An empty value of an optional field is absent.

use serde::{
    de::{
        DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, Unexpected,
        Visitor,
        value::{SeqDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use crate::{cni_args::parse_bool, fault::Fault};

/// Pairs with unique keys.
pub(crate) struct TextPairs<'de> {
    pub(crate) pairs: Vec<(&'de str, &'de str)>,
    /// Whether keys that a struct does not have are ignored.
    pub(crate) ignores_unknown: bool,
}

/// Describes the keys that are not known, if there are any.
pub(crate) fn unknown_keys<'a>(
    keys: impl Iterator<Item = &'a str>,
    known: &[&str],
) -> Option<String> {
    let unknown: Vec<_> = keys.filter(|key| !known.contains(key)).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    (!unknown.is_empty()).then(|| {
        let unknown = unknown.join(", ");
        format!("unknown {unknown}; known are {known}; set IgnoreUnknown=1 to ignore others")
    })
}

impl<'de> Deserializer<'de> for TextPairs<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(Pairs { left: self.pairs.into_iter(), current: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if self.ignores_unknown {
            self.pairs.retain(|(key, _)| fields.contains(key));
        } else if let Some(problem) = unknown_keys(self.pairs.iter().map(|(key, _)| *key), fields) {
            return Err(Fault::custom(problem));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Pairs<'de> {
    left: std::vec::IntoIter<(&'de str, &'de str)>,
    current: Option<(&'de str, &'de str)>,
}

impl<'de> MapAccess<'de> for Pairs<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.current = self.left.next();
        self.current.map(|(key, _)| seed.deserialize(Text(key))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, value) = self.current.unwrap_or_default();
        seed.deserialize(Text(value))
            .map_err(|fault| Fault::custom(fault.at(key, Some(&value.into()))))
    }
}

/// A key or a value.
struct Text<'de>(&'de str);

impl<'de> IntoDeserializer<'de, Fault> for Text<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! numbers {
    ($($method:ident: $visit:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.0.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(Fault::invalid_type(Unexpected::Str(self.0), &visitor)),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Text<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match parse_bool(self.0) {
            Some(on) => visitor.visit_bool(on),
            None => Err(Fault::invalid_type(Unexpected::Str(self.0), &"0, 1, true or false")),
        }
    }

    numbers! {
        deserialize_i8: visit_i8
        deserialize_i16: visit_i16
        deserialize_i32: visit_i32
        deserialize_i64: visit_i64
        deserialize_i128: visit_i128
        deserialize_u8: visit_u8
        deserialize_u16: visit_u16
        deserialize_u32: visit_u32
        deserialize_u64: visit_u64
        deserialize_u128: visit_u128
        deserialize_f32: visit_f32
        deserialize_f64: visit_f64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.0.is_empty() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let parts = self.0.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Text);
        visitor.visit_seq(SeqDeserializer::new(parts))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        StrDeserializer::new(self.0).deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
        ignored_any
    }
}
