//! Taps: links whose packets a program, such as a virtual machine monitor, reads from and writes to
//! a file. Created like `ip tuntap add mode tap`, since rtnetlink cannot create them.

use std::fs::File;

use crate::{
    Error, Netns, Result,
    kernel_interface::{attach_tun, make_tun_persistent, set_tun_group, set_tun_owner},
};

const DEVICE: &str = "/dev/net/tun";

const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// Fail if the interface exists.
const IFF_TUN_EXCL: u16 = 0x8000;

/// A tap to be created.
#[derive(Debug, Clone, Default)]
pub struct Tap {
    /// Name.
    pub name: String,
    /// Whether it can be opened several times, each with its own queue.
    pub multi_queue: bool,
    /// The user that may open it without privileges. Without owner and group, `CAP_NET_ADMIN` is
    /// needed.
    pub owner: Option<u32>,
    /// The group whose users may open it.
    pub group: Option<u32>,
}

impl Tap {
    /// Creates a tap with this name and default settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Creates a persistent tap in `netns`.
    ///
    /// # Errors
    ///
    /// [`Error::is_busy`] if an interface has the name, which is left alone;
    /// [`Error::is_not_found`] if the kernel does not support taps. Nothing is left behind.
    pub fn add_in(&self, netns: &Netns) -> Result<()> {
        netns.enter(|| {
            // The opener chooses the framing. Without the flag for virtio headers the tap would
            // look different.
            let tun = self.attach(IFF_VNET_HDR | IFF_TUN_EXCL, "create")?;
            // Until it is persistent, closing the file removes it.
            if let Some(owner) = self.owner {
                set_tun_owner(&tun, owner).map_err(|e| {
                    Error::io(format!("set the owner of tap {} to {owner}", self.name), e)
                })?;
            }
            if let Some(group) = self.group {
                set_tun_group(&tun, group).map_err(|e| {
                    Error::io(format!("set the group of tap {} to {group}", self.name), e)
                })?;
            }
            make_tun_persistent(&tun)
                .map_err(|e| Error::io(format!("make tap {} persistent", self.name), e))
        })?
    }

    /// Opens the tap in `netns`: a read returns a packet that the kernel sent, a write injects one.
    ///
    /// # Errors
    ///
    /// [`Error::is_busy`] if it is open already and not multi-queue.
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
