//! Registers, between the expression that loads a value and those that use it.

use std::{collections::BTreeMap, fmt::Write};

use super::value::Kind;

/// The content of registers.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) text: String,
    /// Type of the value. A constant has the type of the place where it is used.
    pub(super) kind: Option<Kind>,
    pub(super) constant: Vec<u8>,
    pub(super) length: usize,
    /// Mask, and bits that are inverted after it.
    pub(super) bits: Option<(Vec<u8>, Vec<u8>)>,
    /// Expressions that loaded it, until it is used.
    pub(super) unused: Vec<String>,
}

impl Loaded {
    /// Returns a value that this expression loads.
    pub(super) fn new(raw: &str, length: usize) -> Self {
        Self {
            text: String::new(),
            kind: None,
            constant: Vec::new(),
            length,
            bits: None,
            unused: vec![raw.to_owned()],
        }
    }

    /// Formats the value, with a constant as one of this type.
    pub(super) fn show(&self, kind: Kind) -> String {
        let Some((mask, xor)) = &self.bits else {
            return if self.constant.is_empty() {
                self.text.clone()
            } else {
                kind.show(&self.constant)
            };
        };
        // Bits that are set, whatever they were before, are shown as `|`.
        let set: Vec<u8> = mask.iter().zip(xor).map(|(mask, xor)| xor & !mask).collect();
        let inverted: Vec<u8> = mask.iter().zip(xor).map(|(mask, xor)| xor & mask).collect();
        let kept: Vec<u8> = mask.iter().zip(&set).map(|(mask, set)| mask | set).collect();
        let mut text = self.text.clone();
        for (operator, bits, neutral) in [('&', kept, u8::MAX), ('^', inverted, 0), ('|', set, 0)] {
            if bits.iter().any(|byte| *byte != neutral) {
                let _ = write!(text, " {operator} {}", kind.show(&bits));
            }
        }
        text
    }
}

/// Registers, in words of four bytes.
#[derive(Default)]
pub(super) struct Registers(BTreeMap<usize, Loaded>);

impl Registers {
    /// Writes a value. Returns the expressions whose values were lost without use.
    pub(super) fn write(&mut self, word: usize, loaded: Loaded) -> Vec<String> {
        let unused = self.forget(word, word + loaded.length.div_ceil(4));
        self.0.insert(word, loaded);
        unused
    }

    /// Removes values. Returns the expressions whose values no expression has used.
    pub(super) fn forget(&mut self, from: usize, to: usize) -> Vec<String> {
        let mut unused = Vec::new();
        self.0.retain(|word, loaded| {
            let is_in = *word < to && word + loaded.length.div_ceil(4) > from;
            if is_in {
                unused.append(&mut loaded.unused);
            }
            !is_in
        });
        unused
    }

    /// The value that begins at this word.
    pub(super) fn at(&mut self, word: usize) -> Option<&mut Loaded> {
        self.0.get_mut(&word)
    }

    /// Returns the values from `word` on, which are used now.
    pub(super) fn take(&mut self, mut word: usize, length: usize) -> Option<Vec<Loaded>> {
        let end = word + length.div_ceil(4);
        let mut words = Vec::new();
        while word < end {
            words.push(word);
            word += self.0.get(&word)?.length.div_ceil(4).max(1);
        }
        let loaded = |word| {
            let loaded = self.at(word)?;
            loaded.unused.clear();
            Some(loaded.clone())
        };
        words.into_iter().map(loaded).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
    }
}

/// A concatenation of fields.
pub(super) fn joined(fields: &[Loaded]) -> Option<String> {
    let shown = fields.iter().map(|field| Some(field.show(field.kind?)));
    Some(shown.collect::<Option<Vec<_>>>()?.join(" . "))
}

/// The first word of a register. The registers 1 to 4 have 16 bytes, those from 8 on have 4.
pub(super) fn word(register: u32) -> Option<usize> {
    match register as usize {
        register @ 1..=4 => Some((register - 1) * 4),
        register @ 8.. => Some(register - 8),
        _ => None,
    }
}
