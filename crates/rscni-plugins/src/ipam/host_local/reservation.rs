//! A reservation: the file that it is, and who holds it.

use std::net::IpAddr;

/// A file that reserves an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) address: IpAddr,
    /// The file's name, which may be another spelling of the address.
    pub(super) file: String,
}

/// Who holds a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An interface of a container.
    Attachment { container_id: String, ifname: String },
    /// A container, all of its interfaces: what old releases wrote.
    Container(String),
}

impl Holder {
    /// What stands in the file.
    pub(super) fn content(&self) -> String {
        match self {
            Self::Attachment { container_id, ifname } => format!("{container_id}\r\n{ifname}"),
            Self::Container(id) => id.clone(),
        }
    }

    /// Reads the content of a file; none if it is no more than the remains of one: empty, cut off before the interface's
    /// name, or with bytes that no variable of a call can have had.
    pub(super) fn parse(content: &[u8]) -> Option<Self> {
        let cut_off = content.ends_with(b"\r") || content.ends_with(b"\r\n");
        let text = String::from_utf8_lossy(content);
        let text = text.trim();
        let (id, ifname) =
            text.split_once("\r\n").map_or((text, None), |(id, ifname)| (id, Some(ifname)));
        if id.is_empty() || content.contains(&0) || id.contains(char::REPLACEMENT_CHARACTER) {
            return None;
        }
        match ifname {
            Some(ifname) => {
                Some(Self::Attachment { container_id: id.into(), ifname: ifname.into() })
            }
            None if cut_off => None,
            None => Some(Self::Container(id.into())),
        }
    }
}

/// What an attachment holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// In its own name.
    pub(crate) own: Vec<Reservation>,
    /// In the name of the container, without an interface.
    pub(crate) of_container: Vec<Reservation>,
}

impl Reservation {
    /// The reservation of an address, in the usual spelling.
    pub(super) fn of(address: IpAddr) -> Self {
        Self { address, file: address.to_string() }
    }
}
