//! The keys of a result that are not in the specification, which a plugin passes on.

use std::{
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    ops::Deref,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, Unexpected, Visitor},
};
use serde_json::{Map, Value};

use crate::any_case::Whole;

/// The keys of a result that this library does not know, in their order.
///
/// It reads like the JSON object that it dereferences to. A result that was read also remembers which keys of newer spec
/// versions it had, so that a plugin passes them on in an old version too; a comparison does not look at that.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    keys: Map<String, Value>,
    /// The keys of newer versions that were read, a bit each.
    given: u16,
}

impl Extra {
    /// Sets a key; a new one comes last.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.keys.insert(key.into(), value.into())
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.keys.shift_remove(key)
    }

    /// Without the keys of this name in any case, which mean something else in another version.
    pub(crate) fn without(mut self, keys: &[&str]) -> Self {
        self.keys.retain(|key, _| !keys.iter().any(|other| other.eq_ignore_ascii_case(key)));
        self
    }

    /// Whether the key at this place in [`Object::KEYS`] was read.
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

/// A part of a result: an object whose keys are read in any case, and whose unknown keys are kept.
pub(crate) trait Object: Default {
    /// What it is, for errors.
    const WHAT: &'static str;
    /// The known keys.
    const KEYS: &'static [&'static str];
    /// Where the keys of version 1.1.0 begin in `KEYS`.
    const NEWER: usize = Self::KEYS.len();
    /// The key that has to be there.
    const REQUIRED: Option<&'static str> = None;

    /// Reads the value of the key at this place in `KEYS`.
    fn read<'de, A: MapAccess<'de>>(&mut self, key: usize, access: &mut A) -> Result<(), A::Error>;

    /// Where the unknown keys go.
    fn extra(&mut self) -> &mut Extra;
}

/// Reads an [`Object`].
pub(crate) fn object<'de, T: Object, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Keys<T>(PhantomData<T>);

    impl<'de, T: Object> Visitor<'de> for Keys<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::WHAT)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<T, A::Error> {
            let mut object = T::default();
            let (mut seen, mut exact) = (0, 0);
            while let Some(name) = access.next_key::<String>()? {
                let place = T::KEYS.iter().position(|key| key.eq_ignore_ascii_case(&name));
                let Some(place) = place else {
                    let value: Value = access.next_value()?;
                    object.extra().keys.insert(name, value);
                    continue;
                };
                let is_exact = T::KEYS[place] == name;
                if !is_exact && exact & bit(place) != 0 {
                    access.next_value::<IgnoredAny>()?;
                    continue;
                }
                object.read(place, &mut access)?;
                seen |= bit(place);
                exact |= if is_exact { bit(place) } else { 0 };
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

/// Reads a string; null and an empty one are none.
pub(crate) fn text<'de, A: MapAccess<'de>>(access: &mut A) -> Result<Option<String>, A::Error> {
    Ok(access.next_value::<Option<String>>()?.filter(|text| !text.is_empty()))
}

/// Reads a whole number in any notation; null is none.
pub(crate) fn number<'de, T: TryFrom<i128>, A: MapAccess<'de>>(
    access: &mut A,
) -> Result<Option<T>, A::Error> {
    Ok(access.next_value::<Option<NumberOf<T>>>()?.map(|NumberOf(number)| number))
}

/// A whole number of a type. The error comes from within, so that it is about the value and not about the object.
struct NumberOf<T>(T);

impl<'de, T: TryFrom<i128>> Deserialize<'de> for NumberOf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let AnyNumber(number) = AnyNumber::deserialize(deserializer)?;
        T::try_from(number).map(Self).map_err(|_| {
            let range = std::any::type_name::<T>();
            D::Error::invalid_value(Unexpected::Other("number out of range"), &range)
        })
    }
}

/// The index of an interface; negative is none.
#[derive(Default)]
pub(crate) struct Index(pub(crate) Option<u32>);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match AnyNumber::deserialize(deserializer)? {
            AnyNumber(number) if number < 0 => Ok(Self(None)),
            AnyNumber(number) => {
                u32::try_from(number).map(|index| Self(Some(index))).map_err(|_| {
                    D::Error::invalid_value(Unexpected::Other("number out of range"), &"u32")
                })
            }
        }
    }
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
