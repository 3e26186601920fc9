//! The leases of the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    slice, thread,
};

use rscni::Error;

use super::{
    super::{
        client::{Client, Identity, Step, Time, Transport},
        interface::{Channel, ContainerInterface},
        message::Message,
        options::ClientOptions,
        request::{Answer, DaemonRequest, Key},
        store::{SavedLease, Store},
        system::{log, now, random},
    },
    connections::Connections,
    settings::Daemon,
};
use crate::plugin::Result;

pub(super) const ABANDONED: &str = "the plugin has disconnected";
const CONTAINER_GONE: &str = "the container is gone";
/// Number of messages to read from one socket in a row.
const BURST: usize = 64;

/// The clients of all leases, and the plugins that wait for them.
pub(super) struct LeaseTable<'a> {
    pub(super) connections: Connections,
    settings: &'a Daemon,
    store: Store,
    entries: BTreeMap<Key, Entry>,
    /// When to call which client.
    wakes: BTreeSet<(Time, Key)>,
    /// The clients that wait for an answer.
    listening: Vec<Key>,
}

/// The client of a lease with its interface.
struct Entry {
    interface: ContainerInterface,
    client: Client,
    /// Open while an answer may arrive.
    channel: Option<Channel>,
    /// Connection of the plugin that waits for the lease.
    connection: Option<u64>,
    /// Its time in [`LeaseTable::wakes`].
    wake: Option<Time>,
}

impl<'a> LeaseTable<'a> {
    pub(super) fn new(settings: &'a Daemon, store: Store) -> Self {
        Self {
            connections: Connections::default(),
            settings,
            store,
            entries: BTreeMap::new(),
            wakes: BTreeSet::new(),
            listening: Vec::new(),
        }
    }

    /// Continues the leases of the last daemon.
    pub(super) fn resume(&mut self) -> std::result::Result<(), Error> {
        for saved in self.store.all()? {
            let client = saved.resume(self.settings.timeouts(), self.settings.broadcast);
            let key = saved.key;
            self.entries.insert(key.clone(), Entry::new(saved.interface, client, None));
            self.schedule(&key);
        }
        self.sweep();
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the sockets on which answers may arrive.
    pub(super) fn channels(&self) -> impl Iterator<Item = (&Key, &Channel)> {
        let channel = |key| self.entries.get(key)?.channel.as_ref();
        self.listening.iter().filter_map(move |key| Some((key, channel(key)?)))
    }

    /// Returns when to call [`LeaseTable::elapse`].
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.wakes.first().map(|(wake, _)| *wake)
    }

    /// Calls the clients that are due.
    pub(super) fn elapse(&mut self, now: Time) {
        let due = self.wakes.iter().take_while(|(wake, _)| *wake <= now);
        for key in due.map(|(_, key)| key.clone()).collect::<Vec<_>>() {
            self.drive(&key, None);
        }
    }

    /// Forgets the leases of containers that are gone. They can only expire: without the interface
    /// no release can be sent.
    pub(super) fn sweep(&mut self) {
        let gone = self.entries.iter().filter(|(_, entry)| !entry.interface.exists());
        for key in gone.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.forget(&key, CONTAINER_GONE);
        }
    }

    /// Processes the request of a plugin, and answers it unless the plugin has to wait.
    pub(super) fn process(&mut self, request: DaemonRequest, connection: u64) {
        let answer = match request {
            DaemonRequest::Acquire { key, netns, client_options } => self
                .acquire(&key, &netns, client_options, connection)
                .unwrap_or_else(|failure| Some(Error::from(failure).into())),
            DaemonRequest::Look { key } => {
                let entry = self.entries.get(&key).filter(|entry| entry.client.is_live(now()));
                let binding = entry.and_then(|entry| entry.client.binding());
                let lease = binding.map(|binding| Answer::Lease(binding.lease.clone()));
                Some(lease.unwrap_or(Answer::Done))
            }
            DaemonRequest::Release { key } => {
                self.release(&[key], "DEL", Some(connection));
                None
            }
            DaemonRequest::ReleaseOthers { network, valid } => {
                let is_stale = |key: &&Key| key.network == network && !valid.contains(key);
                let stale: Vec<Key> = self.entries.keys().filter(is_stale).cloned().collect();
                self.release(&stale, "GC", Some(connection));
                None
            }
            DaemonRequest::Ping => Some(Answer::Done),
        };
        if let Some(answer) = answer {
            self.connections.answer(connection, &answer);
        }
    }

    /// Starts to discover a lease, or returns the one that exists, as after an ADD that was killed.
    fn acquire(
        &mut self,
        key: &Key,
        netns: &Path,
        client_options: ClientOptions,
        connection: u64,
    ) -> Result<Option<Answer>> {
        let (interface, link) =
            ContainerInterface::find(self.settings.on_host(netns), &key.ifname)?;
        if let Some(entry) = self.entries.get(key) {
            match entry.client.binding() {
                Some(binding) if entry.interface == interface && entry.client.is_live(now()) => {
                    return Ok(Some(Answer::Lease(binding.lease.clone())));
                }
                None if entry.interface == interface => {
                    return Err(Error::TryAgainLater(format!(
                        "an address for {key} is being asked for already"
                    ))
                    .into());
                }
                _ => self.release(slice::from_ref(key), "it is added again", None),
            }
        }
        let mac = link.mac.ok_or_else(|| {
            Error::InvalidNetworkConfig(format!(
                "{} is not an Ethernet interface, which DHCP requires",
                link.name
            ))
        })?;
        // At least the size that every host accepts, and at most the payload of a packet.
        let largest = u16::try_from(link.mtu.saturating_sub(28).clamp(576, 1472)).unwrap_or(576);
        let identity = Identity {
            mac,
            largest,
            client_id: key.client_id(),
            client_options,
            broadcast: self.settings.broadcast,
        };
        let client = Client::new(identity, self.settings.timeouts(), random, now());
        log(format_args!("{key}: asking for an address"));
        self.entries.insert(key.clone(), Entry::new(interface, client, Some(connection)));
        self.connections.wait_for(connection, key);
        self.drive(key, None);
        Ok(None)
    }

    /// Reads the messages that have arrived for a client.
    pub(super) fn receive(&mut self, key: &Key, buffer: &mut [u8]) {
        for _ in 0..BURST {
            let Some(entry) = self.entries.get_mut(key) else { return };
            let Some(channel) = &entry.channel else { return };
            match channel.receive(buffer).map(|bytes| bytes.map(Message::decode)) {
                Ok(None) => return,
                Ok(Some(message)) => {
                    if let Some(message) = message {
                        self.drive(key, Some(&message));
                    }
                }
                Err(failure) => {
                    // Such as an interface that is down. The next message opens another socket.
                    log(format_args!("{key}: {failure}"));
                    entry.channel = None;
                    return;
                }
            }
        }
    }

    /// Passes a message to a client, and executes the steps that are due.
    fn drive(&mut self, key: &Key, mut message: Option<&Message>) {
        loop {
            let Some(entry) = self.entries.get_mut(key) else { return };
            let step = match message.take() {
                Some(message) => entry.client.receive(now(), message),
                None => entry.client.elapse(now()),
            };
            match step {
                Step::Wait => break,
                Step::Send(bytes, transport) => match entry.send(&bytes, transport) {
                    Ok(true) => {}
                    Ok(false) if entry.interface.exists() => {
                        return self.forget(key, "the interface is gone");
                    }
                    Ok(false) => return self.forget(key, CONTAINER_GONE),
                    // Without an answer the message is sent again.
                    Err(failure) => log(format_args!("{key}: {failure}")),
                },
                Step::Bound => self.bound(key),
                Step::Failed(why) => return self.forget(key, &why),
                Step::Lost(why) => {
                    if let Err(failure) = entry.interface.set_down() {
                        log(format_args!("{key}: {failure}"));
                    }
                    return self.forget(key, &format!("{why}; the interface was set down"));
                }
            }
        }
        if let Some(entry) = self.entries.get_mut(key)
            && !entry.client.is_listening()
        {
            entry.channel = None;
        }
        self.schedule(key);
    }

    /// Notes when to call a client, and whether it waits for an answer.
    fn schedule(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let wake = entry.client.wake();
        if let Some(before) = std::mem::replace(&mut entry.wake, wake) {
            self.wakes.remove(&(before, key.clone()));
        }
        self.wakes.extend(wake.map(|wake| (wake, key.clone())));
        self.listening.retain(|other| other != key);
        if entry.channel.is_some() {
            self.listening.push(key.clone());
        }
    }

    /// Saves a lease and answers the plugin that waits for it.
    fn bound(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(binding) = entry.client.binding() else { return };
        let lease = binding.lease.clone();
        let time = match binding.terms {
            Some(terms) => format!("for {} s", terms.expire.as_secs()),
            None => "without end".into(),
        };
        log(format_args!("{key}: {} of {} {time}", lease.address, binding.server));
        let saved = SavedLease::new(key, &entry.interface, &entry.client, binding)
            .and_then(|saved| self.store.save(&saved));
        let connection = entry.connection.take();
        match (saved, connection) {
            (Ok(()), Some(connection)) => {
                if !self.connections.answer(connection, &Answer::Lease(lease)) {
                    self.release(slice::from_ref(key), ABANDONED, None);
                }
            }
            (Err(error), Some(connection)) => {
                self.release(slice::from_ref(key), "it cannot be saved", None);
                self.connections.answer(connection, &error.into());
            }
            (Ok(()), None) => {}
            // The file still has the address.
            (Err(error), None) => log(format_args!("{key}: {error}")),
        }
    }

    /// Forgets clients and releases their leases, then answers the plugin that asked for it.
    ///
    /// Sending a release takes time, so a thread does it.
    pub(super) fn release(&mut self, keys: &[Key], why: &str, connection: Option<u64>) {
        let mut releases = Vec::new();
        for key in keys {
            if let Some(Entry { interface, client, .. }) = self.entries.get(key) {
                let release = client.release();
                releases.extend(release.map(|release| (key.clone(), interface.clone(), release)));
                self.forget(key, &format!("released: {why}"));
            }
        }
        let connection = connection.and_then(|id| self.connections.remove(id));
        let work = move || {
            for (key, interface, release) in releases {
                if let Err(failure) = interface.release(&release) {
                    log(format_args!("{key}: {failure}"));
                }
            }
            if let Some(mut connection) = connection {
                connection.answer(&Answer::Done);
            }
        };
        // Without a thread the connection closes, and the plugin tries again later.
        if let Err(error) = thread::Builder::new().name("release".into()).spawn(work) {
            log(format_args!("start a thread: {error}"));
        }
    }

    /// Forgets a client, and answers the plugin that waits for it.
    fn forget(&mut self, key: &Key, why: &str) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.listening.retain(|other| other != key);
        if let Some(wake) = entry.wake {
            self.wakes.remove(&(wake, key.clone()));
        }
        log(format_args!("{key}: {why}"));
        if let Err(error) = self.store.remove_file(key) {
            log(format_args!("{key}: {error}"));
        }
        if let Some(connection) = entry.connection {
            let error = Error::TryAgainLater(format!("{}: {why}", key.ifname));
            self.connections.answer(connection, &error.into());
        }
    }
}

impl Entry {
    fn new(interface: ContainerInterface, client: Client, connection: Option<u64>) -> Self {
        Self { interface, client, channel: None, connection, wake: None }
    }

    /// Sends a message. Returns whether the interface still exists.
    fn send(&mut self, message: &[u8], transport: Transport) -> Result<bool> {
        if !self.channel.as_ref().is_some_and(|channel| channel.is_for(transport)) {
            self.channel = None;
            self.channel = Channel::open(&self.interface, transport)?;
        }
        match &self.channel {
            Some(channel) => channel.send(message, transport).map(|()| true),
            None => Ok(false),
        }
    }
}
