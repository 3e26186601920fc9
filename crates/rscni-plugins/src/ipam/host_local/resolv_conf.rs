//! DNS settings from a file in the format of resolv.conf(5).

use std::path::Path;

use rscni::{Dns, Error};

/// Reads the file.
///
/// # Errors
/// [`Error::IOFailure`].
pub(crate) fn read(path: &Path) -> Result<Dns, Error> {
    let bytes = std::fs::read(path)
        .map_err(|e| Error::IOFailure(format!("read ipam.resolvConf {}: {e}", path.display())))?;
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

/// Parses the text. Like the Go plugin, and unlike the resolver, it takes every `search` line.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match (words.next().as_deref(), words.next()) {
            (Some("nameserver"), Some(server)) => dns.nameservers.push(server),
            (Some("domain"), Some(domain)) => dns.domain = Some(domain),
            (Some("search"), Some(first)) => dns.search.extend(std::iter::once(first).chain(words)),
            (Some("options"), Some(first)) => {
                dns.options.extend(std::iter::once(first).chain(words));
            }
            _ => {}
        }
    }
    dns
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let dns = parse(&String::from_utf8_lossy(data));
    let mut text = String::new();
    let lines =
        [("nameserver", &dns.nameservers), ("search", &dns.search), ("options", &dns.options)];
    for (key, words) in lines {
        text.extend(words.iter().map(|word| format!("{key} {word}\n")));
    }
    text.extend(dns.domain.iter().map(|domain| format!("domain {domain}\n")));
    assert_eq!(parse(&text), dns);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_resolv_conf_become_dns_settings() {
        let dns = parse(
            "# comment\n; comment\n\nnameserver 192.0.2.1\n  nameserver fe80::1%eth0 # two\n\
             nameserver\ndomain a.example\ndomain\tb.example\nsearch one two\nsearch three\n\
             options ndots:2 edns0\nsortlist x\n",
        );
        assert_eq!(dns.nameservers, ["192.0.2.1", "fe80::1%eth0"]);
        assert_eq!(dns.domain.as_deref(), Some("b.example"));
        assert_eq!(dns.search, ["one", "two", "three"]);
        assert_eq!(dns.options, ["ndots:2", "edns0"]);
        assert!(parse("").is_empty());
    }
}
