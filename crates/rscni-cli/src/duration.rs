//! Times on command lines.

use std::time::Duration;

/// A time as Go writes it: numbers, each with its unit, such as `1m30s`. None is nothing.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let wrong = || "must be more than nothing, in numbers with units (ms, s, m or h), such as 1m30s".to_owned();
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        seconds += number.parse::<f64>().map_err(|_| wrong())? * factor;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        let millis = |text| duration(text).map(|time| time.as_millis());
        assert_eq!((millis("10s"), millis("250ms"), millis("2m")), (Ok(10_000), Ok(250), Ok(120_000)));
        assert_eq!((millis("1.5s"), millis("1h0.5m250ms")), (Ok(1500), Ok(3_630_250)));
        for bad in ["", "10", "s", "0s", "-1s", "10 s", "5x", "1.2.3s", "99999999999999999999s", "9999999999999999999h"]
        {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
