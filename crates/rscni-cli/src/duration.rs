//! Durations on command lines.

use std::time::Duration;

/// Parses a duration in Go's notation: whole numbers, each with its unit, such as `1m30s`.
///
/// # Errors
/// A text that names the format, also if the duration is zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || {
        "must be greater than zero, in whole numbers with units (ms, s, m or h), such as 1m30s"
            .to_owned()
    };
    let mut millis: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) =
            rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?);
        let (unit, after) =
            after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(invalid()),
        };
        let part = number.parse().ok().and_then(|number: u64| number.checked_mul(factor));
        millis = part.and_then(|part| millis.checked_add(part)).ok_or_else(invalid)?;
        rest = after;
    }
    if millis == 0 { Err(invalid()) } else { Ok(Duration::from_millis(millis)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_requires_a_number_and_a_unit() {
        let millis = |text| duration(text).map(|time| time.as_millis());
        assert_eq!(
            (millis("10s"), millis("250ms"), millis("2m")),
            (Ok(10_000), Ok(250), Ok(120_000))
        );
        assert_eq!((millis("1m30s"), millis("1h2m250ms")), (Ok(90_000), Ok(3_720_250)));
        let too_large = ["99999999999999999999s", "9999999999999999999h"];
        for bad in ["", "10", "s", "0s", "-1s", "10 s", "5x", "1.5s"].into_iter().chain(too_large) {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
