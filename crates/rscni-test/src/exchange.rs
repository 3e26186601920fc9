//! TCP and UDP exchanges: a server that sends its name and the address that it saw, and a client
//! that expects its own bytes back.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// More than a segment, so that a wrong MTU or checksum shows.
const TCP_BYTES: usize = 64 * 1024;
const UDP_BYTES: usize = 64;
const ATTEMPT: Duration = Duration::from_secs(2);
/// Minimum time of an attempt, even beyond the timeout. The first packet may be lost while a link
/// settles, and TCP repeats it after a second.
const LAST_ATTEMPT: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(50);

/// A server in a namespace, until it is dropped. Started by
/// [`Namespace::serve_tcp`](crate::Namespace::serve_tcp) and
/// [`serve_udp`](crate::Namespace::serve_udp).
#[derive(Debug)]
pub struct Server {
    name: String,
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The name of the namespace in which the server runs: `host`, or the container's.
    pub server: String,
    /// Source address that the server saw: the host's, if the connection was masqueraded.
    pub seen_as: IpAddr,
}

impl Answer {
    /// Asserts that this server answered.
    ///
    /// # Panics
    ///
    /// If it was another.
    #[track_caller]
    pub fn assert_by(&self, server: &Server) {
        assert_eq!(self.server, server.name, "a server in the wrong place answered: {self:?}");
    }
}

impl Server {
    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn tcp(name: &str, port: u16) -> io::Result<Self> {
        let listener = both_families(|address| TcpListener::bind((address, port)))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Self::start(name, port, move |name, stop| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        let name = name.to_owned();
                        std::thread::spawn(move || answer_tcp(stream, peer, &name));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        }))
    }

    pub(crate) fn udp(name: &str, port: u16) -> io::Result<Self> {
        let socket = both_families(|address| UdpSocket::bind((address, port)))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let port = socket.local_addr()?.port();
        Ok(Self::start(name, port, move |name, stop| {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let mut answer = introduction(name, peer);
                    answer.extend(&buffer[..length]);
                    // The client reports a missing answer.
                    let _ = socket.send_to(&answer, peer);
                }
            }
        }))
    }

    fn start(
        name: &str,
        port: u16,
        serve: impl FnOnce(&str, &AtomicBool) + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (for_thread, named) = (Arc::clone(&stop), name.to_owned());
        let thread = std::thread::spawn(move || serve(&named, &for_thread));
        Self { name: name.to_owned(), port, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The port must be free again when this returns. A server that panicked has freed it
            // too.
            let _ = thread.join();
        }
    }
}

/// Binds a socket for both families, or for IPv4 if IPv6 is disabled.
fn both_families<T>(bind: impl Fn(IpAddr) -> io::Result<T>) -> io::Result<T> {
    bind(Ipv6Addr::UNSPECIFIED.into()).or_else(|error| match error.kind() {
        ErrorKind::AddrInUse => Err(error),
        _ => bind(Ipv4Addr::UNSPECIFIED.into()),
    })
}

fn introduction(name: &str, peer: SocketAddr) -> Vec<u8> {
    format!("{name} {}\n", peer.ip().to_canonical()).into_bytes()
}

fn answer_tcp(mut stream: TcpStream, peer: SocketAddr, name: &str) {
    let mut answer = introduction(name, peer);
    let mut exchange = || -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(ATTEMPT))?;
        stream.read_to_end(&mut answer)?;
        stream.write_all(&answer)
    };
    // The client reports a missing answer.
    let _ = exchange();
}

/// Returns bytes that no earlier exchange used.
fn question(length: usize) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut state = u64::from(std::process::id()) << 32 | NEXT.fetch_add(1, Ordering::Relaxed);
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .collect()
}

fn understand(answer: &[u8], question: &[u8]) -> Result<Answer, String> {
    let end = answer
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("the answer is not from a server of this crate")?;
    let (introduction, rest) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 1..]);
    if rest != question {
        return Err(format!(
            "{} of {} bytes came back, or others than were sent",
            rest.len(),
            question.len()
        ));
    }
    let (server, seen_as) =
        introduction.rsplit_once(' ').ok_or("the answer is not from a server of this crate")?;
    let seen_as = seen_as.parse().map_err(|_| "the answer is not from a server of this crate")?;
    Ok(Answer { server: server.to_owned(), seen_as })
}

/// Sends a request over TCP from the calling thread's namespace.
pub(crate) fn tcp(to: SocketAddr, timeout: Duration) -> Result<Answer, String> {
    until(timeout, |left| {
        let say = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let question = question(TCP_BYTES);
        let mut stream = TcpStream::connect_timeout(&to, left).map_err(say("connect"))?;
        stream.set_read_timeout(Some(left)).map_err(say("set a time limit"))?;
        stream.set_write_timeout(Some(left)).map_err(say("set a time limit"))?;
        stream.write_all(&question).map_err(say("send"))?;
        stream.shutdown(Shutdown::Write).map_err(say("send"))?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(say("receive"))?;
        understand(&answer, &question)
    })
}

/// Sends a request over UDP from the calling thread's namespace.
pub(crate) fn udp(to: SocketAddr, timeout: Duration) -> Result<Answer, String> {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    until(timeout, |left| {
        let say = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let question = question(UDP_BYTES);
        let socket = UdpSocket::bind((any, 0)).map_err(say("open a socket"))?;
        socket.connect(to).map_err(say("connect"))?;
        socket.send(&question).map_err(say("send"))?;
        socket.set_read_timeout(Some(left.min(ATTEMPT / 8))).map_err(say("set a time limit"))?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => "no answer".to_owned(),
            _ => format!("receive: {error}"),
        })?;
        understand(&buffer[..length], &question)
    })
}

/// Repeats an attempt until it succeeds or the timeout ends, because the first packets may be lost
/// while a link settles. The last attempt may outlast the timeout.
fn until<T>(
    timeout: Duration,
    attempt: impl Fn(Duration) -> Result<T, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match attempt(left.clamp(LAST_ATTEMPT, ATTEMPT)) {
            Err(why) if Instant::now() >= deadline => return Err(why),
            Err(_) => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_has_a_minimum_time() {
        let shortest = std::cell::Cell::new(Duration::MAX);
        let end = until(3 * PAUSE, |left| -> Result<(), String> {
            shortest.set(shortest.get().min(left));
            Err("refused".to_owned())
        });
        assert_eq!(end.unwrap_err(), "refused");
        assert!(shortest.get() >= LAST_ATTEMPT, "{shortest:?}");
    }
}
