//! Connections of plugins.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use rustix::fd::BorrowedFd;

use super::super::{
    client::Time,
    request::{ANSWER_TO_GO, Answer, DaemonRequest, Key, LONGEST_LINE},
    system::now,
};

/// How long a plugin may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections by ID.
#[derive(Default)]
pub(super) struct Connections {
    all: BTreeMap<u64, Connection>,
    next_id: u64,
}

pub(super) struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    /// When the request must be complete. `None` after the request.
    deadline: Option<Time>,
    waits_for: Option<Key>,
}

pub(super) enum Event {
    Request(DaemonRequest),
    /// The plugin disconnected while it waited for this lease.
    Abandoned(Key),
}

impl Connections {
    pub(super) fn add(&mut self, stream: UnixStream) {
        let deadline = Some(now() + REQUEST_TIMEOUT);
        let connection = Connection { stream, received: Vec::new(), deadline, waits_for: None };
        self.all.insert(self.next_id, connection);
        self.next_id += 1;
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Connection> {
        self.all.remove(&id)
    }

    /// Notes that a plugin waits for a lease.
    pub(super) fn wait_for(&mut self, id: u64, key: &Key) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.waits_for = Some(key.clone());
        }
    }

    /// Removes the connections that sent no request in time.
    pub(super) fn expire(&mut self, now: Time) {
        self.all.retain(|_, connection| connection.deadline.is_none_or(|deadline| now < deadline));
    }

    /// Returns when to call [`Connections::expire`].
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.all.values().filter_map(|connection| connection.deadline).min()
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.all.iter().map(|(id, connection)| (*id, connection.stream.as_fd()))
    }

    pub(super) fn read(&mut self, id: u64, buffer: &mut [u8]) -> Option<Event> {
        let connection = self.all.get_mut(&id)?;
        let is_waiting = connection.deadline.is_none();
        match connection.stream.read(buffer) {
            Ok(length) if length > 0 && !is_waiting => {
                connection.received.extend(&buffer[..length]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            // Disconnected, or sends more than a request.
            _ => return self.all.remove(&id)?.waits_for.map(Event::Abandoned),
        }
        let Some(end) = connection.received.iter().position(|byte| *byte == b'\n') else {
            if connection.received.len() > LONGEST_LINE {
                self.all.remove(&id);
            }
            return None;
        };
        let request = serde_json::from_slice(&connection.received[..end]);
        connection.deadline = None;
        connection.received = Vec::new();
        if request.is_err() {
            let _ = connection.stream.write(ANSWER_TO_GO.as_bytes());
            self.all.remove(&id);
        }
        request.ok().map(Event::Request)
    }

    /// Answers a plugin and closes its connection. Returns whether the plugin was still connected.
    pub(super) fn answer(&mut self, id: u64, answer: &Answer) -> bool {
        self.all.remove(&id).is_some_and(|mut connection| connection.answer(answer))
    }

    pub(super) fn answer_all(&mut self, answer: &Answer) {
        for connection in self.all.values_mut() {
            connection.answer(answer);
        }
    }
}

impl Connection {
    pub(super) fn answer(&mut self, answer: &Answer) -> bool {
        let Ok(mut line) = serde_json::to_vec(answer) else { return false };
        line.push(b'\n');
        // An answer fits into the socket's buffer, so it is written at once.
        self.stream.write(&line).is_ok_and(|written| written == line.len())
    }
}
