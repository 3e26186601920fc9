//! `reclaimAfterReboot`: releases the addresses that were reserved before the last boot.
//!
//! The clock cannot tell which those are, since it may be set. Instead the index carries the boot
//! in which it was sealed, and the first call of a boot finds that of an earlier one. If it is
//! still valid for the directory, all reservations are from before the boot. If not, a call that a
//! power loss interrupted or the Go plugin has changed the directory. Then a reservation is
//! released only if the index knows it with its holder and its file has not changed since the index
//! was sealed. All others stay until GC or the next boot. Without an index nothing is released.

use std::{net::IpAddr, os::fd::OwnedFd, path::Path};

use rscni::{Error, NetConf};
use rustix::fs::{AtFlags, statat};

use super::{
    config::reclaims_after_reboot,
    directory,
    index::{Index, Seal},
    reservation::{self, Reservation},
};

/// Releases reservations of an earlier boot if the configuration asks for it and this is the first
/// call of this boot. To be called before the store is opened, which rebuilds the index.
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
    // Another call may have been first.
    let Some((index, seal)) = Index::of_earlier_boot(data_dir, &conf.name) else { return Ok(()) };
    for Reservation { address, file } in earlier(&dir, &index, seal)? {
        if let Err(error) = reservation::remove(&dir, &file) {
            eprintln!("release {address}, reserved before the last boot: {error}");
        }
    }
    Ok(())
}

/// Returns what [`reclaim`] would release.
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
    let stat = statat(dir, &reservation.file, AtFlags::SYMLINK_NOFOLLOW);
    let Ok(Some(holder)) = reservation::holder(dir, &reservation.file) else { return false };
    stat.is_ok_and(|stat| seal.is_after(&stat)) && index.is_held_by(reservation.address, &holder)
}
