//! Patterns of the allow list: regular expressions as the Go plugin has them (RE2), found anywhere in a key.
//!
//! What RE2 has beyond characters, classes, groups, alternatives, repetitions and anchors is refused: a list that is
//! not understood allows nothing. The cost grows with the product of both lengths, whatever the pattern.

use std::iter::Peekable;
use std::ops::RangeInclusive;
use std::str::Chars;

/// A pattern that can be looked for.
#[derive(Debug)]
pub(super) struct Pattern(Node);

#[derive(Debug)]
enum Node {
    /// `^`
    Start,
    /// `$`
    End,
    /// One character, of these or of all others.
    Class {
        ranges: Vec<RangeInclusive<char>>,
        negated: bool,
    },
    /// One after the other.
    Sequence(Vec<Node>),
    /// One or the other.
    Alternatives(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
}

/// RE2 allows no more.
const MOST_REPETITIONS: u32 = 1000;

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.chars().peekable() };
        let node = parser.alternatives()?;
        match parser.rest.next() {
            None => Ok(Self(node)),
            Some(_) => Err("a ) without its (".into()),
        }
    }

    /// Whether it matches any part of the text.
    pub(super) fn is_found_in(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        self.0.ends(&text, &vec![true; text.len() + 1]).contains(&true)
    }
}

impl Node {
    fn literal(c: char) -> Self {
        Self::Class { ranges: vec![c..=c], negated: false }
    }

    /// From which positions of the text it can lead to which: those that are `true`.
    fn ends(&self, text: &[char], starts: &[bool]) -> Vec<bool> {
        match self {
            Self::Start => only(0, starts),
            Self::End => only(text.len(), starts),
            Self::Class { ranges, negated } => {
                let is_in = |c: &char| ranges.iter().any(|range| range.contains(c)) != *negated;
                std::iter::once(false).chain(text.iter().zip(starts).map(|(c, start)| *start && is_in(c))).collect()
            }
            Self::Sequence(nodes) => nodes.iter().fold(starts.to_vec(), |starts, node| node.ends(text, &starts)),
            Self::Alternatives(nodes) => {
                let mut all = vec![false; starts.len()];
                for node in nodes {
                    add(&mut all, &node.ends(text, starts));
                }
                all
            }
            Self::Repeat { node, min, max } => {
                let mut now = starts.to_vec();
                for _ in 0..*min {
                    now = node.ends(text, &now);
                }
                let mut all = now.clone();
                let mut left = max.map(|max| max - min);
                while left != Some(0) {
                    now = node.ends(text, &now);
                    if !add(&mut all, &now) {
                        break;
                    }
                    left = left.map(|left| left - 1);
                }
                all
            }
        }
    }
}

fn only(position: usize, starts: &[bool]) -> Vec<bool> {
    starts.iter().enumerate().map(|(i, start)| *start && i == position).collect()
}

/// Adds positions, and tells whether there was a new one.
fn add(all: &mut [bool], more: &[bool]) -> bool {
    let mut is_new = false;
    for (is, more) in all.iter_mut().zip(more) {
        is_new |= *more && !*is;
        *is |= more;
    }
    is_new
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn takes(&mut self, c: char) -> bool {
        self.rest.next_if_eq(&c).is_some()
    }

    fn alternatives(&mut self) -> Result<Node, String> {
        let mut all = vec![self.sequence()?];
        while self.takes('|') {
            all.push(self.sequence()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Node::Alternatives(all) })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while let Some(c) = self.rest.next_if(|c| !matches!(c, '|' | ')')) {
            let node = self.single(c)?;
            nodes.push(self.repeated(node)?);
        }
        Ok(Node::Sequence(nodes))
    }

    fn single(&mut self, first: char) -> Result<Node, String> {
        Ok(match first {
            '^' => Node::Start,
            '$' => Node::End,
            '.' => Node::Class { ranges: vec!['\n'..='\n'], negated: true },
            '[' => self.class()?,
            '(' => self.group()?,
            '\\' => match self.rest.next() {
                Some('A') => Node::Start,
                Some('z') => Node::End,
                escaped => self::escaped(escaped)?,
            },
            '*' | '+' | '?' => return Err(format!("{first} has nothing to repeat")),
            literal => Node::literal(literal),
        })
    }

    fn group(&mut self) -> Result<Node, String> {
        if self.takes('?') && !self.takes(':') {
            return Err("a group may begin with (?: but with nothing else after (?".into());
        }
        let node = self.alternatives()?;
        if self.takes(')') { Ok(node) } else { Err("a ( without its )".into()) }
    }

    fn repeated(&mut self, node: Node) -> Result<Node, String> {
        let Some((min, max)) = self.repetition()? else { return Ok(node) };
        // Whether as much or as little as possible is taken does not matter here.
        self.takes('?');
        if self.repetition()?.is_some() {
            return Err("a repetition of a repetition".into());
        }
        Ok(Node::Repeat { node: Box::new(node), min, max })
    }

    fn repetition(&mut self) -> Result<Option<(u32, Option<u32>)>, String> {
        let range = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counted(),
            _ => return Ok(None),
        };
        self.rest.next();
        Ok(Some(range))
    }

    /// `{2}`, `{2,}` or `{2,5}`. Anything else after `{` makes it a character like others.
    fn counted(&mut self) -> Result<Option<(u32, Option<u32>)>, String> {
        let mut ahead = self.rest.clone();
        ahead.next();
        let inside: String = ahead.by_ref().take_while(|c| *c != '}').collect();
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
        let (min, max) = inside.split_once(',').unwrap_or((&inside, &inside));
        let (Some(min), max) = (number(min), (!max.is_empty()).then(|| number(max))) else { return Ok(None) };
        let max = match max {
            Some(None) => return Ok(None),
            Some(max) => max,
            None => None,
        };
        if !self.rest.clone().any(|c| c == '}') {
            return Ok(None);
        }
        if min > MOST_REPETITIONS || max.is_some_and(|max| max < min || max > MOST_REPETITIONS) {
            return Err(format!("{{{inside}}} is no number of repetitions"));
        }
        self.rest = ahead;
        Ok(Some((min, max)))
    }

    /// What follows `[`.
    fn class(&mut self) -> Result<Node, String> {
        let negated = self.takes('^');
        let mut ranges = Vec::new();
        let mut is_first = true;
        loop {
            let first = self.rest.next().ok_or("a [ without its ]")?;
            if first == ']' && !is_first {
                return Ok(Node::Class { ranges, negated });
            }
            is_first = false;
            if first == '[' && self.rest.peek() == Some(&':') {
                return Err("named classes such as [:alpha:] are not supported".into());
            }
            let mut part = self.in_class(first)?;
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.peek().is_some_and(|c| *c != ']') {
                self.rest = ahead;
                let last = self.rest.next().unwrap_or_default();
                part = match (character(&part), character(&self.in_class(last)?)) {
                    (Some(from), Some(to)) if from <= to => vec![from..=to],
                    _ => return Err(format!("{first}-{last} is no range")),
                };
            }
            ranges.extend(part);
        }
    }

    /// What a character stands for in a class; after `\\` that is what follows.
    fn in_class(&mut self, c: char) -> Result<Vec<RangeInclusive<char>>, String> {
        let node = if c == '\\' { escaped(self.rest.next())? } else { Node::literal(c) };
        match node {
            Node::Class { ranges, negated: false } => Ok(ranges),
            _ => Err("\\D, \\S and \\W are not supported within [ ]".into()),
        }
    }
}

/// The one character of a class that has only one.
fn character(ranges: &[RangeInclusive<char>]) -> Option<char> {
    match ranges {
        [range] if range.start() == range.end() => Some(*range.start()),
        _ => None,
    }
}

/// What a character after `\` stands for.
fn escaped(c: Option<char>) -> Result<Node, String> {
    let class = |ranges: &[(char, char)], negated| {
        Ok(Node::Class { ranges: ranges.iter().map(|(from, to)| *from..=*to).collect(), negated })
    };
    match c {
        Some(c @ ('d' | 'D')) => class(&[('0', '9')], c == 'D'),
        Some(c @ ('w' | 'W')) => class(&[('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')], c == 'W'),
        Some(c @ ('s' | 'S')) => class(&[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')], c == 'S'),
        Some(c) if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(Node::literal(c)),
        Some(c) => Err(format!("\\{c} is not supported")),
        None => Err("it ends with \\".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("^net.ipv4.conf.IFNAME.[a-z_]*$", &["net.ipv4.conf.IFNAME.arp_filter"], &["net.ipv4.conf.IFNAME.x9"])]
    #[case("net.core", &["net.core.somaxconn", "xnet/core"], &["net.cor"])]
    #[case("^net\\.core\\.", &["net.core.x"], &["net/core/x", "net.coreXx"])]
    #[case("^(net.a|net.b)$", &["net.a", "net.b"], &["net.c", "net.ab"])]
    #[case("a|b|", &["c", ""], &[])]
    #[case("^a{2,3}$", &["aa", "aaa"], &["a", "aaaa"])]
    #[case("^a{2}b{2,}$", &["aabb", "aabbbbb"], &["aab", "abb"])]
    #[case("^a{,2}$", &["a{,2}"], &["a", "aa"])]
    #[case("^a{b$", &["a{b"], &["ab"])]
    #[case("^(?:ab)+c?$", &["ab", "ababc"], &["aba", "c"])]
    #[case("^a+?b*?$", &["ab", "aabb", "a"], &["b"])]
    #[case("^[^.]+\\.x$", &["ab.x"], &["a.b.x"])]
    #[case("^[]a-c-]+$", &["]", "a-b]"], &["d"])]
    #[case("^[\\w.]+$", &["net.ipv4.x_y"], &["a/b", ""])]
    #[case("^\\d\\D\\s\\S\\W$", &["1a b/"], &["aa b/"])]
    #[case("\\Anet\\z", &["net"], &["net.", "inet"])]
    #[case("^(a*)*$", &["", "aaa"], &["b"])]
    #[case("^(^a|b$)*$", &["ab"], &["ba"])]
    #[case("^.$", &["é"], &["\n", "ab"])]
    #[case("", &["", "anything"], &[])]
    fn what_matches_and_what_does_not(#[case] pattern: &str, #[case] yes: &[&str], #[case] no: &[&str]) {
        let parsed = Pattern::parse(pattern).unwrap();
        for text in yes {
            assert!(parsed.is_found_in(text), "{pattern} in {text:?}");
        }
        for text in no {
            assert!(!parsed.is_found_in(text), "{pattern} not in {text:?}");
        }
    }

    #[rstest]
    fn what_is_no_pattern_or_not_understood_is_refused(
        #[values(
            "*",
            "a|*",
            "(a",
            "a)",
            "[a",
            "[",
            "[]",
            "[^]",
            "a**",
            "a+*",
            "a{2}{3}",
            "a{3,2}",
            "a{1001}",
            "[b-a]",
            "[a-\\d]",
            "\\",
            "\\b",
            "\\pL",
            "\\Q",
            "(?i)a",
            "(?P<x>a)",
            "(?=a)",
            "[[:alpha:]]",
            "[\\D]",
            "\\x41"
        )]
        pattern: &str,
    ) {
        assert!(Pattern::parse(pattern).is_err());
    }

    #[test]
    fn no_pattern_takes_forever() {
        let parsed = Pattern::parse("^(((a*)*)*)*(a|a)*(a?){1000}$").unwrap();
        assert!(!parsed.is_found_in(&format!("{}b", "a".repeat(200))));
    }
}
