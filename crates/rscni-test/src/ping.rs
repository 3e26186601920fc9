//! ICMP echo over a raw socket, which needs no sysctl and also receives ICMP errors.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

/// Interval between requests.
const INTERVAL: Duration = Duration::from_millis(200);
const PAYLOAD: &[u8] = b"rscni-test echo request";

/// Sends requests from the calling thread's namespace until one is answered. The error is the
/// reason.
pub(crate) fn ping(to: IpAddr, timeout: Duration) -> Result<(), String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let socket = open(to).map_err(|error| format!("open a raw socket: {error}"))?;
    // Several pings may run in one namespace, and each receives all answers.
    let process = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
    let id = process.rotate_left(8) ^ NEXT.fetch_add(1, Ordering::Relaxed);
    let deadline = Instant::now() + timeout;
    let mut why = format!("no answer within {timeout:?}");
    for sequence in 1_u16.. {
        let now = Instant::now();
        if now >= deadline {
            break;
        }
        let listen_until = deadline.min(now + INTERVAL);
        match socket.send_to(&request(to, id, sequence), SocketAddr::new(to, 0)) {
            Ok(_) => match listen(&socket, to, id, listen_until) {
                Ok(Heard::Answer) => return Ok(()),
                Ok(Heard::Refusal(reason)) => why = reason,
                Ok(Heard::Nothing) => {}
                Err(error) => why = format!("receive: {error}"),
            },
            Err(error) => {
                why = format!("send: {error}");
                std::thread::sleep(listen_until.saturating_duration_since(Instant::now()));
            }
        }
    }
    Err(why)
}

/// `UdpSocket` works for any datagram socket and has the address types of the standard library.
fn open(to: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    Ok(socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?.into())
}

fn request(to: IpAddr, id: u16, sequence: u16) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(PAYLOAD);
    // The kernel does this for IPv6.
    if to.is_ipv4() {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(packet: &[u8]) -> u16 {
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or_default()
}

enum Heard {
    Answer,
    Refusal(String),
    Nothing,
}

fn listen(socket: &UdpSocket, to: IpAddr, id: u16, until: Instant) -> io::Result<Heard> {
    let mut heard = Heard::Nothing;
    let mut buffer = [0; 2048];
    loop {
        // Reads what has arrived even after the deadline, because this process may have been
        // delayed.
        let left = until.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && left.is_zero() => {
                return Ok(heard);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        match read(&buffer[..length], from.ip(), to, id) {
            Heard::Answer => return Ok(Heard::Answer),
            Heard::Nothing => {}
            refusal @ Heard::Refusal(_) => heard = refusal,
        }
    }
}

/// Reads an ICMP packet: our answer, an error about our request, or another packet.
fn read(packet: &[u8], from: IpAddr, to: IpAddr, id: u16) -> Heard {
    let understood = match to {
        // A raw IPv4 socket gives the IP header too.
        IpAddr::V4(_) => after_header(packet).and_then(|icmp| read_v4(icmp, from, to, id)),
        IpAddr::V6(_) => read_v6(packet, from, to, id),
    };
    understood.unwrap_or(Heard::Nothing)
}

fn after_header(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 0xf) * 4..)
}

fn read_v4(icmp: &[u8], from: IpAddr, to: IpAddr, id: u16) -> Option<Heard> {
    match icmp.first()? {
        0 if from == to && is_ours(icmp, id)? => Some(Heard::Answer),
        3 => {
            let original = icmp.get(8..)?;
            let destination: [u8; 4] = original.get(16..20)?.try_into().ok()?;
            let ours = Ipv4Addr::from(destination) == to && is_ours(after_header(original)?, id)?;
            let reason = match icmp.get(1)? {
                0 => "network unreachable".to_owned(),
                1 => "host unreachable".to_owned(),
                9 | 10 | 13 => "administratively prohibited".to_owned(),
                code => format!("destination unreachable, code {code}"),
            };
            ours.then(|| Heard::Refusal(format!("{from} says: {reason}")))
        }
        _ => None,
    }
}

fn read_v6(icmp: &[u8], from: IpAddr, to: IpAddr, id: u16) -> Option<Heard> {
    match icmp.first()? {
        129 if from == to && is_ours(icmp, id)? => Some(Heard::Answer),
        1 => {
            let original = icmp.get(8..)?;
            let destination: [u8; 16] = original.get(24..40)?.try_into().ok()?;
            let ours = Ipv6Addr::from(destination) == to && is_ours(original.get(40..)?, id)?;
            let reason = match icmp.get(1)? {
                0 => "no route".to_owned(),
                1 => "administratively prohibited".to_owned(),
                3 => "address unreachable".to_owned(),
                code => format!("destination unreachable, code {code}"),
            };
            ours.then(|| Heard::Refusal(format!("{from} says: {reason}")))
        }
        _ => None,
    }
}

fn is_ours(echo: &[u8], id: u16) -> Option<bool> {
    Some(echo.get(4..6)? == id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        for length in 0..4 {
            let mut packet = request(IpAddr::from([10, 0, 0, 1]), 0xbeef, 7);
            packet.truncate(packet.len() - length);
            packet[2..4].fill(0);
            let sum = checksum(&packet).to_be_bytes();
            packet[2..4].copy_from_slice(&sum);
            assert_eq!(checksum(&packet), 0, "{length} bytes less");
        }
    }

    #[test]
    fn answers_of_other_pings_are_ignored() {
        let (to, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut answer = vec![0x45; 20];
        answer.extend(request(to, 7, 1));
        answer[20] = 0;
        assert!(matches!(read(&answer, to, to, 7), Heard::Answer));
        assert!(matches!(read(&answer, other, to, 7), Heard::Nothing));
        assert!(matches!(read(&answer, to, to, 8), Heard::Nothing));
    }

    #[test]
    fn short_packets_are_ignored() {
        let to = IpAddr::from([10, 0, 0, 1]);
        let mut packet = vec![0x45; 20];
        packet.extend([3, 1, 0, 0]);
        for length in 0..packet.len() {
            assert!(matches!(read(&packet[..length], to, to, 7), Heard::Nothing));
            assert!(matches!(
                read(&packet[..length], to, Ipv6Addr::LOCALHOST.into(), 7),
                Heard::Nothing
            ));
        }
    }
}
