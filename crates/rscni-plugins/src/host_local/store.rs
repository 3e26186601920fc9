//! The reservations of one network, on disk.
//!
//! The format is that of the Go plugin, so that both can work on the same directory, at the same time even:
//! `<dataDir>/<network>/` holds a file per address, named by the address, with the container id and the interface
//! name in it; `last_reserved_ip.<n>`, the address that range set `n` gave last; and `lock`, which whoever changes
//! anything holds by `flock`. Files of old releases have the container id alone.
//!
//! A reservation is written under another name first and linked to its own when it is complete, so that no one ever
//! sees half of one: a process that is killed leaves either all of a reservation or nothing of it.
//! Which addresses there are to reserve is the business of [`range`](super::range).

use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rscni::Error;
use rscni::name::check_network_name;
use rustix::fs::{Access, AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

const LOCK: &str = "lock";
/// A reservation that is being written. No address, so no one takes it for one.
const DRAFT: &str = ".reservation";

/// The directory of one network, locked as long as this lives.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    dir: OwnedFd,
    _lock: OwnedFd,
}

/// A file that reserves an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) address: IpAddr,
    /// The file's name, which may be another spelling of the address.
    file: String,
}

/// Who holds a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An interface of a container.
    Attachment { container_id: String, ifname: String },
    /// A container, all of its interfaces: what old releases wrote.
    Container(String),
}

impl Holder {
    /// Reads the content of a file.
    fn parse(content: &str) -> Self {
        let content = content.trim();
        match content.split_once("\r\n") {
            Some((id, ifname)) => Self::Attachment { container_id: id.into(), ifname: ifname.into() },
            None => Self::Container(content.into()),
        }
    }
}

/// What an attachment holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// In its own name.
    pub(crate) own: Vec<Reservation>,
    /// In the name of the container, without an interface.
    pub(crate) of_container: Vec<Reservation>,
}

impl Store {
    /// Opens and locks the directory of `network`, and makes it where there is none.
    ///
    /// # Errors
    /// [`Error::IOFailure`], or [`Error::InvalidNetworkConfig`] for a network name that is not one.
    pub(crate) fn create(data_dir: &Path, network: &str) -> Result<Self, Error> {
        let path = directory(data_dir, network)?;
        DirBuilder::new().recursive(true).mode(0o755).create(&path).map_err(|e| failure("make", &path, &e))?;
        Self::lock(path)
    }

    /// Opens and locks the directory of `network`, if there is one.
    ///
    /// # Errors
    /// [`Error::IOFailure`], or [`Error::InvalidNetworkConfig`] for a network name that is not one.
    pub(crate) fn open(data_dir: &Path, network: &str) -> Result<Option<Self>, Error> {
        let path = directory(data_dir, network)?;
        match path.metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Self::lock(path).map(Some),
        }
    }

    fn lock(path: PathBuf) -> Result<Self, Error> {
        let dir = open_directory(&path).map_err(|e| failure("open", &path, &e))?;
        // Go's flags and mode: read-only, since flock wants no more.
        let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&dir, LOCK, flags, Mode::from_raw_mode(0o750))
            .map_err(|e| failure("open", &path.join(LOCK), &e))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
            .map_err(|e| failure("lock", &path.join(LOCK), &e))?;
        Ok(Self { path, dir, _lock: lock })
    }

    /// Every reservation, in no order. Reads names only.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn reservations(&self) -> Result<Vec<Reservation>, Error> {
        list(&self.dir).map_err(|e| failure("read", &self.path, &e))
    }

    /// Who holds a reservation; none if it is gone, or is no file with text.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn holder(&self, reservation: &Reservation) -> Result<Option<Holder>, Error> {
        match self.read(&reservation.file) {
            Ok(content) => Ok(Some(Holder::parse(&content))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failure("read", &self.path.join(&reservation.file), &e)),
        }
    }

    /// Which of `reservations` an attachment holds. What cannot be read is not its.
    pub(crate) fn held_by<'a>(
        &self,
        container_id: &str,
        ifname: &str,
        reservations: impl IntoIterator<Item = &'a Reservation>,
    ) -> Held {
        let mut held = Held::default();
        for reservation in reservations {
            match self.holder(reservation) {
                Ok(Some(Holder::Attachment { container_id: id, ifname: name }))
                    if id == container_id && name == ifname =>
                {
                    held.own.push(reservation.clone());
                }
                Ok(Some(Holder::Container(id))) if id == container_id => held.of_container.push(reservation.clone()),
                _ => {}
            }
        }
        held
    }

    /// The address that range set `set` gave last, where that is known.
    pub(crate) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        let content = self.read(&last_reserved_file(set)).ok()?;
        content.trim().parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }

    /// Reserves an address for an attachment, as the last one of range set `set`. None if it is taken.
    ///
    /// # Errors
    /// [`Error::IOFailure`]; then it is not reserved.
    pub(crate) fn reserve(
        &self,
        address: IpAddr,
        container_id: &str,
        ifname: &str,
        set: usize,
    ) -> Result<Option<Reservation>, Error> {
        let reservation = Reservation { address, file: address.to_string() };
        let path = self.path.join(&reservation.file);
        let written = self
            .write_draft(&format!("{container_id}\r\n{ifname}"))
            .and_then(|()| Ok(rustix::fs::linkat(&self.dir, DRAFT, &self.dir, &reservation.file, AtFlags::empty())?));
        // A draft that stays is in no one's way, the next reservation replaces it.
        let _ = rustix::fs::unlinkat(&self.dir, DRAFT, AtFlags::empty());
        match written {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            Err(e) => return Err(failure("write", &path, &e)),
        }
        if let Err(e) = self.write_last_reserved(set, address) {
            let _ = self.release(&reservation);
            return Err(failure("write", &self.path.join(last_reserved_file(set)), &e));
        }
        Ok(Some(reservation))
    }

    /// Gives a reservation up; one that is gone already is fine.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn release(&self, reservation: &Reservation) -> Result<(), Error> {
        match rustix::fs::unlinkat(&self.dir, &reservation.file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(failure("remove", &self.path.join(&reservation.file), &e)),
        }
    }

    fn write_draft(&self, content: &str) -> std::io::Result<()> {
        // Never into an existing draft: that of a killed process may be linked to its address already.
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = match rustix::fs::openat(&self.dir, DRAFT, flags, mode) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&self.dir, DRAFT, AtFlags::empty())?;
                rustix::fs::openat(&self.dir, DRAFT, flags, mode)
            }
            opened => opened,
        }?;
        File::from(file).write_all(content.as_bytes())
    }

    fn write_last_reserved(&self, set: usize, address: IpAddr) -> std::io::Result<()> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, last_reserved_file(set), flags, Mode::from_raw_mode(0o600))?;
        File::from(file).write_all(address.to_string().as_bytes())
    }

    fn read(&self, file: &str) -> std::io::Result<String> {
        // Nothing but a regular file is ours; a pipe must not make us wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut content = Vec::new();
        File::from(rustix::fs::openat(&self.dir, file, flags, Mode::empty())?).read_to_end(&mut content)?;
        Ok(String::from_utf8_lossy(&content).into_owned())
    }
}

/// The addresses that are reserved, where nothing is to be changed or made: without the lock.
///
/// # Errors
/// [`Error::IOFailure`] if the directory, or the one that it would be made in, cannot be used.
pub(crate) fn peek(data_dir: &Path, network: &str) -> Result<Vec<IpAddr>, Error> {
    let path = directory(data_dir, network)?;
    let exists = |path: &&Path| path.as_os_str().is_empty() || path.symlink_metadata().is_ok();
    let nearest = path.ancestors().find(exists).unwrap_or(&path);
    let nearest = if nearest.as_os_str().is_empty() { Path::new(".") } else { nearest };
    let dir = open_directory(nearest).map_err(|e| failure("open", nearest, &e))?;
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(rustix::fs::CWD, nearest, access, AtFlags::EACCESS)
        .map_err(|e| failure("write into", nearest, &e))?;
    if nearest != path {
        return Ok(Vec::new());
    }
    let reservations = list(&dir).map_err(|e| failure("read", &path, &e))?;
    Ok(reservations.into_iter().map(|reservation| reservation.address).collect())
}

/// The directory of `network`. No path is made from a name that may lead elsewhere.
fn directory(data_dir: &Path, network: &str) -> Result<PathBuf, Error> {
    check_network_name(network)?;
    Ok(data_dir.join(network))
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn list(dir: &OwnedFd) -> Result<Vec<Reservation>, Errno> {
    let mut reservations = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let address = entry.file_name().to_str().ok().and_then(|name| Some((name, name.parse::<IpAddr>().ok()?)));
        if let Some((name, address)) = address {
            reservations.push(Reservation { address: address.to_canonical(), file: name.into() });
        }
    }
    Ok(reservations)
}

fn last_reserved_file(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}

fn failure(verb: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::IOFailure(format!("{verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rstest::{fixture, rstest};
    use tempfile::TempDir;

    use super::*;

    #[fixture]
    fn data_dir() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addresses(reservations: &[Reservation]) -> Vec<String> {
        let mut addresses: Vec<_> = reservations.iter().map(|r| r.address.to_string()).collect();
        addresses.sort();
        addresses
    }

    #[rstest]
    fn a_reservation_is_the_file_that_go_writes(data_dir: TempDir) {
        let store = Store::create(&data_dir.path().join("a/b"), "net").unwrap();
        store.reserve(ip("10.0.0.2"), "id", "eth0", 0).unwrap().unwrap();
        store.reserve(ip("fd00:0:0::2"), "id", "eth0", 1).unwrap().unwrap();
        let dir = data_dir.path().join("a/b/net");
        let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["10.0.0.2", "fd00::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
        assert_eq!(fs::read_to_string(dir.join("10.0.0.2")).unwrap(), "id\r\neth0");
        assert_eq!(fs::read_to_string(dir.join("last_reserved_ip.1")).unwrap(), "fd00::2");
        let mode = |file: &str| fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("10.0.0.2"), mode("last_reserved_ip.0"), mode("") & 0o700), (0o600, 0o600, 0o700));
    }

    #[rstest]
    fn a_taken_address_is_not_reserved_again(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        store.reserve(ip("10.0.0.2"), "first", "eth0", 0).unwrap().unwrap();
        assert_eq!(store.reserve(ip("10.0.0.2"), "second", "eth0", 0).unwrap(), None);
        assert_eq!(fs::read_to_string(data_dir.path().join("net/10.0.0.2")).unwrap(), "first\r\neth0");
    }

    #[rstest]
    fn the_draft_of_a_killed_process_harms_no_reservation(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        store.reserve(ip("10.0.0.2"), "first", "eth0", 0).unwrap().unwrap();
        let file = |name: &str| data_dir.path().join("net").join(name);
        fs::hard_link(file("10.0.0.2"), file(DRAFT)).unwrap();
        assert_eq!(addresses(&store.reservations().unwrap()), ["10.0.0.2"]);
        store.reserve(ip("10.0.0.3"), "second", "eth0", 0).unwrap().unwrap();
        assert_eq!(fs::read_to_string(file("10.0.0.2")).unwrap(), "first\r\neth0");
        assert!(!file(DRAFT).exists());
    }

    #[rstest]
    fn an_address_whose_mark_cannot_be_written_is_not_reserved(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        fs::create_dir(data_dir.path().join("net/last_reserved_ip.0")).unwrap();
        let error = store.reserve(ip("10.0.0.2"), "id", "eth0", 0).unwrap_err();
        assert!(error.code() == 5 && error.details().contains("last_reserved_ip.0"), "{error}");
        assert!(store.reservations().unwrap().is_empty());
    }

    #[rstest]
    #[case("id\r\neth0", 1, 0)]
    #[case(" id\r\neth0\n", 1, 0)]
    #[case("id", 0, 1)]
    #[case("id\n", 0, 1)]
    #[case("id\r\neth1", 0, 0)]
    #[case("id2\r\neth0", 0, 0)]
    #[case("", 0, 0)]
    fn the_holder_is_read_as_go_reads_it(
        data_dir: TempDir,
        #[case] content: &str,
        #[case] own: usize,
        #[case] of_container: usize,
    ) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        fs::write(data_dir.path().join("net/10.0.0.2"), content).unwrap();
        let held = store.held_by("id", "eth0", &store.reservations().unwrap());
        assert_eq!((held.own.len(), held.of_container.len()), (own, of_container));
    }

    #[rstest]
    fn only_names_that_are_addresses_are_reservations(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        for file in ["10.0.0.2", "fd00::2", "FD00:0::3", "10.0.0.300", "last_reserved_ip.0", ".10.0.0.4", "x"] {
            fs::write(data_dir.path().join("net").join(file), "id\r\neth0").unwrap();
        }
        let reservations = store.reservations().unwrap();
        assert_eq!(addresses(&reservations), ["10.0.0.2", "fd00::2", "fd00::3"]);
        for reservation in &reservations {
            store.release(reservation).unwrap();
            store.release(reservation).unwrap();
        }
        assert!(store.reservations().unwrap().is_empty());
        assert!(data_dir.path().join("net/x").exists());
    }

    #[rstest]
    fn a_pipe_or_a_directory_in_place_of_a_file_is_no_ones_but_taken(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        fs::create_dir(data_dir.path().join("net/10.0.0.2")).unwrap();
        rustix::fs::mknodat(
            &store.dir,
            "10.0.0.3",
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            rustix::fs::makedev(0, 0),
        )
        .unwrap();
        let reservations = store.reservations().unwrap();
        assert_eq!(addresses(&reservations), ["10.0.0.2", "10.0.0.3"]);
        assert!(store.held_by("id", "eth0", &reservations).own.is_empty());
        assert_eq!(store.reserve(ip("10.0.0.3"), "id", "eth0", 0).unwrap(), None);
    }

    #[rstest]
    fn the_last_reserved_address_is_known_to_the_next_call(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        assert_eq!(store.last_reserved(0), None);
        store.reserve(ip("10.0.0.2"), "id", "eth0", 0).unwrap();
        drop(store);
        let store = Store::open(data_dir.path(), "net").unwrap().unwrap();
        assert_eq!((store.last_reserved(0), store.last_reserved(1)), (Some(ip("10.0.0.2")), None));
        fs::write(data_dir.path().join("net/last_reserved_ip.0"), "10.0.").unwrap();
        assert_eq!(store.last_reserved(0), None);
    }

    #[rstest]
    fn looking_makes_nothing(data_dir: TempDir) {
        assert!(Store::open(data_dir.path(), "net").unwrap().is_none());
        assert!(peek(&data_dir.path().join("a/b"), "net").unwrap().is_empty());
        assert_eq!(fs::read_dir(data_dir.path()).unwrap().count(), 0);
    }

    #[rstest]
    fn a_file_in_place_of_the_directory_is_an_error_that_names_it(data_dir: TempDir) {
        fs::write(data_dir.path().join("net"), "").unwrap();
        for error in [
            Store::create(data_dir.path(), "net").unwrap_err(),
            Store::open(data_dir.path(), "net").unwrap_err(),
            peek(data_dir.path(), "net").unwrap_err(),
        ] {
            let names_it = error.details().contains(&data_dir.path().join("net").display().to_string());
            assert!(error.code() == 5 && names_it, "{error}");
        }
    }

    #[rstest]
    #[case("..")]
    #[case("a/b")]
    #[case("")]
    fn no_path_is_made_from_a_name_that_leads_elsewhere(data_dir: TempDir, #[case] name: &str) {
        assert_eq!(Store::create(data_dir.path(), name).unwrap_err().code(), 7);
        assert_eq!(Store::open(data_dir.path(), name).unwrap_err().code(), 7);
        assert_eq!(peek(data_dir.path(), name).unwrap_err().code(), 7);
    }
}
