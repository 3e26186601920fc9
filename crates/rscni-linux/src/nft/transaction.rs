//! A transaction: changes that the kernel carries out together, or not at all.
//!
//! They go out in one `send` between a begin and an end message. When all succeed the kernel says so once,
//! because only the last one asks; when some fail it names every one that failed and does none.
//!
//! Deleting what may be absent (`destroy_...`) is a message of its own since Linux 6.3. It too fails when not
//! even the table is there, and older kernels do not know it. So a transaction in which only such deletions
//! found nothing is sent again without them: as nothing had been done, that is the same.

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

/// More rounds than that mean that someone else keeps changing the same things.
const ROUNDS: usize = 8;

/// Changes that are carried out together: made by [`Nft::transaction`], done by [`Transaction::commit`].
///
/// Dropped without a commit, none of them happens.
#[derive(Debug)]
#[must_use = "nothing happens until commit()"]
pub struct Transaction<'a> {
    nft: &'a mut Nft,
    operations: Vec<Operation>,
    /// The first change that could not be put into words for the kernel; `commit` reports it.
    failed: Option<Error>,
    /// Sets are numbered within a transaction, so that its rules can name them.
    pub(super) sets: u32,
}

#[derive(Debug)]
struct Operation {
    message: Message,
    /// What to send instead to a kernel that does not know `message`.
    older: Option<Message>,
    flags: u16,
    may_be_absent: bool,
    action: String,
}

/// What to do if the thing to be made is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Create {
    Idempotent,
    Exclusive,
}

/// What to do if the thing to be deleted is not there.
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
        attributes: &AttributeBuf,
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
        attributes: &AttributeBuf,
        action: String,
    ) -> &mut Self {
        self.operations.push(Operation {
            message: message(table.family, message_type, attributes),
            older: None,
            flags,
            may_be_absent: false,
            action,
        });
        self
    }

    /// `kinds` are the message types for what must be there and for what may be absent.
    pub(super) fn remove(
        &mut self,
        table: &Table,
        kinds: (u8, u8),
        remove: Remove,
        attributes: &AttributeBuf,
        action: String,
    ) -> &mut Self {
        let (delete, destroy) = kinds;
        match remove {
            Remove::Present => self.push(table, delete, 0, attributes, action),
            Remove::MayBeAbsent => {
                self.operations.push(Operation {
                    message: message(table.family, destroy, attributes),
                    older: Some(message(table.family, delete, attributes)),
                    flags: 0,
                    may_be_absent: true,
                    action,
                });
                self
            }
        }
    }

    /// Keeps the first error, for `commit` to report.
    pub(super) fn fail(&mut self, error: Error) -> &mut Self {
        self.failed.get_or_insert(error);
        self
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.failed.is_none()
    }

    /// Carries out all changes, or none.
    ///
    /// # Errors
    ///
    /// The first change that the kernel refused; or, before anything is sent, [`Error::Invalid`] for the first
    /// that cannot be, such as one with a comment that is too long.
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
                if operation.may_be_absent && refusal.errno == Errno::NOENT.raw_os_error() {
                    absent.push(*position);
                } else if operation.older.is_some()
                    && self.nft.destroy
                    && refusal.errno == Errno::INVAL.raw_os_error()
                {
                    unknown = true;
                } else {
                    return Err(refusal.clone().during(&operation.action));
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
            what: "an nftables transaction that no other change interrupts".to_owned(),
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
        // By position, each once: the kernel may start over and say the same again.
        let mut refusals: BTreeMap<usize, Refusal> = BTreeMap::new();
        let mut all = None;
        socket
            .send()
            .and_then(|()| {
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
            })
            .map_err(|error| Error::io(whole(), error))?;
        match all {
            Some(refusal) => Err(refusal.during(whole())),
            None if refusals.is_empty() => Ok(Outcome::Committed),
            None => Ok(Outcome::Refused(refusals)),
        }
    }
}

enum Outcome {
    Committed,
    /// What was refused, by its position in the transaction. Nothing was done.
    Refused(BTreeMap<usize, Refusal>),
}
