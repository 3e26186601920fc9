//! Addresses and prefixes as text.
//!
//! Leading zeros are rejected, as in Go: `10.010.0.0` is 10.8.0.0 for programs that read octal
//! numbers and 10.10.0.0 for others.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

/// The error of text that is not an address or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressError {
    expected: &'static str,
    leading_zero: bool,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is not {}", self.expectation())
    }
}

impl AddressError {
    /// Returns the expected form as a noun phrase.
    pub(crate) fn expectation(self) -> String {
        let hint = if self.leading_zero { ": remove the leading zeros" } else { "" };
        format!("{}{hint}", self.expected)
    }
}

impl std::error::Error for AddressError {}

/// Parses an address such as `10.1.0.5` or `fd00::5`.
///
/// ```
/// use rscni::address::parse_address;
///
/// assert!(parse_address("10.1.0.5").is_ok());
/// assert!(parse_address("10.01.0.5").is_err());
/// ```
///
/// # Errors
/// [`AddressError`] if the text is not an address, or has leading zeros.
pub fn parse_address(text: &str) -> Result<IpAddr, AddressError> {
    // The standard library rejects leading zeros.
    text.parse().map_err(|_| AddressError {
        expected: "an IP address",
        leading_zero: has_leading_zero(text),
    })
}

/// Parses an address with a prefix length, such as `10.1.0.5/16` or `fd00::/64`.
///
/// ```
/// use rscni::address::parse_net;
///
/// assert_eq!(parse_net("10.1.0.0/16")?.prefix_len(), 16);
/// assert!(parse_net("10.010.0.0/16").is_err());
/// # Ok::<(), rscni::address::AddressError>(())
/// ```
///
/// # Errors
/// [`AddressError`] if the text has another form, the prefix is too long, or there are leading
/// zeros.
pub fn parse_net(text: &str) -> Result<IpNet, AddressError> {
    let read = || {
        let (address, length) = text.split_once('/')?;
        let is_plain = length.bytes().all(|byte| byte.is_ascii_digit())
            && (length == "0" || !length.starts_with('0'));
        IpNet::new(address.parse().ok()?, length.parse().ok().filter(|_| is_plain)?).ok()
    };
    read().ok_or_else(|| AddressError {
        expected: "a CIDR such as 10.1.0.0/16 or fd00::/64",
        leading_zero: has_leading_zero(text),
    })
}

/// Whether text is an address or a prefix with leading zeros in an IPv4 number or in the prefix
/// length. IPv6 groups may have them.
pub fn has_leading_zero(text: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_zero = |number: &str| number.len() > 1 && number.starts_with('0') && is_number(number);
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let v4 = address.rsplit(':').next().unwrap_or_default();
    let is_v4 = v4.split('.').count() == 4 && v4.split('.').all(is_number);
    is_v4 && v4.split('.').any(is_zero)
        || is_zero(length) && (is_v4 || address.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_rejected_with_a_hint() {
        for text in ["010.0.0.1/24", "10.010.0.0/24", "10.0.0.00/24", "::ffff:010.0.0.1/120"] {
            let error = parse_net(text).unwrap_err();
            assert!(error.to_string().contains("leading zeros"), "{text}: {error}");
            let error = parse_address(text.split('/').next().unwrap()).unwrap_err();
            assert!(error.to_string().contains("leading zeros"), "{text}: {error}");
        }
        for text in ["10.0.0.0/08", "fd00::/064", "10.0.0.0/00"] {
            let error = parse_net(text).unwrap_err();
            assert!(error.to_string().contains("leading zeros"), "{text}: {error}");
        }
    }

    #[test]
    fn other_forms_are_parsed_as_by_the_standard_library() {
        for text in ["10.0.0.0/24", "0.0.0.0/0", "fd00::1/64", "fd00:0db8::0001/128", "::/0"] {
            assert_eq!(parse_net(text).ok(), text.parse().ok(), "{text}");
            assert!(parse_net(text).is_ok(), "{text}");
        }
        assert!(!has_leading_zero("01") && !has_leading_zero("1.05") && !has_leading_zero("a/01"));
        for text in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "/8", "x/8"] {
            let error = parse_net(text).unwrap_err();
            assert!(!error.to_string().contains("leading"), "{text}: {error}");
        }
    }
}
