//! Transactions: changes that are carried out together, or not at all.
//!
//! All changes are sent at once, between a begin and an end message. Only the last one requests an
//! acknowledgement, so success is one answer. If some fail, the kernel reports each of them and
//! changes nothing.
//!
//! Deleting an object that may be absent (`destroy_...`) is a separate message since Linux 6.3,
//! which still fails if the table does not exist. If only such deletions fail, because their object
//! or their message type is unknown, the transaction is sent again without them or with the older
//! message: nothing has been changed.

use std::{collections::BTreeMap, ops::ControlFlow};

use rustix::io::Errno;

use super::{
    Nft, Table,
    message::{batch_begin, batch_end, message},
};
use crate::{
    Error, Result,
    netlink::{Answer, AttributeBuf, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Refusal},
};

/// More rounds mean that other programs keep changing the same objects.
const ROUNDS: usize = 8;

/// A set of changes from [`Nft::transaction`], carried out by [`Transaction::commit`].
///
/// Dropping it without a commit changes nothing.
#[derive(Debug)]
#[must_use = "nothing happens until commit()"]
pub struct Transaction<'a> {
    nft: &'a mut Nft,
    operations: Vec<Operation>,
    /// The first change that could not be encoded; reported by `commit`.
    failed: Option<Error>,
    /// Numbers the sets of the transaction, so that rules can refer to them.
    pub(super) sets: u32,
}

#[derive(Debug)]
struct Operation {
    message: Message,
    /// The message for kernels that do not support `message`.
    older: Option<Message>,
    flags: u16,
    action: String,
}

/// Whether an existing object is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Create {
    Idempotent,
    Exclusive,
}

/// Whether an absent object is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remove {
    Present,
    MayBeAbsent,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(nft: &'a mut Nft) -> Self {
        Self { nft, operations: Vec::new(), failed: None, sets: 0 }
    }

    pub(super) fn create(
        &mut self,
        table: &Table,
        message_type: u8,
        create: Create,
        attributes: Result<AttributeBuf>,
        action: String,
    ) -> &mut Self {
        let flags = match create {
            Create::Idempotent => NLM_F_CREATE,
            Create::Exclusive => NLM_F_CREATE | NLM_F_EXCL,
        };
        self.push(table, message_type, flags, attributes, action)
    }

    pub(super) fn push(
        &mut self,
        table: &Table,
        message_type: u8,
        flags: u16,
        attributes: Result<AttributeBuf>,
        action: String,
    ) -> &mut Self {
        self.operation(flags, action, attributes, |attributes| {
            (message(table.family, message_type, attributes), None)
        })
    }

    /// `kinds` are the delete and destroy messages.
    pub(super) fn remove(
        &mut self,
        table: &Table,
        kinds: (u8, u8),
        remove: Remove,
        attributes: Result<AttributeBuf>,
        action: String,
    ) -> &mut Self {
        self.operation(0, action, attributes, |attributes| {
            let [delete, destroy] =
                <[u8; 2]>::from(kinds).map(|kind| message(table.family, kind, attributes));
            match remove {
                Remove::Present => (delete, None),
                Remove::MayBeAbsent => (destroy, Some(delete)),
            }
        })
    }

    /// Adds a change, or records the first error.
    fn operation(
        &mut self,
        flags: u16,
        action: String,
        attributes: Result<AttributeBuf>,
        messages: impl FnOnce(&AttributeBuf) -> (Message, Option<Message>),
    ) -> &mut Self {
        match attributes {
            Ok(attributes) => {
                let (message, older) = messages(&attributes);
                self.operations.push(Operation { message, older, flags, action });
            }
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
        self
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.failed.is_none()
    }

    /// Carries out all changes or none.
    ///
    /// # Errors
    ///
    /// The first change that the kernel refused. [`Error::Invalid`], before anything is sent, for a
    /// change that cannot be encoded, such as a comment that is too long.
    pub fn commit(mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        for _ in 0..ROUNDS {
            if self.operations.is_empty() {
                return Ok(());
            }
            let refusals = match self.send()? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(refusals) => refusals,
            };
            let mut absent = Vec::new();
            let mut unknown = false;
            for (position, refusal) in &refusals {
                let operation = &self.operations[*position];
                if operation.older.is_some() && refusal.errno == Errno::NOENT.raw_os_error() {
                    absent.push(*position);
                } else if operation.older.is_some()
                    && self.nft.destroy
                    && refusal.errno == Errno::INVAL.raw_os_error()
                {
                    unknown = true;
                } else {
                    return Err(refusal.clone().into_error(&operation.action));
                }
            }
            if unknown {
                self.nft.destroy = false;
            }
            let mut position = 0;
            self.operations.retain(|_| {
                position += 1;
                !absent.contains(&(position - 1))
            });
        }
        Err(Error::Timeout {
            what: "nftables transaction (interrupted by other changes)".to_owned(),
        })
    }

    fn send(&mut self) -> Result<Outcome> {
        let socket = &mut self.nft.socket;
        let whole = || match &self.operations[..] {
            [only] => only.action.clone(),
            [first, rest @ ..] => format!("{} and {} other changes", first.action, rest.len()),
            [] => String::new(),
        };
        let begin = socket.queue(0, &batch_begin());
        let mut last = begin;
        for (position, operation) in self.operations.iter().enumerate() {
            let ack = if position + 1 == self.operations.len() { NLM_F_ACK } else { 0 };
            let message = match &operation.older {
                Some(older) if !self.nft.destroy => older,
                _ => &operation.message,
            };
            last = socket.queue(operation.flags | ack, message);
        }
        let end = socket.queue(0, &batch_end());
        // By position: the kernel may restart the transaction and report again.
        let mut refusals: BTreeMap<usize, Refusal> = BTreeMap::new();
        let mut all = None;
        let outcome = socket.send().and_then(|()| {
            socket.receive(begin, end, |sequence, _, answer| {
                let refusal = match answer {
                    Answer::Refused(refusal) => Some(refusal),
                    Answer::Ack if sequence == last => None,
                    _ => return ControlFlow::Continue(()),
                };
                let done = sequence == begin || sequence == end || sequence == last;
                if let Some(refusal) = refusal {
                    if (begin + 1..=last).contains(&sequence) {
                        let position = (sequence - begin - 1) as usize;
                        refusals.entry(position).or_insert(refusal);
                    } else {
                        all.get_or_insert(refusal);
                    }
                }
                if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        match (all, outcome) {
            (Some(refusal), _) => Err(refusal.into_error(whole())),
            // The kernel drops answers if there are too many refusals.
            _ if !refusals.is_empty() => Ok(Outcome::Refused(refusals)),
            (None, Err(error)) => Err(Error::io(whole(), error)),
            (None, Ok(())) => Ok(Outcome::Committed),
        }
    }
}

enum Outcome {
    Committed,
    /// Refusals by position. Nothing was changed.
    Refused(BTreeMap<usize, Refusal>),
}
