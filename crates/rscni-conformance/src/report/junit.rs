//! The report as `JUnit` XML for CI systems.

use std::fmt::Write;

use super::{Level, Report, Result, text::parts};

impl Report {
    /// Returns the report as a test suite with a test case per requirement. A SHOULD that is not
    /// met is a failure if `strict`, otherwise a skipped case.
    pub fn junit(&self, strict: bool) -> String {
        let counts = self.counts();
        let soft = if strict { 0 } else { counts.failed_should };
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        // Writing to a string cannot fail.
        let _ = writeln!(
            xml,
            "<testsuites>\n<testsuite name=\"CNI conformance of {}\" tests=\"{}\" \
             failures=\"{}\" errors=\"0\" skipped=\"{}\">",
            escaped(&self.plugin),
            self.entries.len(),
            counts.failed_must + counts.failed_should - soft,
            counts.not_applicable + soft
        );
        for entry in &self.entries {
            let (class, name) =
                (escaped(&entry.section), escaped(&format!("{}: {}", entry.id, entry.requirement)));
            let _ = write!(xml, "<testcase classname=\"{class}\" name=\"{name}\"");
            let _ = match &entry.result {
                Result::Pass => writeln!(xml, "/>"),
                Result::NotApplicable { reason } => {
                    writeln!(xml, "><skipped message=\"{}\"/></testcase>", escaped(reason))
                }
                Result::Fail(failure) => {
                    let tag =
                        if strict || entry.level == Level::Must { "failure" } else { "skipped" };
                    let message = escaped(&format!("{}: {}", entry.level.as_str(), failure.found));
                    let mut content =
                        format!("expected: {}\nfound: {}\n", failure.expected, failure.found);
                    for (name, part) in failure.call.iter().flat_map(parts) {
                        let _ = writeln!(content, "{name}: {part}");
                    }
                    writeln!(
                        xml,
                        "><{tag} message=\"{message}\">{}</{tag}></testcase>",
                        escaped(&content)
                    )
                }
            };
        }
        xml.push_str("</testsuite>\n</testsuites>\n");
        xml
    }
}

/// Escapes text for an attribute or an element; characters that XML does not allow become `?`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_and_invalid_characters_are_escaped() {
        assert_eq!(escaped("a<b>&\"c\"\u{1b}\n\u{ffff}é"), "a&lt;b&gt;&amp;&quot;c&quot;?&#10;?é");
    }
}
