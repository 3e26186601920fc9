//! Packets between pods while something else happens, and how many of them arrive.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::io::Errno;

use super::pods::Pod;

/// Pause between two packets of a flow.
const PAUSE: Duration = Duration::from_millis(10);
/// Time for the last packets to arrive on a busy machine.
const LAST: Duration = Duration::from_secs(2);

/// UDP packets from pods to pods.
pub(super) struct Traffic {
    ends: Arc<AtomicBool>,
    flows: Vec<Flow>,
}

struct Flow {
    name: String,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<u64>>,
}

impl Traffic {
    /// Starts a flow for each pair and address family, IPv4 first. The pods must reach each other.
    pub(super) fn start(pairs: &[(&Pod, &Pod)], families: usize) -> Result<Self> {
        Self::with_pause(PAUSE, pairs, families)
    }

    /// Starts flows with another pause between two packets.
    pub(super) fn with_pause(
        pause: Duration,
        pairs: &[(&Pod, &Pod)],
        families: usize,
    ) -> Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let mut flows = Vec::new();
        for (from, to) in pairs {
            for (own, address) in from.addresses.iter().zip(&to.addresses).take(families) {
                let socket = to.network.run(|| bind(*address))?;
                socket.set_read_timeout(Some(LAST))?;
                let target = socket.local_addr()?;
                let source = from.network.run(|| bind(*own))?;
                let ends = Arc::clone(&ends);
                flows.push(Flow {
                    name: format!("{} to {} at {address}", from.name, to.name),
                    receiver: thread::spawn(move || receive(&socket)),
                    sender: thread::spawn(move || send(&source, target, pause, &ends)),
                });
            }
        }
        Ok(Self { ends, flows })
    }

    /// Ends all flows. Fails if a packet is lost.
    pub(super) fn finish(self) -> Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        for Flow { name, sender, receiver } in self.flows {
            let [sent, received] = [sender, receiver].map(|thread| {
                thread.join().map_err(|_| anyhow!("a thread panicked")).and_then(|count| count)
            });
            let (sent, received) = (sent?, received.with_context(|| name.clone())?);
            ensure!(sent > 0 && received == sent, "{name}: {received} of {sent} packets arrived");
        }
        Ok(())
    }
}

fn bind(address: IpAddr) -> std::io::Result<UdpSocket> {
    UdpSocket::bind((address, 0))
}

fn send(socket: &UdpSocket, to: SocketAddr, pause: Duration, ends: &AtomicBool) -> Result<u64> {
    let mut sent: u64 = 0;
    while !ends.load(Ordering::Relaxed) {
        match socket.send_to(&sent.to_be_bytes(), to) {
            Ok(_) => sent += 1,
            // A queue of the machine is full.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {}
            Err(error) => return Err(error).context("send a packet"),
        }
        thread::sleep(pause);
    }
    Ok(sent)
}

/// Counts packets until none comes any more.
fn receive(socket: &UdpSocket) -> Result<u64> {
    let mut received = 0;
    let mut packet = [0; 8];
    while socket.recv(&mut packet).is_ok() {
        ensure!(u64::from_be_bytes(packet) == received, "packet {received} is missing");
        received += 1;
    }
    Ok(received)
}
