//! The result of a check, and functions that judge the calls of a plugin.

use std::fmt::Write;

use rscni_test::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The result of a check.
pub(crate) type CheckResult<T = ()> = Result<T, NotPassed>;

/// The reason why a check has not passed.
#[derive(Debug)]
pub(crate) enum NotPassed {
    /// The requirement does not apply to this plugin, for this reason.
    NotApplicable(String),
    /// The requirement is not met.
    Failed(Box<Failure>),
}

/// A requirement that is not met.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The expected behaviour.
    pub expected: String,
    /// The actual behaviour.
    pub found: String,
    /// The call that shows it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<CallRecord>,
}

/// A call of the plugin, to be repeated by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallRecord {
    /// The shell command of the call.
    pub command: String,
    /// How it ended.
    pub end: String,
    /// The plugin's stdout.
    pub stdout: String,
    /// The plugin's stderr.
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

/// Quotes a word for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The requirement does not apply.
pub(crate) fn not_applicable<T>(reason: impl Into<String>) -> CheckResult<T> {
    Err(NotPassed::NotApplicable(reason.into()))
}

/// The requirement is not met; no single call shows it.
pub(crate) fn fail<T>(expected: impl Into<String>, found: impl Into<String>) -> CheckResult<T> {
    let failure = Failure { expected: expected.into(), found: found.into(), call: None };
    Err(NotPassed::Failed(Box::new(failure)))
}

/// The requirement is not met, as this call shows.
pub(crate) fn fail_with_call<T>(
    outcome: &Outcome,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> CheckResult<T> {
    let call = Some(CallRecord::of(outcome));
    let failure = Failure { expected: expected.into(), found: found.into(), call };
    Err(NotPassed::Failed(Box::new(failure)))
}

/// Limit of a plugin's output in a report, in bytes.
const MAX_OUTPUT: usize = 4096;

/// Shortens a plugin's output for a report.
fn shortened(text: String) -> String {
    if text.len() <= MAX_OUTPUT {
        return text;
    }
    let end = (0..=MAX_OUTPUT).rfind(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}… and {} bytes more", &text[..end], text.len() - end)
}

/// Returns the JSON object on stdout, even if there is other output too: that is another
/// requirement.
pub(crate) fn json(outcome: &Outcome) -> Option<Value> {
    let stdout = outcome.stdout();
    let object = |text: &str| {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        values.next()?.ok().filter(Value::is_object)
    };
    stdout.match_indices('{').find_map(|(at, _)| object(&stdout[at..]))
}

/// Whether stdout is exactly one JSON object.
pub(crate) fn is_one_object(outcome: &Outcome) -> bool {
    serde_json::from_str::<Value>(&outcome.stdout()).is_ok_and(|value| value.is_object())
}

/// Returns the error of a call: an error reply, or null for an exit status other than 0. That both
/// occur together is another requirement.
pub(crate) fn error(outcome: &Outcome) -> Option<Value> {
    let reply = json(outcome).filter(|reply| reply["code"].as_u64().is_some_and(|code| code != 0));
    reply.or_else(|| (outcome.exit_code() != Some(0)).then_some(Value::Null))
}

/// Fails unless the call succeeded.
pub(crate) fn expect_success(outcome: &Outcome, what: &str) -> CheckResult {
    match error(outcome) {
        None => Ok(()),
        Some(reply) => {
            fail_with_call(outcome, format!("{what} succeeds"), describe_error(outcome, &reply))
        }
    }
}

/// Fails unless the call returned an error.
pub(crate) fn expect_error(outcome: &Outcome, what: &str) -> CheckResult {
    match error(outcome) {
        Some(_) => Ok(()),
        None => fail_with_call(outcome, format!("{what} is an error"), "it succeeded"),
    }
}

/// Fails unless the call returned one of these codes, with a text that contains `name`.
pub(crate) fn expect_error_code(
    outcome: &Outcome,
    what: &str,
    codes: &[u64],
    name: &str,
) -> CheckResult {
    let list = codes.iter().map(u64::to_string).collect::<Vec<_>>().join(" or ");
    let mut expected = format!("{what} is error {list}");
    if !name.is_empty() {
        let _ = write!(expected, ", which names {name}");
    }
    let Some(reply) = error(outcome) else {
        return fail_with_call(outcome, expected, "it succeeded");
    };
    if reply["code"].as_u64().is_some_and(|code| codes.contains(&code))
        && (name.is_empty() || error_texts(&reply).any(|text| text.contains(name)))
    {
        return Ok(());
    }
    fail_with_call(outcome, expected, describe_error(outcome, &reply))
}

/// Fails if the call wrote to stdout.
pub(crate) fn expect_silence(outcome: &Outcome) -> CheckResult {
    if outcome.stdout().is_empty() {
        return Ok(());
    }
    fail_with_call(outcome, "nothing on stdout", outcome.stdout())
}

/// Describes an error in one line.
pub(crate) fn describe_error(outcome: &Outcome, reply: &Value) -> String {
    let texts = error_texts(reply).filter(|text| !text.is_empty());
    match reply["code"].as_u64() {
        Some(code) => format!("error {code}: {}", texts.collect::<Vec<_>>().join("; ")),
        None => format!("it ended with {} and no error reply", outcome.end()),
    }
}

fn error_texts(reply: &Value) -> impl Iterator<Item = &str> {
    ["msg", "details"].into_iter().filter_map(|key| reply[key].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_contains_the_beginning_of_a_long_output() {
        assert_eq!(shortened("x".repeat(MAX_OUTPUT)), "x".repeat(MAX_OUTPUT));
        let short = shortened(format!("x{}", "ä".repeat(MAX_OUTPUT)));
        assert!(short.ends_with("ä… and 4098 bytes more"), "{}", &short[MAX_OUTPUT - 8..]);
    }

    #[test]
    fn words_of_a_shell_are_quoted_if_necessary() {
        assert_eq!(quoted("/opt/cni/bin"), "/opt/cni/bin");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's {}"), r"'it'\''s {}'");
    }
}
