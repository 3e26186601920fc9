//! Taps: links whose packets a program reads from a file and writes to it, such as one that runs a virtual machine.
//! As `ip tuntap add mode tap` makes them: rtnetlink cannot.

use std::fs::File;

use crate::{
    Error, Netns, Result,
    kernel_interface::{attach_tun, own_tun, own_tun_by_group, persist_tun},
};

const DEVICE: &str = "/dev/net/tun";

const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// Fail if there is an interface of that name.
const IFF_TUN_EXCL: u16 = 0x8000;

/// A tap.
#[derive(Debug, Clone, Default)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// It can be opened several times, each a queue of its own.
    pub multi_queue: bool,
    /// The user who may open it without privileges. Without owner and group only those with `CAP_NET_ADMIN` may.
    pub owner: Option<u32>,
    /// The group whose users may open it.
    pub group: Option<u32>,
}

impl Tap {
    /// A tap with this name and nothing else asked for.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Makes the tap in `netns`. It is there until it is deleted, as other links are.
    ///
    /// # Errors
    ///
    /// [`Error::is_busy`] when the name is taken, which leaves the link that has it alone; [`Error::is_not_found`]
    /// when the kernel has no taps. Nothing is left then.
    pub fn add_in(&self, netns: &Netns) -> Result<()> {
        netns.enter(|| {
            // The one who opens it says how packets are framed. Not to have asked for the header of virtio would be seen.
            let tun = self.attach(IFF_VNET_HDR | IFF_TUN_EXCL, "create")?;
            // As long as it is not persistent it goes when the file is closed.
            if let Some(owner) = self.owner {
                own_tun(&tun, owner)
                    .map_err(|e| Error::io(format!("give tap {} to user {owner}", self.name), e))?;
            }
            if let Some(group) = self.group {
                own_tun_by_group(&tun, group).map_err(|e| {
                    Error::io(format!("give tap {} to group {group}", self.name), e)
                })?;
            }
            persist_tun(&tun)
                .map_err(|e| Error::io(format!("make tap {} persistent", self.name), e))
        })?
    }

    /// Opens the tap that is in `netns`: each read gives a packet that leaves by it, each write is one that arrives.
    ///
    /// # Errors
    ///
    /// [`Error::is_busy`] when somebody has it open, and it does not have several queues.
    pub fn open_in(&self, netns: &Netns) -> Result<File> {
        netns.enter(|| self.attach(0, "open"))?
    }

    fn attach(&self, flags: u16, verb: &str) -> Result<File> {
        let action = || format!("{verb} tap {}", self.name);
        let tun = File::options()
            .read(true)
            .write(true)
            .open(DEVICE)
            .map_err(|error| Error::io(format!("{}: open {DEVICE}", action()), error))?;
        let queues = if self.multi_queue { IFF_MULTI_QUEUE } else { 0 };
        attach_tun(&tun, &self.name, IFF_TAP | IFF_NO_PI | queues | flags)
            .map_err(|e| Error::io_with("CAP_NET_ADMIN", action(), e))?;
        Ok(tun)
    }
}
