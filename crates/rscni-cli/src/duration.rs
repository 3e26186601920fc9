//! Times on command lines.

use std::time::Duration;

/// A time as Go writes it: whole numbers, each with its unit, such as `1m30s`. None is nothing.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        "must be more than nothing, in whole numbers with units (ms, s, m or h), such as 1m30s"
            .to_owned()
    };
    let mut millis: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) =
            rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
        let (unit, after) =
            after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let part = number.parse().ok().and_then(|number: u64| number.checked_mul(factor));
        millis = part.and_then(|part| millis.checked_add(part)).ok_or_else(wrong)?;
        rest = after;
    }
    if millis == 0 { Err(wrong()) } else { Ok(Duration::from_millis(millis)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        let millis = |text| duration(text).map(|time| time.as_millis());
        assert_eq!(
            (millis("10s"), millis("250ms"), millis("2m")),
            (Ok(10_000), Ok(250), Ok(120_000))
        );
        assert_eq!((millis("1m30s"), millis("1h2m250ms")), (Ok(90_000), Ok(3_720_250)));
        for bad in [
            "",
            "10",
            "s",
            "0s",
            "-1s",
            "10 s",
            "5x",
            "1.5s",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
