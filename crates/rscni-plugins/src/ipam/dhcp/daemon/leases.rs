//! The leases that the daemon keeps: what plugins ask for, what servers answer, and what there is to do in time.

use std::{path::Path, slice, thread};

use rscni::Error;

use super::{
    super::{
        client::{Client, Identity, Step, Time, Way},
        log,
        message::Message,
        now,
        options::Wishes,
        place::{Channel, Place},
        random,
        request::{Answer, DaemonRequest, Key},
        store::Kept,
    },
    Keeper,
};
use crate::plugin::error::Result;

pub(super) const CONTAINER_GONE: &str = "the container is gone";
pub(super) const NOBODY_WAITS: &str = "nobody waits for it any more";
/// How many messages of one socket are read before others have their turn.
const TURN: usize = 64;

/// A container's interface with its client.
pub(super) struct Holder {
    pub(super) place: Place,
    pub(super) client: Client,
    /// Open while an answer may arrive.
    pub(super) channel: Option<Channel>,
    /// The plugin that waits for the lease.
    plugin: Option<u64>,
    /// Its time in `Keeper::wakes`.
    wake: Option<Time>,
}

impl Keeper<'_> {
    /// Does what a plugin asks for. No answer means that it has to wait.
    pub(super) fn call(&mut self, call: DaemonRequest, plugin: u64) -> Option<Answer> {
        match call {
            DaemonRequest::Acquire { key, netns, wishes } => {
                match self.acquire(&key, &netns, wishes, plugin) {
                    Ok(answer) => answer,
                    Err(failure) => Some(Error::from(failure).into()),
                }
            }
            DaemonRequest::Look { key } => {
                let holder = self.holders.get(&key).filter(|holder| holder.client.is_live(now()));
                let held = holder.and_then(|holder| holder.client.held());
                Some(held.map_or(Answer::Done, |held| Answer::Lease(held.lease.clone())))
            }
            DaemonRequest::Release { key } => {
                self.release(&[key], "DEL", Some(plugin));
                None
            }
            DaemonRequest::ReleaseOthers { network, valid } => {
                let is_over = |key: &&Key| key.network == network && !valid.contains(key);
                let over: Vec<Key> = self.holders.keys().filter(is_over).cloned().collect();
                self.release(&over, "GC", Some(plugin));
                None
            }
            DaemonRequest::Ping => Some(Answer::Done),
        }
    }

    /// Begins to look for a lease, unless the container has one already, as after an ADD whose caller was killed.
    fn acquire(
        &mut self,
        key: &Key,
        netns: &Path,
        wishes: Wishes,
        plugin: u64,
    ) -> Result<Option<Answer>> {
        let (place, link) = Place::find(self.settings.on_host(netns), &key.ifname)?;
        if let Some(holder) = self.holders.get(key) {
            match holder.client.held() {
                Some(held) if holder.place == place && holder.client.is_live(now()) => {
                    return Ok(Some(Answer::Lease(held.lease.clone())));
                }
                None if holder.place == place => {
                    return Err(Error::TryAgainLater(format!(
                        "an address for {key} is being asked for already"
                    ))
                    .into());
                }
                _ => self.release(slice::from_ref(key), "it is added anew", None),
            }
        }
        let mac = link.mac.ok_or_else(|| {
            Error::InvalidNetworkConfig(format!(
                "{} is no Ethernet interface, which DHCP needs",
                link.name
            ))
        })?;
        // What every host takes, and what fits into a packet.
        let largest = u16::try_from(link.mtu.saturating_sub(28).clamp(576, 1472)).unwrap_or(576);
        let identity = Identity {
            mac,
            largest,
            client_id: key.client_id(),
            wishes,
            broadcast: self.settings.broadcast,
        };
        let client = Client::new(identity, self.settings.patience(), random, now());
        log(format_args!("{key}: asking for an address"));
        self.holders.insert(key.clone(), Holder::new(place, client, Some(plugin)));
        if let Some(plugin) = self.plugins.get_mut(&plugin) {
            plugin.waits_for = Some(key.clone());
        }
        self.drive(key, None);
        Ok(None)
    }

    /// Reads what has arrived for a client.
    pub(super) fn receive(&mut self, key: &Key) {
        for _ in 0..TURN {
            let Some(channel) = self.holders.get(key).and_then(|holder| holder.channel.as_ref())
            else {
                return;
            };
            let message = match channel.receive(&mut self.buffer) {
                Ok(Some(bytes)) => Message::decode(bytes),
                Ok(None) => return,
                Err(failure) => {
                    // Such as that the interface was switched off. What is sent next opens another.
                    log(format_args!("{key}: {failure}"));
                    if let Some(holder) = self.holders.get_mut(key) {
                        holder.channel = None;
                    }
                    return;
                }
            };
            if let Some(message) = message {
                self.drive(key, Some(&message));
            }
        }
    }

    /// Has a client take a message, and do what it is time for.
    pub(super) fn drive(&mut self, key: &Key, mut message: Option<&Message>) {
        loop {
            let Some(holder) = self.holders.get_mut(key) else { return };
            let step = match message.take() {
                Some(message) => holder.client.receive(now(), message),
                None => holder.client.elapse(now()),
            };
            match step {
                Step::Wait => break,
                Step::Send(bytes, way) => match holder.send(&bytes, way) {
                    Ok(true) => {}
                    Ok(false) if holder.place.exists() => {
                        return self.forget(key, "the interface is gone");
                    }
                    Ok(false) => return self.forget(key, CONTAINER_GONE),
                    // It is sent again when nobody answers.
                    Err(failure) => log(format_args!("{key}: {failure}")),
                },
                Step::Bound => self.bound(key),
                Step::Failed(why) => return self.forget(key, &why),
                Step::Lost(why) => {
                    if let Err(failure) = holder.place.switch_off() {
                        log(format_args!("{key}: {failure}"));
                    }
                    return self.forget(key, &format!("{why}; the interface was switched off"));
                }
            }
        }
        if let Some(holder) = self.holders.get_mut(key)
            && !holder.client.is_listening()
        {
            holder.channel = None;
        }
        self.schedule(key);
    }

    /// Notes when a client wants to be called, and whether it may be answered.
    pub(super) fn schedule(&mut self, key: &Key) {
        let Some(holder) = self.holders.get_mut(key) else { return };
        let wake = holder.client.wake();
        if let Some(before) = std::mem::replace(&mut holder.wake, wake) {
            self.wakes.remove(&(before, key.clone()));
        }
        self.wakes.extend(wake.map(|wake| (wake, key.clone())));
        self.listening.retain(|other| other != key);
        if holder.channel.is_some() {
            self.listening.push(key.clone());
        }
    }

    /// Writes a lease down and tells the plugin that waits for it.
    fn bound(&mut self, key: &Key) {
        let Some(holder) = self.holders.get_mut(key) else { return };
        let Some(held) = holder.client.held() else { return };
        let time = held
            .terms
            .map_or("for ever".into(), |terms| format!("for {} s", terms.expire.as_secs()));
        log(format_args!("{key}: {} of {} {time}", held.lease.address, held.server));
        let lease = held.lease.clone();
        let saved = Kept::new(key, &holder.place, &holder.client, held)
            .and_then(|kept| self.store.save(&kept));
        let plugin = holder.plugin.take();
        match (saved, plugin) {
            (Ok(()), Some(plugin)) => {
                if !self.answer(plugin, &Answer::Lease(lease)) {
                    self.release(slice::from_ref(key), NOBODY_WAITS, None);
                }
            }
            (Err(error), Some(plugin)) => {
                self.release(slice::from_ref(key), "it cannot be written down", None);
                self.answer(plugin, &error.into());
            }
            (Ok(()), None) => {}
            // The last one on disk still has its address.
            (Err(error), None) => log(format_args!("{key}: {error}")),
        }
    }

    /// Forgets clients and gives their leases back. The plugin that asked for it is told when that is done.
    ///
    /// It takes a moment until a message is on its way, so a thread waits for that, and no other container does.
    pub(super) fn release(&mut self, keys: &[Key], why: &str, plugin: Option<u64>) {
        let mut releases = Vec::new();
        for key in keys {
            if let Some(holder) = self.holders.get(key) {
                releases.extend(
                    holder
                        .client
                        .release()
                        .map(|release| (key.clone(), holder.place.clone(), release)),
                );
                self.forget(key, &format!("released: {why}"));
            }
        }
        let plugin = plugin.and_then(|id| self.plugins.remove(&id));
        let work = move || {
            for (key, place, release) in releases {
                if let Err(failure) = place.release(&release) {
                    log(format_args!("{key}: {failure}"));
                }
            }
            if let Some(mut plugin) = plugin {
                plugin.answer(&Answer::Done);
            }
        };
        // Without a thread the connection ends, and its plugin tries again later.
        if let Err(error) = thread::Builder::new().name("release".into()).spawn(work) {
            log(format_args!("start a thread: {error}"));
        }
    }

    /// Forgets a client. A plugin that waits for it is told why.
    pub(super) fn forget(&mut self, key: &Key, why: &str) {
        let Some(holder) = self.holders.remove(key) else { return };
        self.listening.retain(|other| other != key);
        if let Some(wake) = holder.wake {
            self.wakes.remove(&(wake, key.clone()));
        }
        log(format_args!("{key}: {why}"));
        if let Err(error) = self.store.remove(key) {
            log(format_args!("{key}: {error}"));
        }
        if let Some(plugin) = holder.plugin {
            self.answer(plugin, &Error::TryAgainLater(format!("{}: {why}", key.ifname)).into());
        }
    }
}

impl Holder {
    pub(super) fn new(place: Place, client: Client, plugin: Option<u64>) -> Self {
        Self { place, client, channel: None, plugin, wake: None }
    }

    /// Sends a message on a socket of the right kind; false if the interface is gone.
    fn send(&mut self, message: &[u8], way: Way) -> Result<bool> {
        if !self.channel.as_ref().is_some_and(|channel| channel.is_for(way)) {
            self.channel = None;
            self.channel = Channel::open(&self.place, way)?;
        }
        match &self.channel {
            Some(channel) => channel.send(message, way).map(|()| true),
            None => Ok(false),
        }
    }
}
