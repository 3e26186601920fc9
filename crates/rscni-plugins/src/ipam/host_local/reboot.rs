//! `reclaimAfterReboot`: frees what was reserved before the machine was booted. No container lives that long.
//!
//! No clock decides which that is, since clocks are set, and no file is kept for it: the index carries the boot that it
//! was written in. The first call of a boot finds that of an earlier one. If it still describes the directory, nobody
//! has changed that since, so all of it is of before. If it does not, somebody has: a call that a power loss cut off, the
//! Go plugin, then or now. Then a reservation is of before if the index has it, with its holder, and its file was not
//! touched after the index was sealed. All others stay, until GC or the next boot. Without an index, as after an upgrade,
//! nothing is freed.

use std::{net::IpAddr, os::fd::OwnedFd, path::Path};

use rscni::{Error, NetConf};
use rustix::fs::AtFlags;

use super::{
    config::reclaims_after_reboot,
    directory,
    index::{Index, Seal},
    remains,
    reservation::Reservation,
};

/// Frees the reservations of an earlier boot, if the configuration says so and no call of this boot has done it. It
/// has to be asked before the store is opened, since that makes the index anew.
///
/// # Errors
/// [`Error::IOFailure`] if the directory cannot be locked or read.
pub(super) fn reclaim(conf: &NetConf, data_dir: &Path) -> Result<(), Error> {
    if !reclaims_after_reboot(conf) || Index::of_earlier_boot(data_dir, &conf.name).is_none() {
        return Ok(());
    }
    let path = directory::path(data_dir, &conf.name)?;
    if !path.exists() {
        return Ok(());
    }
    let (dir, _lock) = directory::open_locked(&path)?;
    // Another call may have had the lock before.
    let Some((index, seal)) = Index::of_earlier_boot(data_dir, &conf.name) else { return Ok(()) };
    for reservation in earlier(&dir, &index, seal)? {
        // What cannot be removed stays taken, and is in nobody's way.
        if let Err(error) = remains::remove(&dir, &reservation.file) {
            eprintln!("free {}, reserved before the last boot: {error}", reservation.address);
        }
    }
    Ok(())
}

/// What [`reclaim`] would free now.
///
/// # Errors
/// [`Error::IOFailure`] if the directory cannot be read.
pub(super) fn would_reclaim(conf: &NetConf, data_dir: &Path) -> Result<Vec<IpAddr>, Error> {
    if !reclaims_after_reboot(conf) {
        return Ok(Vec::new());
    }
    let Some((index, seal)) = Index::of_earlier_boot(data_dir, &conf.name) else {
        return Ok(Vec::new());
    };
    let Ok(dir) = directory::open(&directory::path(data_dir, &conf.name)?) else {
        return Ok(Vec::new());
    };
    Ok(earlier(&dir, &index, seal)?.into_iter().map(|reservation| reservation.address).collect())
}

fn earlier(dir: &OwnedFd, index: &Index, seal: Seal) -> Result<Vec<Reservation>, Error> {
    let mut all =
        directory::list(dir).map_err(|e| Error::IOFailure(format!("list reservations: {e}")))?;
    if !seal.is_of(dir) {
        all.retain(|reservation| is_earlier(dir, index, seal, reservation));
    }
    Ok(all)
}

fn is_earlier(dir: &OwnedFd, index: &Index, seal: Seal, reservation: &Reservation) -> bool {
    let untouched = rustix::fs::statat(dir, &reservation.file, AtFlags::SYMLINK_NOFOLLOW);
    let Ok(Some(holder)) = remains::read_holder(dir, &reservation.file) else { return false };
    untouched.is_ok_and(|stat| seal.is_after(&stat))
        && index
            .find(&holder.content())
            .is_ok_and(|addresses| addresses.contains(&reservation.address))
}
