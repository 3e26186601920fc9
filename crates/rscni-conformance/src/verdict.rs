//! What a check finds, and what calls of the plugin say about it.

use std::fmt::Write;

use rscni_test::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a check comes to: nothing to complain of, or why not.
pub(crate) type Checked<T = ()> = Result<T, Not>;

/// Why a requirement is not met, or cannot be asked for.
#[derive(Debug)]
pub(crate) enum Not {
    /// It does not concern this plugin, for this reason.
    Applicable(String),
    /// It is not met.
    Met(Box<Failure>),
}

/// A requirement that is not met.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What should have been.
    pub expected: String,
    /// What was.
    pub found: String,
    /// The call that shows it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<CallRecord>,
}

/// A call of the plugin, to be made again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallRecord {
    /// The line of a shell that makes the call.
    pub command: String,
    /// How it ended.
    pub end: String,
    /// What the plugin wrote to stdout.
    pub stdout: String,
    /// What the plugin wrote to stderr.
    pub stderr: String,
}

impl CallRecord {
    fn of(outcome: &Outcome) -> Self {
        let mut command = format!("printf %s {} | env", quoted(&outcome.stdin()));
        for (name, value) in outcome.variables() {
            let _ = write!(command, " {name}={}", quoted(&value.to_string_lossy()));
        }
        let _ = write!(command, " {}", quoted(&outcome.program().to_string_lossy()));
        let (stdout, stderr) = (shortened(outcome.stdout()), shortened(outcome.stderr()));
        Self { command, end: outcome.end(), stdout, stderr }
    }
}

/// A word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// It does not apply, because of `reason`.
pub(crate) fn not_applicable<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Not::Applicable(reason.into()))
}

/// It is not met, which no single call shows.
pub(crate) fn not_met<T>(expected: impl Into<String>, found: impl Into<String>) -> Checked<T> {
    Err(Not::Met(Box::new(Failure { expected: expected.into(), found: found.into(), call: None })))
}

/// It is not met, as this call shows.
pub(crate) fn shown<T>(
    outcome: &Outcome,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Checked<T> {
    let call = Some(CallRecord::of(outcome));
    Err(Not::Met(Box::new(Failure { expected: expected.into(), found: found.into(), call })))
}

/// How much of what a plugin wrote a report has.
const SHOWN: usize = 4096;

/// What a plugin wrote, without what is too much for a report.
fn shortened(text: String) -> String {
    if text.len() <= SHOWN {
        return text;
    }
    let end = (0..=SHOWN).rfind(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}… and {} bytes more", &text[..end], text.len() - end)
}

/// The JSON object on stdout, also where something else is there too: that is a requirement of its own.
pub(crate) fn json(outcome: &Outcome) -> Option<Value> {
    let stdout = outcome.stdout();
    let object = |text: &str| {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        values.next()?.ok().filter(Value::is_object)
    };
    stdout.match_indices('{').find_map(|(at, _)| object(&stdout[at..]))
}

/// Whether there is exactly one JSON object on stdout.
pub(crate) fn is_one_object(outcome: &Outcome) -> bool {
    serde_json::from_str::<Value>(&outcome.stdout()).is_ok_and(|value| value.is_object())
}

/// The error that the plugin tells. An exit status or an error reply is enough: that both belong together is a
/// requirement of its own.
pub(crate) fn error(outcome: &Outcome) -> Option<Value> {
    let reply = json(outcome).filter(|reply| reply["code"].as_u64().is_some_and(|code| code != 0));
    reply.or_else(|| (outcome.exit_code() != Some(0)).then_some(Value::Null))
}

/// The call succeeded.
pub(crate) fn succeeded(outcome: &Outcome, what: &str) -> Checked {
    match error(outcome) {
        None => Ok(()),
        Some(reply) => shown(outcome, format!("{what} succeeds"), told(outcome, &reply)),
    }
}

/// The call was refused, with any error.
pub(crate) fn refused(outcome: &Outcome, what: &str) -> Checked {
    match error(outcome) {
        Some(_) => Ok(()),
        None => shown(outcome, format!("{what} is an error"), "it succeeded"),
    }
}

/// The call was refused with one of these codes, and the error mentions `name`.
pub(crate) fn refused_with(outcome: &Outcome, what: &str, codes: &[u64], name: &str) -> Checked {
    let mut expected = format!("{what} is error {}", listed(codes));
    if !name.is_empty() {
        let _ = write!(expected, ", which names {name}");
    }
    let Some(reply) = error(outcome) else {
        return shown(outcome, expected, "it succeeded");
    };
    let names_it = ["msg", "details"]
        .iter()
        .any(|key| reply[key].as_str().is_some_and(|text| text.contains(name)));
    if reply["code"].as_u64().is_some_and(|code| codes.contains(&code))
        && (name.is_empty() || names_it)
    {
        return Ok(());
    }
    shown(outcome, expected, told(outcome, &reply))
}

/// What an error says, in a line.
pub(crate) fn told(outcome: &Outcome, reply: &Value) -> String {
    let code = reply["code"].as_u64();
    code.map_or_else(
        || format!("it ended with {}, and told no error", outcome.end()),
        |code| format!("error {code}: {}", text(reply)),
    )
}

fn text(reply: &Value) -> String {
    let texts = ["msg", "details"]
        .iter()
        .filter_map(|key| reply[key].as_str())
        .filter(|text| !text.is_empty());
    texts.collect::<Vec<_>>().join("; ")
}

fn listed(codes: &[u64]) -> String {
    codes.iter().map(u64::to_string).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_beginning_of_what_is_long() {
        assert_eq!(shortened("x".repeat(SHOWN)), "x".repeat(SHOWN));
        let short = shortened(format!("x{}", "ä".repeat(SHOWN)));
        assert!(short.ends_with("ä… and 4098 bytes more"), "{}", &short[SHOWN - 8..]);
    }

    #[test]
    fn words_of_a_shell_are_quoted_where_they_must_be() {
        assert_eq!(quoted("/opt/cni/bin"), "/opt/cni/bin");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's {}"), r"'it'\''s {}'");
    }
}
