//! Addresses of a bus, such as `unix:path=/run/dbus/system_bus_socket`, separated by `;`.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStringExt,
            net::{SocketAddr, UnixStream},
        },
    },
};

/// The default address of the system bus.
const DEFAULT: &str = "unix:path=/var/run/dbus/system_bus_socket";

/// Connects to the first reachable address.
pub(super) fn connect(addresses: Option<&str>) -> io::Result<UnixStream> {
    let addresses = addresses.filter(|text| !text.is_empty()).unwrap_or(DEFAULT);
    let mut failed = None;
    for address in addresses.split(';').filter(|address| !address.is_empty()) {
        match parse(address).and_then(|address| UnixStream::connect_addr(&address)) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                failed = Some(io::Error::new(error.kind(), format!("{address}: {error}")));
            }
        }
    }
    Err(failed.unwrap_or_else(|| invalid("DBUS_SYSTEM_BUS_ADDRESS names no address")))
}

pub(super) fn parse(address: &str) -> io::Result<SocketAddr> {
    let keys = address
        .strip_prefix("unix:")
        .ok_or_else(|| invalid("only `unix:` addresses are supported"))?;
    for pair in keys.split(',') {
        match pair.split_once('=') {
            Some(("path", value)) => {
                return SocketAddr::from_pathname(std::ffi::OsString::from_vec(unescaped(value)?));
            }
            Some(("abstract", value)) => return SocketAddr::from_abstract_name(unescaped(value)?),
            _ => {}
        }
    }
    Err(invalid("it has neither `path` nor `abstract`"))
}

/// Decodes escapes such as `%2f`.
fn unescaped(value: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
            let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
            bytes.push(
                byte.ok_or_else(|| invalid("`%` is not followed by two hexadecimal digits"))?,
            );
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Ok(bytes)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_abstract_names_are_parsed() {
        let path = parse("unix:path=/run/a%20b,guid=1234").unwrap();
        assert_eq!(path.as_pathname().unwrap().to_str(), Some("/run/a b"));
        let name = parse("unix:guid=1234,abstract=/tmp/dbus-x").unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"/tmp/dbus-x"[..]));
    }

    #[test]
    fn errors_name_the_unreachable_address() {
        for (address, word) in [
            ("tcp:host=localhost,port=1", "unix:"),
            ("unix:tmpdir=/tmp", "path"),
            ("unix:path=/no%2", "hexadecimal"),
            ("unix:path=/no%zz", "hexadecimal"),
            ("unix:path=/nowhere/at/all;unix:path=/nowhere/else", "/nowhere/else"),
            (";", "names no address"),
        ] {
            let error = connect(Some(address)).unwrap_err().to_string();
            assert!(error.contains(word), "{address}: {error}");
        }
    }
}
