//! Objects of a result: keys in any case, and unknown keys, which a plugin passes on.

use std::{
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    net::IpAddr,
    ops::Deref,
};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, Unexpected, Visitor},
};
use serde_json::{Map, Value};

use crate::{
    address::{MaybeAddress, Net},
    any_case::{self, Whole},
};

/// The keys of a result that are not in the specification, in their order.
///
/// It dereferences to a JSON object. It also records which keys of newer spec versions were read,
/// so that a plugin passes them on in an old version too; comparisons ignore this.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Map<String, Value>")]
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

    /// Removes keys, in any case, that have another meaning in the version to be written.
    pub(crate) fn without(mut self, keys: &[&str]) -> Self {
        self.keys.retain(|key, _| !keys.iter().any(|other| other.eq_ignore_ascii_case(key)));
        self
    }

    /// Whether the key at this index of [`Object::KEYS`] was read.
    pub(crate) fn has_given(&self, key: usize) -> bool {
        self.given & bit(key) != 0
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

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.keys.serialize(serializer)
    }
}

fn bit(key: usize) -> u16 {
    1 << key
}

/// A part of a result: an object whose keys are read in any case and whose unknown keys are kept.
pub(crate) trait Object: Default {
    /// Noun phrase for errors.
    const DESCRIPTION: &'static str;
    /// The known keys.
    const KEYS: &'static [&'static str];
    /// Index of the first key of version 1.1.0 in `KEYS`.
    const NEWER: usize;
    /// The required key, if any.
    const REQUIRED: Option<&'static str>;

    /// Reads the value of a key of `KEYS`.
    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, access: &mut A) -> Result<(), A::Error>;

    /// The unknown keys.
    fn extra(&mut self) -> &mut Extra;
}

/// Implements [`Object`] and `Deserialize`: for each key the field and the function below that
/// reads it. The keys under `newer` are those of version 1.1.0.
macro_rules! impl_object {
    (
        $object:ty: $description:literal, required: $required:expr, ignored: [$($ignored:literal)?],
        keys: { $($key:literal => $($field:ident).+: $read:ident),* },
        newer: { $($new_key:literal => $new_field:ident: $new_read:ident),* },
        extra: $($extra:ident).+
    ) => {
        impl $crate::extra::Object for $object {
            const DESCRIPTION: &'static str = $description;
            const KEYS: &'static [&'static str] = &[$($ignored,)? $($key,)* $($new_key),*];
            const NEWER: usize = <[&str]>::len(&[$($ignored,)? $($key),*]);
            const REQUIRED: Option<&'static str> = $required;

            fn read<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                access: &mut A,
            ) -> Result<(), A::Error> {
                match key {
                    $($key => self.$($field).+ = $crate::extra::$read(access)?,)*
                    $($new_key => self.$new_field = $crate::extra::$new_read(access)?,)*
                    _ => drop(access.next_value::<serde::de::IgnoredAny>()?),
                }
                Ok(())
            }

            fn extra(&mut self) -> &mut $crate::Extra {
                &mut self.$($extra).+
            }
        }

        impl<'de> serde::Deserialize<'de> for $object {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::extra::object(deserializer)
            }
        }
    };
}
pub(crate) use impl_object;

/// Reads an [`Object`]. The exact spelling of a key wins over others, otherwise the last one.
pub(crate) fn object<'de, T: Object, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Keys<T>(PhantomData<T>);

    impl<'de, T: Object> Visitor<'de> for Keys<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::DESCRIPTION)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<T, A::Error> {
            let mut object = T::default();
            let (mut seen, mut exact) = (0, 0);
            while let Some(name) = access.next_key::<String>()? {
                let index = T::KEYS.iter().position(|key| key.eq_ignore_ascii_case(&name));
                let Some(index) = index else {
                    let value: Value = access.next_value()?;
                    object.extra().keys.insert(name, value);
                    continue;
                };
                let is_exact = T::KEYS[index] == name;
                if !is_exact && exact & bit(index) != 0 {
                    access.next_value::<IgnoredAny>()?;
                    continue;
                }
                object.read(T::KEYS[index], &mut access)?;
                seen |= bit(index);
                exact |= if is_exact { bit(index) } else { 0 };
            }
            if let Some(required) = T::REQUIRED
                && !T::KEYS.iter().enumerate().any(|(i, k)| *k == required && seen & bit(i) != 0)
            {
                return Err(A::Error::missing_field(required));
            }
            object.extra().given = seen & !(bit(T::NEWER) - 1);
            Ok(object)
        }
    }
    deserializer.deserialize_map(Keys(PhantomData))
}

/// Reads a value; null is the default.
pub(crate) fn value<'de, T: Default + Deserialize<'de>, A: MapAccess<'de>>(
    access: &mut A,
) -> Result<T, A::Error> {
    Ok(access.next_value::<Option<T>>()?.unwrap_or_default())
}

/// Reads a string; null and an empty one are `None`.
pub(crate) fn text<'de, A: MapAccess<'de>>(access: &mut A) -> Result<Option<String>, A::Error> {
    Ok(access.next_value::<Option<String>>()?.filter(|text| !text.is_empty()))
}

/// Reads an address with its prefix length.
pub(crate) fn net<'de, A: MapAccess<'de>>(access: &mut A) -> Result<IpNet, A::Error> {
    Ok(access.next_value::<Net>()?.0)
}

/// Reads an address; null and an empty string are `None`.
pub(crate) fn address<'de, A: MapAccess<'de>>(access: &mut A) -> Result<Option<IpAddr>, A::Error> {
    Ok(access.next_value::<MaybeAddress>()?.0)
}

/// Reads the index of an interface; null and negative numbers are `None`.
pub(crate) fn interface<'de, A: MapAccess<'de>>(access: &mut A) -> Result<Option<u32>, A::Error> {
    Ok(access.next_value::<Option<Index>>()?.and_then(|Index(index)| index))
}

/// Reads a whole number in any notation; null is `None`.
pub(crate) fn number<'de, T: TryFrom<i128>, A: MapAccess<'de>>(
    access: &mut A,
) -> Result<Option<T>, A::Error> {
    Ok(access.next_value::<Option<NumberOf<T>>>()?.map(|NumberOf(number)| number))
}

// The types that check a number implement `Deserialize`, so that an error is reported at the path
// of the value and not of the object.

struct NumberOf<T>(T);

impl<'de, T: TryFrom<i128>> Deserialize<'de> for NumberOf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let AnyNumber(number) = AnyNumber::deserialize(deserializer)?;
        in_range(number).map(Self)
    }
}

struct Index(Option<u32>);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match AnyNumber::deserialize(deserializer)? {
            AnyNumber(number) if number < 0 => Ok(Self(None)),
            AnyNumber(number) => in_range(number).map(|index| Self(Some(index))),
        }
    }
}

fn in_range<T: TryFrom<i128>, E: serde::de::Error>(number: i128) -> Result<T, E> {
    T::try_from(number).map_err(|_| {
        let range = std::any::type_name::<T>();
        E::invalid_value(Unexpected::Other("number out of range"), &range)
    })
}

/// A whole number in any notation.
struct AnyNumber(i128);

impl<'de> Deserialize<'de> for AnyNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = AnyNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<AnyNumber, E> {
                Ok(AnyNumber(number.into()))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<AnyNumber, E> {
                Ok(AnyNumber(number.into()))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<AnyNumber, E> {
                match Whole::of(number) {
                    Some(Whole::Unsigned(number)) => Ok(AnyNumber(number.into())),
                    Some(Whole::Signed(number)) => Ok(AnyNumber(number.into())),
                    None => Err(E::invalid_type(Unexpected::Float(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Number)
    }
}
