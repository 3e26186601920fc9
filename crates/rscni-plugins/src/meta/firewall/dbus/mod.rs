//! A client of the system message bus (D-Bus): calls a method whose arguments are strings, and
//! waits for the reply.
//!
//! firewalld needs no more, and a general library is as large as a third of this program. It
//! follows these sections of the D-Bus specification: "Server Addresses", "Authentication
//! Protocol", "Message Protocol".

mod address;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod message;

use std::{
    fmt,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use self::message::{Header, invalid};
pub(crate) use self::message::{Message, MethodCall};

/// The timeout of a call, the same as in other clients of D-Bus.
const TIMEOUT: Duration = Duration::from_secs(25);

/// The maximum length of a message. The specification allows more than firewalld needs.
const LONGEST: usize = 1 << 20;

/// A call that failed.
#[derive(Debug)]
pub(crate) enum Error {
    /// The bus cannot be reached, or violates the protocol.
    Bus(io::Error),
    /// The reply is an error.
    Refused { name: String, message: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(error) => write!(f, "D-Bus: {error}"),
            Self::Refused { name, message } if message.is_empty() => f.write_str(name),
            Self::Refused { message, .. } => f.write_str(message),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Bus(error)
    }
}

/// A connection to the system bus.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    serial: u32,
}

impl Connection {
    /// Connects to the bus at `DBUS_SYSTEM_BUS_ADDRESS`, or at the default address.
    pub(crate) fn system() -> Result<Self, Error> {
        let stream = address::connect(std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().as_deref())?;
        let mut connection = Self { stream, serial: 0 };
        connection.authenticate()?;
        connection.call(&MethodCall::to_bus("Hello", &[]))?;
        Ok(connection)
    }

    /// Whether a connection on the bus owns this name.
    pub(crate) fn has_owner(&mut self, name: &str) -> Result<bool, Error> {
        self.call(&MethodCall::to_bus("NameHasOwner", &[name]))?.boolean().map_err(Error::Bus)
    }

    pub(crate) fn call(&mut self, call: &MethodCall<'_>) -> Result<Message, Error> {
        let deadline = Instant::now() + TIMEOUT;
        self.serial += 1;
        self.stream.set_write_timeout(Some(TIMEOUT))?;
        self.stream.write_all(&call.encode(self.serial)?)?;
        loop {
            let message = self.receive(deadline)?;
            if message.answers != Some(self.serial) {
                // A signal, or the reply to a call that timed out.
                continue;
            }
            return match &message.error {
                Some(name) => Err(Error::Refused {
                    name: name.clone(),
                    message: message.text().unwrap_or_default(),
                }),
                None => Ok(message),
            };
        }
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<Message> {
        let mut start = [0; Header::LENGTH];
        self.read(&mut start, deadline)?;
        let header = Header::decode(&start)?;
        if header.rest > LONGEST {
            return Err(invalid("a message of the bus is too long"));
        }
        let mut rest = vec![0; header.rest];
        self.read(&mut rest, deadline)?;
        header.message(&start, &rest)
    }

    fn read(&mut self, mut bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no reply in time"));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(bytes) {
                Ok(0) => {
                    let problem = "the bus closed the connection";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
                }
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Authenticates with the mechanism EXTERNAL, by the user id that the kernel also reports.
    fn authenticate(&mut self) -> io::Result<()> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid = uid.bytes().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        self.stream.set_write_timeout(Some(TIMEOUT))?;
        self.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let answer = self.line(Instant::now() + TIMEOUT)?;
        if !answer.starts_with("OK ") {
            let problem = format!("the bus answered {answer:?}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        self.stream.write_all(b"BEGIN\r\n")
    }

    fn line(&mut self, deadline: Instant) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > 4096 {
                return Err(invalid("a line of the bus is too long"));
            }
            // Byte by byte, because messages follow the line.
            let mut byte = [0];
            self.read(&mut byte, deadline)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}
