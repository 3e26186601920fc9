//! Messages on unix sockets, with descriptors and deadlines.

use std::{
    fs,
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    cmsg_space,
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
        listen as listen_on, recvmsg, sendmsg, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::wire::Frame;

/// Descriptors that are accepted with a part of a message. The kernel closes any others.
const MAX_FDS: usize = 4;

/// Connections that wait for the daemon; the kernel's own limit is usually lower.
const BACKLOG: i32 = 4096;

/// Time for a daemon that is already running to take a connection.
const PROBE: Duration = Duration::from_secs(1);

/// A message with its descriptors.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) frame: Frame,
    pub(super) fds: Vec<OwnedFd>,
}

impl Incoming {
    /// A message of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { frame: Frame::new(limit), fds: Vec::new() }
    }

    /// Reads one part without blocking; true if the message is complete.
    ///
    /// # Errors
    /// `InvalidData` for a message that is too long, `UnexpectedEof` for the end of the connection.
    pub(super) fn read(&mut self, socket: impl AsFd) -> io::Result<bool> {
        let mut part = [0; 16 << 10];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut part)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                // Drops, and so closes, what exceeds the limit.
                let free = MAX_FDS - self.fds.len();
                self.fds.extend(fds.take(free));
            }
        }
        if received.bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let part = &part[..received.bytes];
        self.frame.push(part).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }
}

/// Writes a part without blocking, `fd` with its first byte; returns the number of bytes.
pub(super) fn write(
    socket: impl AsFd,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    // Without `NOSIGNAL`, a peer that is gone would end this process.
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// Receives a message.
pub(super) fn receive(
    socket: impl AsFd,
    limit: usize,
    deadline: Option<Instant>,
) -> io::Result<Incoming> {
    let mut incoming = Incoming::new(limit);
    while !retry(&socket, PollFlags::IN, deadline, || incoming.read(&socket))? {}
    Ok(incoming)
}

/// Sends a message, with a descriptor.
pub(super) fn send(
    socket: impl AsFd,
    mut bytes: &[u8],
    mut fd: Option<BorrowedFd<'_>>,
    deadline: Option<Instant>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = retry(&socket, PollFlags::OUT, deadline, || write(&socket, bytes, fd))?;
        bytes = &bytes[count..];
        fd = None;
    }
    Ok(())
}

/// Whether the peer has closed the connection.
pub(super) fn is_closed(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::empty())];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
}

/// Returns the deadline after `timeout`; `None` for an unrepresentable one.
pub(super) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// Repeats `attempt` until it does not block, or until the deadline.
fn retry<T>(
    socket: impl AsFd,
    event: PollFlags,
    deadline: Option<Instant>,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => return outcome,
        }
        let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if rest.is_some_and(|rest| rest.is_zero()) {
            return Err(ErrorKind::TimedOut.into());
        }
        let rest = rest.and_then(|rest| Timespec::try_from(rest).ok());
        match poll(&mut [PollFd::new(&socket, event)], rest.as_ref()) {
            Err(Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Connects to a daemon. Waits if its queue is full.
pub(super) fn connect_to(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = stream()?;
    // A connection to a unix socket waits as long as a write.
    let timeout = timeout.clamp(Duration::from_millis(1), Duration::from_secs(86_400));
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    with_address(path, |address| {
        loop {
            match connect(&socket, address) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
                outcome => return Ok(outcome?),
            }
        }
    })?;
    Ok(socket.into())
}

/// Listens on a unix socket that only its owner can connect to.
///
/// Creates the directory, and replaces the file that a killed daemon left behind.
///
/// # Errors
/// `AddrInUse` if another daemon listens there; `AlreadyExists` if the file is not a socket.
pub fn listen(path: impl AsRef<Path>) -> io::Result<UnixListener> {
    let path = path.as_ref();
    let context =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let is_socket = fs::symlink_metadata(path).ok().map(|file| file.file_type().is_socket());
    if is_socket == Some(false) {
        return Err(context(io::Error::new(ErrorKind::AlreadyExists, "this is not a socket")));
    }
    match connect_to(path, PROBE) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() != ErrorKind::TimedOut => return Err(context(error)),
        _ => return Err(context(io::Error::new(ErrorKind::AddrInUse, "a daemon listens already"))),
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(context)?;
    }
    if is_socket.is_some() {
        fs::remove_file(path).map_err(context)?;
    }
    listen_at(path).map_err(context)
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let socket = stream()?;
    with_address(path, |address| Ok(bind(&socket, address)?))?;
    // Connections are refused until the mode is right.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen_on(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn stream() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Passes on the address of a path. A path that is too long for an address is shortened.
fn with_address<T>(path: &Path, f: impl FnOnce(&SocketAddrUnix) -> io::Result<T>) -> io::Result<T> {
    let (directory, name) = match (SocketAddrUnix::new(path), path.parent(), path.file_name()) {
        (Err(Errno::NAMETOOLONG), Some(directory), Some(name)) => (directory, name),
        (address, ..) => return f(&address?),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    f(&SocketAddrUnix::new(&short)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::wire::encode;

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_message_arrives_in_parts_with_its_descriptor() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        // More than the buffers of the socket.
        let text = "x".repeat(3 << 20);
        let message = encode(&text);
        std::thread::scope(|scope| {
            scope.spawn(|| send(&ours, &message, Some(file.as_fd()), None).unwrap());
            let incoming = receive(&theirs, 4 << 20, None).unwrap();
            assert_eq!(crate::shim::wire::decode::<String>(incoming.frame.body()).unwrap(), text);
            assert_eq!(incoming.fds.len(), 1);
        });
    }

    #[test]
    fn more_descriptors_than_expected_are_closed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (end, watched) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(50))];
        for part in [&[0, 0, 0, 2][..], b"{}"] {
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [end.as_fd(); 50];
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            sendmsg(&ours, &[IoSlice::new(part)], &mut control, SendFlags::empty()).unwrap();
        }
        drop(end);
        let incoming = receive(&theirs, 10, None).unwrap();
        assert_eq!(incoming.fds.len(), MAX_FDS);
        assert!(!is_closed(&watched));
        drop(incoming);
        assert!(is_closed(&watched), "a descriptor leaked");
    }

    #[test]
    fn a_peer_that_neither_writes_nor_reads_is_timed_out() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let now = Some(Instant::now());
        assert_eq!(receive(&ours, 10, now).unwrap_err().kind(), ErrorKind::TimedOut);
        let message = encode(&"x".repeat(3 << 20));
        assert_eq!(send(&ours, &message, None, now).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_closed_connection_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(!is_closed(&ours));
        drop(theirs);
        assert!(is_closed(&ours));
        let error = send(&ours, b"x", None, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        let error = receive(&ours, 10, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = temp();
        let path = dir.path().join("run/my.sock");
        drop(listen(&path).unwrap());
        assert_eq!(
            connect_to(&path, PROBE).unwrap_err().kind(),
            ErrorKind::ConnectionRefused,
            "the file is stale"
        );
        let listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        connect_to(&path, PROBE).unwrap();
        listener.accept().unwrap();
        let error = listen(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().ends_with("my.sock: a daemon listens already"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_kept() {
        let dir = temp();
        let path = dir.path().join("file");
        fs::write(&path, "text").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"text");
    }

    #[test]
    fn the_path_of_a_socket_may_be_long() {
        let dir = temp();
        let path = dir.path().join("d".repeat(200)).join("my.sock");
        let listener = listen(&path).unwrap();
        connect_to(&path, PROBE).unwrap();
        listener.accept().unwrap();
    }
}
