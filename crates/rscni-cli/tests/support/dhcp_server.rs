//! A DHCP server for tests of unusual answers. It has its own code for messages, so that it does
//! not share the plugin's errors.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rscni_test::eventually;

pub(crate) const DISCOVER: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const REQUEST: u8 = 3;
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;
pub(crate) const RELEASE: u8 = 7;

/// A message of a client.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) kind: u8,
    /// The client's address (`ciaddr`).
    pub(crate) ciaddr: Ipv4Addr,
    /// Source address.
    pub(crate) from: Ipv4Addr,
    pub(crate) options: BTreeMap<u8, Vec<u8>>,
    bytes: Vec<u8>,
}

impl Heard {
    fn read(bytes: &[u8], from: SocketAddr) -> Option<Self> {
        let SocketAddr::V4(from) = from else { return None };
        let mut options = BTreeMap::new();
        let mut rest = bytes.get(240..)?;
        while let [code, tail @ ..] = rest {
            rest = match (code, tail) {
                (255, _) => break,
                (0, tail) => tail,
                (_, [length, tail @ ..]) => {
                    let (value, tail) = tail.split_at_checked(usize::from(*length))?;
                    options.insert(*code, value.to_vec());
                    tail
                }
                _ => return None,
            };
        }
        let ciaddr = <[u8; 4]>::try_from(&bytes[12..16]).ok()?.into();
        Some(Self {
            kind: options.get(&53)?[0],
            ciaddr,
            from: *from.ip(),
            options,
            bytes: bytes.to_vec(),
        })
    }

    /// Whether the client renews its lease.
    pub(crate) fn asks_for_more_time(&self) -> bool {
        self.kind == REQUEST && !self.ciaddr.is_unspecified()
    }

    /// Encodes an answer with these options.
    pub(crate) fn answer(&self, kind: u8, yiaddr: [u8; 4], options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = self.bytes[..240].to_vec();
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&yiaddr);
        let server: &[u8] = &[10, 50, 0, 1];
        let first: [(u8, &[u8]); 2] = [(53, &[kind]), (54, server)];
        for (code, value) in first.iter().chain(options) {
            bytes.push(*code);
            bytes.push(u8::try_from(value.len()).unwrap());
            bytes.extend(*value);
        }
        bytes.push(255);
        bytes
    }
}

/// The server. It ends with the test.
pub(crate) struct Server {
    heard: Arc<Mutex<Vec<Heard>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers every message on the LAN with the results of `answers`. Clients repeat messages, so
    /// `answers` must not count them.
    pub(crate) fn start(answers: impl Fn(&Heard) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let is_over: Arc<AtomicBool> = Arc::default();
        let thread = std::thread::spawn({
            let (heard, is_over) = (heard.clone(), is_over.clone());
            move || {
                let mut buffer = [0; 2000];
                while !is_over.load(Ordering::SeqCst) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    let message =
                        Heard::read(&buffer[..length], from).expect("a message of a client");
                    for answer in answers(&message) {
                        let to = if message.ciaddr.is_unspecified() {
                            [10, 50, 0, 255].into()
                        } else {
                            message.ciaddr
                        };
                        let _ = socket.send_to(&answer, (to, 68));
                    }
                    heard.lock().unwrap().push(message);
                }
            }
        });
        Self { heard, is_over, thread: Some(thread) }
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits for a message.
    #[track_caller]
    pub(crate) fn hears(&self, what: &str, is_it: impl Fn(&Heard) -> bool) -> Heard {
        eventually(what, || self.heard().into_iter().find(|heard| is_it(heard)))
    }

    /// Stops the server.
    pub(crate) fn stop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// Address in the answers.
pub(crate) const GIVEN: [u8; 4] = [10, 50, 0, 9];

/// Returns valid answers with these times in seconds: lease, T1, T2.
pub(crate) fn proper(heard: &Heard, times: (u32, u32, u32)) -> Vec<Vec<u8>> {
    let kind = match heard.kind {
        DISCOVER => OFFER,
        REQUEST => ACK,
        _ => return Vec::new(),
    };
    vec![heard.answer(kind, GIVEN, &options(&[times.0, times.1, times.2].map(u32::to_be_bytes)))]
}

/// Options with the mask, the router and the times.
pub(crate) fn options(times: &[[u8; 4]; 3]) -> [(u8, &[u8]); 5] {
    [
        (1, &[255, 255, 255, 0]),
        (3, &[10, 50, 0, 1]),
        (51, &times[0]),
        (58, &times[1]),
        (59, &times[2]),
    ]
}
