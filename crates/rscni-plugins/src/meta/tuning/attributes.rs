//! The interface attributes that tuning changes: those of a link, the requested ones, and those to
//! restore.

use rscni_linux::{Link, LinkChange, MacAddr};

/// Attributes of an interface. `None` means not requested, or not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mac: Option<MacAddr>,
    pub(super) promisc: Option<bool>,
    pub(super) mtu: Option<u32>,
    pub(super) allmulti: Option<bool>,
    pub(super) txqlen: Option<u32>,
}

impl Attributes {
    pub(super) fn of(link: &Link) -> Self {
        Self {
            mac: link.mac,
            promisc: Some(link.promisc),
            mtu: Some(link.mtu),
            allmulti: Some(link.allmulticast),
            txqlen: Some(link.txqlen),
        }
    }

    /// Keeps the attributes that `other` has too.
    pub(super) fn only(self, other: &Self) -> Self {
        Self {
            mac: self.mac.filter(|_| other.mac.is_some()),
            promisc: self.promisc.filter(|_| other.promisc.is_some()),
            mtu: self.mtu.filter(|_| other.mtu.is_some()),
            allmulti: self.allmulti.filter(|_| other.allmulti.is_some()),
            txqlen: self.txqlen.filter(|_| other.txqlen.is_some()),
        }
    }

    /// Adds the attributes of `other` that are missing.
    pub(super) fn or(self, other: &Self) -> Self {
        Self {
            mac: self.mac.or(other.mac),
            promisc: self.promisc.or(other.promisc),
            mtu: self.mtu.or(other.mtu),
            allmulti: self.allmulti.or(other.allmulti),
            txqlen: self.txqlen.or(other.txqlen),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn change(&self) -> LinkChange<'static> {
        LinkChange {
            mac: self.mac,
            promisc: self.promisc,
            mtu: self.mtu,
            allmulticast: self.allmulti,
            txqlen: self.txqlen,
            ..LinkChange::default()
        }
    }

    pub(super) fn changes(&self) -> Vec<LinkChange<'static>> {
        let none = LinkChange::default;
        let changes = [
            self.mtu.map(|mtu| LinkChange { mtu: Some(mtu), ..none() }),
            self.mac.map(|mac| LinkChange { mac: Some(mac), ..none() }),
            self.promisc.map(|promisc| LinkChange { promisc: Some(promisc), ..none() }),
            self.allmulti.map(|on| LinkChange { allmulticast: Some(on), ..none() }),
            self.txqlen.map(|length| LinkChange { txqlen: Some(length), ..none() }),
        ];
        changes.into_iter().flatten().collect()
    }

    /// Describes each by its key and value, for messages.
    pub(super) fn in_words(&self) -> [Option<String>; 5] {
        [
            self.mac.map(|mac| format!("mac {mac}")),
            self.promisc.map(|on| format!("promisc {on}")),
            self.mtu.map(|mtu| format!("mtu {mtu}")),
            self.allmulti.map(|on| format!("allmulti {on}")),
            self.txqlen.map(|length| format!("txQLen {length}")),
        ]
    }
}
