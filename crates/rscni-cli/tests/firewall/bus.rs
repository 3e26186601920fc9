//! A private message bus (Debian's dbus-daemon) with a stand-in for firewalld.
//!
//! firewalld is Python with many libraries, and the plugin calls three methods of its zones. The
//! stand-in has its own D-Bus code and uses the other byte order, so that it does not share the
//! plugin's errors.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use rscni_test::Lab;

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#;

/// A bus, until it is dropped.
pub(crate) struct Bus {
    daemon: Child,
    socket: String,
}

impl Bus {
    pub(crate) fn start(lab: &Lab) -> Self {
        let socket = lab.dir().join("bus").display().to_string();
        let config = lab.dir().join("bus.conf");
        std::fs::write(&config, CONFIG.replace("SOCKET", &socket)).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon");
        // It prints its address when it listens.
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("unix:path="), "{line:?}");
        Self { daemon, socket }
    }

    /// Value of `DBUS_SYSTEM_BUS_ADDRESS`.
    pub(crate) fn address(&self) -> String {
        format!("unix:path=/nowhere;unix:path={},guid=0123", self.socket)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Names of the zones.
const ZONES: [&str; 3] = ["trusted", "public", "internal"];

/// Sources with their zones.
type Sources = Arc<Mutex<BTreeMap<String, String>>>;

/// A stand-in for firewalld, until it is dropped.
pub(crate) struct FakeFirewalld {
    sources: Sources,
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl FakeFirewalld {
    pub(crate) fn start(bus: &Bus) -> Self {
        let mut stream = UnixStream::connect(&bus.socket).unwrap();
        let uid =
            effective_uid().bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"OK "), "{}", String::from_utf8_lossy(&answer));
        let to_bus = |member| {
            vec![
                field(1, 'o', "/org/freedesktop/DBus"),
                field(2, 's', "org.freedesktop.DBus"),
                field(3, 's', member),
                field(6, 's', "org.freedesktop.DBus"),
            ]
        };
        stream.write_all(&message(1, 1, &to_bus("Hello"), "", &[])).unwrap();
        let mut body = text("org.fedoraproject.FirewallD1");
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(4_u32.to_be_bytes());
        stream.write_all(&message(1, 2, &to_bus("RequestName"), "su", &body)).unwrap();
        // The answer to the second call: the name is ours from now on.
        while Received::from(&mut stream).expect("an answer of the bus").reply_serial != Some(2) {}
        let sources = Sources::default();
        let (mut inside, known) = (stream.try_clone().unwrap(), sources.clone());
        let thread = std::thread::spawn(move || {
            let mut serial = 2;
            while let Some(call) = Received::from(&mut inside) {
                serial += 1;
                if call.kind == 1 && inside.write_all(&answer_to(&call, serial, &known)).is_err() {
                    return;
                }
            }
        });
        Self { sources, stream, thread: Some(thread) }
    }

    /// The sources of a zone.
    pub(crate) fn sources_of(&self, zone: &str) -> Vec<String> {
        let sources = self.sources.lock().unwrap();
        sources.iter().filter(|(_, of)| *of == zone).map(|(source, _)| source.clone()).collect()
    }

    /// Puts a source into a zone by hand.
    pub(crate) fn put(&self, source: &str, zone: &str) {
        self.sources.lock().unwrap().insert(source.into(), zone.into());
    }

    /// Takes a source away by hand.
    pub(crate) fn forget(&self, source: &str) {
        assert!(self.sources.lock().unwrap().remove(source).is_some(), "{source}");
    }
}

impl Drop for FakeFirewalld {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn effective_uid() -> String {
    // The line with the user ids.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    line.split_whitespace().nth(2).unwrap().to_owned()
}

fn answer_to(call: &Received, serial: u32, sources: &Sources) -> Vec<u8> {
    let mut sources = sources.lock().unwrap();
    let (zone, source) = (call.arguments[0].clone(), call.arguments[1].clone());
    assert_eq!(
        (call.path.as_str(), call.interface.as_str()),
        ("/org/fedoraproject/FirewallD1", "org.fedoraproject.FirewallD1.zone")
    );
    let is_in = sources.get(&source).cloned();
    let outcome = match call.member.as_str() {
        _ if !ZONES.contains(&zone.as_str()) => Err(format!("INVALID_ZONE: {zone}")),
        "querySource" => Ok(("b", u32::from(is_in.as_ref() == Some(&zone)).to_be_bytes().to_vec())),
        "addSource" => match is_in {
            Some(other) if other == zone => {
                Err(format!("ZONE_ALREADY_SET: '{source}' already bound to '{zone}'"))
            }
            Some(other) => Err(format!("ZONE_CONFLICT: '{source}' already bound to '{other}'")),
            None => {
                sources.insert(source, zone.clone());
                Ok(("s", text(&zone)))
            }
        },
        "removeSource" => match is_in {
            Some(other) if other == zone => {
                sources.remove(&source);
                Ok(("s", text(&zone)))
            }
            Some(_) => Err(format!("ZONE_CONFLICT: '{source}'")),
            None => Err(format!("UNKNOWN_SOURCE: '{source}' is not in any zone")),
        },
        other => panic!("method {other}"),
    };
    let mut fields = vec![field(5, 'u', &call.serial.to_string()), field(6, 's', &call.sender)];
    match outcome {
        Ok((signature, body)) => message(2, serial, &fields, signature, &body),
        Err(why) => {
            fields.push(field(4, 's', "org.fedoraproject.FirewallD1.Exception"));
            message(3, serial, &fields, "s", &text(&why))
        }
    }
}

fn text(value: &str) -> Vec<u8> {
    [&u32::try_from(value.len()).unwrap().to_be_bytes(), value.as_bytes(), &[0]].concat()
}

/// A field of a header: its code, its type and its value.
fn field(code: u8, kind: char, value: &str) -> Vec<u8> {
    let value = match kind {
        'u' => value.parse::<u32>().unwrap().to_be_bytes().to_vec(),
        'g' => [&[u8::try_from(value.len()).unwrap()], value.as_bytes(), &[0]].concat(),
        _ => text(value),
    };
    [&[code, 1, kind as u8, 0], &value[..]].concat()
}

fn message(kind: u8, serial: u32, fields: &[Vec<u8>], signature: &str, body: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    let signature = (!signature.is_empty()).then(|| field(8, 'g', signature));
    for field in fields.iter().chain(&signature) {
        header.resize(header.len().next_multiple_of(8), 0);
        header.extend(field);
    }
    let number = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
    let start = [
        &[b'B', kind, 0, 1][..],
        &number(body.len()),
        &serial.to_be_bytes(),
        &number(header.len()),
    ]
    .concat();
    header.resize(header.len().next_multiple_of(8), 0);
    [&start[..], &header, body].concat()
}

/// A received message.
#[derive(Default)]
struct Received {
    kind: u8,
    serial: u32,
    reply_serial: Option<u32>,
    path: String,
    interface: String,
    member: String,
    sender: String,
    /// The strings of the body, if it has nothing else.
    arguments: Vec<String>,
}

impl Received {
    /// Reads the next message; `None` when the connection ends.
    fn from(stream: &mut UnixStream) -> Option<Self> {
        let mut start = [0; 16];
        stream.read_exact(&mut start).ok()?;
        // The plugin and the bus use the machine's byte order.
        assert_eq!(start[0], b'l');
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let length = number(&start[12..]) as usize;
        let mut rest = vec![0; length.next_multiple_of(8) + number(&start[4..]) as usize];
        stream.read_exact(&mut rest).ok()?;
        let mut received = Self { kind: start[1], serial: number(&start[8..]), ..Self::default() };
        let (mut at, mut signature) = (0, String::new());
        while at < length {
            at = at.next_multiple_of(8);
            let (code, kind) = (rest[at], rest[at + 2]);
            at += 4;
            if kind == b'u' {
                received.reply_serial =
                    Some(number(&rest[at..])).filter(|_| code == 5).or(received.reply_serial);
                at += 4;
                continue;
            }
            let length =
                if kind == b'g' { rest[at] as usize } else { number(&rest[at..]) as usize };
            at += if kind == b'g' { 1 } else { 4 };
            let value = String::from_utf8(rest[at..at + length].to_vec()).unwrap();
            at += length + 1;
            match code {
                1 => received.path = value,
                2 => received.interface = value,
                3 => received.member = value,
                7 => received.sender = value,
                8 => signature = value,
                _ => {}
            }
        }
        let (body, mut at) = (&rest[length.next_multiple_of(8)..], 0_usize);
        if signature.bytes().all(|kind| kind == b's') {
            for _ in 0..signature.len() {
                at = at.next_multiple_of(4);
                let length = number(&body[at..]) as usize;
                received
                    .arguments
                    .push(String::from_utf8(body[at + 4..at + 4 + length].to_vec()).unwrap());
                at += 4 + length + 1;
            }
        }
        Some(received)
    }
}
