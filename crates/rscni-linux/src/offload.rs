//! Checksums of UDP, and which of them hardware computes.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
};

use libc::{SO_NO_CHECK, SOL_SOCKET, SOL_UDP};

use crate::{
    Error, Result,
    kernel_interface::{set_ethtool_value, set_option},
};

const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// Sends a datagram without a checksum, so that hardware has none to compute.
pub fn send_without_checksum(socket: &UdpSocket, payload: &[u8], to: SocketAddr) -> Result<()> {
    let failed = |error| Error::io(format!("send without checksum to {to}"), error);
    omit_checksums(socket, true).map_err(|error| failed(error.into()))?;
    let sent = socket.send_to(payload, to);
    omit_checksums(socket, false).map_err(|error| failed(error.into()))?;
    sent.map(drop).map_err(failed)
}

fn omit_checksums(socket: &UdpSocket, omit: bool) -> rustix::io::Result<()> {
    set_option(socket, SOL_SOCKET, SO_NO_CHECK, omit.into())?;
    set_option(socket, SOL_UDP, UDP_NO_CHECK6_TX, omit.into())
}

/// Lets a socket receive datagrams without a checksum over IPv6 too.
pub fn accept_without_checksum(socket: &UdpSocket) -> Result<()> {
    set_option(socket, SOL_UDP, UDP_NO_CHECK6_RX, 1)
        .map_err(|error| Error::io("receive without checksum", error))
}

/// Turns off the offload of checksums on a link, as `ethtool -K LINK tx off`. The link is in the
/// namespace of `socket`, which can be any socket.
pub fn disable_tx_checksums(socket: impl AsFd, link: &str) -> Result<()> {
    set_ethtool_value(socket, link, ETHTOOL_STXCSUM, 0)
        .map_err(|error| Error::io(format!("turn off checksum offload of {link}"), error))
}
