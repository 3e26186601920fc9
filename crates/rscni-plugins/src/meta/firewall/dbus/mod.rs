//! A client of the system's message bus (D-Bus): calls a method whose arguments are texts and waits for the answer.
//!
//! That is all that firewalld needs, and it is written here because a general library is as large as a third of this
//! program. It follows the D-Bus specification, section by section: "Server Addresses", "Authentication Protocol",
//! "Message Protocol".

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

use self::message::Header;
pub(crate) use self::message::{Call, Message};

/// How long a call may take: what other clients of D-Bus wait for an answer.
const LIMIT: Duration = Duration::from_secs(25);

/// The longest message that is read. The specification allows more, but nobody here has so much to say.
const LONGEST: usize = 1 << 20;

/// A call that failed.
#[derive(Debug)]
pub(crate) enum Error {
    /// The bus cannot be reached, or does not speak as it should.
    Bus(io::Error),
    /// The other side answered with an error: its name and its message.
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

/// A connection to the system's bus.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    serial: u32,
}

impl Connection {
    /// Connects to the bus at `DBUS_SYSTEM_BUS_ADDRESS`, or where it usually is, and says hello.
    pub(crate) fn system() -> Result<Self, Error> {
        let stream = address::connect(std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().as_deref())?;
        let mut connection = Self { stream, serial: 0 };
        connection.authenticate()?;
        connection.call(&Call::to_bus("Hello", &[]))?;
        Ok(connection)
    }

    /// Whether somebody on the bus has this name.
    pub(crate) fn has_owner(&mut self, name: &str) -> Result<bool, Error> {
        self.call(&Call::to_bus("NameHasOwner", &[name]))?.boolean().map_err(Error::Bus)
    }

    /// Calls a method and gives the answer.
    pub(crate) fn call(&mut self, call: &Call<'_>) -> Result<Message, Error> {
        let deadline = Instant::now() + LIMIT;
        self.serial += 1;
        self.stream.set_write_timeout(Some(LIMIT))?;
        self.stream.write_all(&call.encode(self.serial)?)?;
        loop {
            let message = self.receive(deadline)?;
            if message.answers != Some(self.serial) {
                // A signal, or an answer to a call that was given up.
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
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message of the bus is too long",
            ));
        }
        let mut rest = vec![0; header.rest];
        self.read(&mut rest, deadline)?;
        header.message(&start, &rest)
    }

    fn read(&mut self, mut bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(bytes) {
                Ok(0) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the bus hung up"));
                }
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The mechanism EXTERNAL: the kernel tells the bus who we are, and we have to say the same.
    fn authenticate(&mut self) -> io::Result<()> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String =
            uid.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        self.stream.set_write_timeout(Some(LIMIT))?;
        self.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let answer = self.line(Instant::now() + LIMIT)?;
        if !answer.starts_with("OK ") {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("the bus answered {answer:?}"),
            ));
        }
        self.stream.write_all(b"BEGIN\r\n")
    }

    fn line(&mut self, deadline: Instant) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > 4096 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line of the bus is too long",
                ));
            }
            // Byte by byte: nothing of what follows may be taken away.
            let mut byte = [0];
            self.read(&mut byte, deadline)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}
