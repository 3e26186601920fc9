//! Kinds of links without settings of their own.

use super::NewLink;
use crate::MacAddr;

macro_rules! plain_link {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub struct $name {
            /// Name.
            pub name: String,
            /// MTU.
            pub mtu: Option<u32>,
            /// Hardware address.
            pub mac: Option<MacAddr>,
            /// Alias.
            pub alias: Option<String>,
            /// Whether it is brought up at once.
            pub up: bool,
        }

        impl $name {
            /// Creates a link with this name and default settings.
            pub fn new(name: impl Into<String>) -> Self {
                Self { name: name.into(), ..Self::default() }
            }
        }

        impl From<&$name> for NewLink<'_> {
            fn from(link: &$name) -> Self {
                Self {
                    mtu: link.mtu,
                    mac: link.mac,
                    alias: link.alias.clone(),
                    up: link.up,
                    ..Self::new($kind, &link.name, format!("create {} {}", $kind, link.name))
                }
            }
        }
    };
}

plain_link! {
    /// A dummy link to be created, which drops all packets: `ip link add NAME type dummy`.
    Dummy, "dummy"
}

plain_link! {
    /// An intermediate functional block to be created, which shapes the packets that other links
    /// redirect to it: `ip link add NAME type ifb`.
    Ifb, "ifb"
}
