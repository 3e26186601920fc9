//! "STATUS".

use rscni_test::Outcome;

use crate::{
    host::PrivateHost,
    verdict::{CheckResult, error, expect_silence, expect_success},
};

fn status(host: &PrivateHost) -> CheckResult<Outcome> {
    let config = host.config(host.version_since("1.1.0")?, None);
    Ok(host.plugin.status(&config))
}

pub(super) fn ready(host: &PrivateHost, _: &str) -> CheckResult {
    let outcome = status(host)?;
    host.facts()?;
    expect_success(&outcome, "STATUS, as ADD does,")
}

pub(super) fn silent(host: &PrivateHost, _: &str) -> CheckResult {
    let outcome = status(host)?;
    host.facts()?;
    if error(&outcome).is_some() { Ok(()) } else { expect_silence(&outcome) }
}
