//! Probes on the wire: datagrams to the address of a peer's VXLAN device, where its daemon answers
//! them. flanneld does not.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rscni_linux::offload;
use rustix::net::{self, AddressFamily, SocketType, sockopt::set_ipv6_v6only};
use tracing::{debug, warn};

use super::{
    Change, Core, Key, Reason,
    kernel::DEVICES,
    probe::{Action, Probes, Target},
};

/// UDP port of the daemons for probes.
pub(super) const PORT: u16 = 9472;
/// The last byte tells whether the packet should have a checksum.
const PROBE: [u8; 8] = *b"rscnid?\0";
const ANSWER: [u8; 8] = *b"rscnid!\0";

/// The socket and the peers.
#[derive(Debug)]
pub(super) struct Prober {
    socket: Option<UdpSocket>,
    probes: Probes,
}

impl Prober {
    /// Opens the socket. If that fails, nothing is probed.
    pub(super) fn open() -> Self {
        let socket = open().inspect_err(|error| {
            warn!("listen on UDP port {PORT}: {error}; tunnels are not probed");
        });
        Self { socket: socket.ok(), probes: Probes::default() }
    }

    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Takes the tunnels of Nodes with changed objects, and of others that may have changed.
    pub(super) fn follow<'a>(
        &mut self,
        core: &'a Core,
        changes: &[Change],
        others: impl IntoIterator<Item = &'a str>,
    ) {
        if self.socket.is_none() {
            return;
        }
        for change in changes {
            if let Change::Remove(Key::Neighbour(gateway), _) = change {
                self.probes.set(*gateway, None);
            }
        }
        let owners = changes.iter().filter_map(|change| core.owner(&change.key()));
        let names: BTreeSet<&str> = owners.chain(others).collect();
        for name in names {
            for (gateway, tunnel) in core.tunnels(name) {
                let target = tunnel.map(|tunnel| Target { name: name.to_owned(), tunnel });
                self.probes.set(gateway, target);
            }
        }
    }

    pub(super) fn wait(&mut self, now: Duration) -> Option<Duration> {
        self.probes.wait(now)
    }

    /// Does what is due.
    pub(super) fn send(&mut self, now: Duration) {
        let Some(socket) = &self.socket else { return };
        for action in self.probes.actions(now) {
            let outcome = match action {
                Action::Send { to, checked } => send(socket, PROBE, to, checked),
                Action::ComputeChecksums(family) => {
                    let device = DEVICES.of(family);
                    warn!("packets have wrong checksums; turning off checksum offload of {device}");
                    offload::disable_tx_checksums(socket, device).map_err(io::Error::other)
                }
            };
            if let Err(error) = outcome {
                debug!("{action:?}: {error}");
            }
        }
    }

    /// Reads what has arrived, and answers probes of peers.
    pub(super) fn receive(&mut self, now: Duration) {
        let Some(socket) = &self.socket else { return };
        let mut message = PROBE;
        loop {
            let (length, from) = match socket.recv_from(&mut message) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error, for example.
                Err(error) => {
                    debug!("receive a probe: {error}");
                    continue;
                }
            };
            let gateway = from.ip().to_canonical();
            let [kind @ .., unchecked] = message;
            let is_known = length == message.len() && self.probes.knows(gateway);
            if !is_known || from.port() != PORT {
                continue;
            }
            if kind == PROBE[..7] {
                if let Err(error) = send(socket, ANSWER, gateway, unchecked == 0) {
                    debug!("answer {gateway}: {error}");
                }
            } else if kind == ANSWER[..7] {
                self.probes.answer(gateway, unchecked == 0, now);
            }
        }
    }

    pub(super) fn problem(&self, gateway: IpAddr) -> Option<&Reason> {
        self.probes.problem(gateway)
    }

    pub(super) fn unreachable(&self) -> usize {
        self.probes.unreachable()
    }

    pub(super) fn take_changed(&mut self) -> BTreeSet<String> {
        self.probes.take_changed()
    }
}

/// Listens on all addresses: those of the VXLAN devices do not exist yet.
fn open() -> io::Result<UdpSocket> {
    let socket = open_dual_stack().or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))?;
    socket.set_nonblocking(true)?;
    offload::accept_without_checksum(&socket).map_err(io::Error::other)?;
    Ok(socket)
}

/// The kernel may have no IPv6.
fn open_dual_stack() -> io::Result<UdpSocket> {
    let socket = net::socket(AddressFamily::INET6, SocketType::DGRAM, None)?;
    // The sysctl bindv6only changes the default.
    set_ipv6_v6only(&socket, false)?;
    net::bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0))?;
    Ok(socket.into())
}

fn send(socket: &UdpSocket, mut message: [u8; 8], to: IpAddr, checked: bool) -> io::Result<()> {
    let is_v6 = socket.local_addr()?.is_ipv6();
    let to = match to {
        IpAddr::V4(to) if is_v6 => to.to_ipv6_mapped().into(),
        to => to,
    };
    message[7] = u8::from(!checked);
    let to = SocketAddr::new(to, PORT);
    if checked {
        socket.send_to(&message, to)?;
    } else {
        offload::send_without_checksum(socket, &message, to).map_err(io::Error::other)?;
    }
    Ok(())
}
