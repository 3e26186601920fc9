//! The reservations of one network on disk.
//!
//! The Go plugin can use the same directory at the same time: `<dataDir>/<network>/` contains a
//! file per address, named after it, with container ID and interface name; `last_reserved_ip.<n>`
//! with the last address of range set `n`; and `lock`, which every change holds by `flock`. Files
//! of old releases contain the container ID alone.
//!
//! A reservation is written as a draft and then renamed, so it is either complete or absent. The Go
//! plugin creates the file before it writes it, and a power loss can truncate a file. Such an
//! incomplete reservation names no holder, so under the lock its address is free.
//!
//! The directory is authoritative; the [`Index`] avoids reading all of it in each call.

use std::{
    cell::RefCell,
    fs::File,
    io::{ErrorKind, Write},
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rscni::Error;
use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, openat, unlinkat},
    io::Errno,
};

use super::{
    directory::{self, failure},
    index::Index,
    range::Interval,
    reservation::{self, Held, Holder, Reservation, is_incomplete, read, remove},
};
use crate::{
    plugin::{self, best_effort},
    state::{OwnedBy, Resources},
};

/// Name of a reservation that is being written. It is not an address.
const DRAFT: &str = ".reservation";

/// The directory of one network, locked until this is dropped.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    dir: OwnedFd,
    _lock: OwnedFd,
    index: RefCell<Index>,
}

impl Store {
    /// Opens and locks the directory of `network`, and creates it if it is missing.
    ///
    /// # Errors
    /// [`Error::IOFailure`], or [`Error::InvalidNetworkConfig`] for an invalid network name.
    pub(crate) fn create(data_dir: &Path, network: &str) -> Result<Self, Error> {
        if let Some(store) = Self::open(data_dir, network)? {
            return Ok(store);
        }
        let path = directory::path(data_dir, network)?;
        rscni_linux::make_directory(&path, 0o755).map_err(|e| failure("create", &path, &e))?;
        let dir = directory::open(&path).map_err(|e| failure("open", &path, &e))?;
        Self::lock(data_dir, path, dir, network)
    }

    /// Opens and locks the directory of `network` if it exists.
    ///
    /// # Errors
    /// [`Error::IOFailure`], or [`Error::InvalidNetworkConfig`] for an invalid network name.
    pub(crate) fn open(data_dir: &Path, network: &str) -> Result<Option<Self>, Error> {
        let path = directory::path(data_dir, network)?;
        match directory::open(&path) {
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(failure("open", &path, &e)),
            Ok(dir) => Self::lock(data_dir, path, dir, network).map(Some),
        }
    }

    fn lock(data_dir: &Path, path: PathBuf, dir: OwnedFd, network: &str) -> Result<Self, Error> {
        let lock = directory::lock(&dir, &path)?;
        // Without a file the index serves this call only.
        let (index, is_valid) = Index::open(data_dir, network, &dir).unwrap_or_default();
        let store = Self { path, dir, _lock: lock, index: index.into() };
        if !is_valid {
            store.rebuild_index()?;
        }
        Ok(store)
    }

    /// Rebuilds the index from the directory, and removes the draft of a killed process: such a
    /// process left the index invalid.
    fn rebuild_index(&self) -> Result<(), Error> {
        let _ = unlinkat(&self.dir, DRAFT, AtFlags::empty());
        let all = self.reservations()?;
        let mut index = self.index.borrow_mut();
        if all.iter().any(|reservation| reservation.file != reservation.address.to_string()) {
            // Only the directory has unusual spellings.
            index.keep_in_memory();
        }
        index.clear();
        for Reservation { address, file } in all {
            match reservation::holder(&self.dir, &file) {
                Ok(None) => {}
                Ok(Some(holder)) => index.insert(address, Some(&holder)),
                Err(_) => index.insert(address, None),
            }
        }
        Ok(())
    }

    /// Lists all reservations by their file names, unordered.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn reservations(&self) -> Result<Vec<Reservation>, Error> {
        directory::list(&self.dir).map_err(|e| failure("read", &self.path, &e))
    }

    /// Returns the holder of a reservation, or `None` if it is removed or incomplete.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn holder(&self, reservation: &Reservation) -> Result<Option<Holder>, Error> {
        reservation::holder(&self.dir, &reservation.file)
            .map_err(|e| failure("read", &self.path.join(&reservation.file), &e))
    }

    /// Returns the reservations of an attachment.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if a reservation that the index has for the attachment is not readable.
    pub(crate) fn held_by(&self, container_id: &str, ifname: &str) -> Result<Held, Error> {
        let own = Holder::attachment(container_id, ifname);
        let of_container = Holder::Container(container_id.into());
        let indexed = self.index.borrow().find([&own, &of_container]);
        let is_indexed = indexed.is_some();
        let candidates = match indexed {
            Some(found) => found.into_iter().map(Reservation::of).collect(),
            None => self.reservations()?,
        };
        let mut held = Held::default();
        for reservation in candidates {
            match self.holder(&reservation) {
                Ok(Some(holder)) if holder == own => held.own.push(reservation),
                Ok(Some(holder)) if holder == of_container => held.of_container.push(reservation),
                Err(error) if is_indexed => return Err(error),
                _ => {}
            }
        }
        Ok(held)
    }

    /// Returns the first free address of an interval, by its number. [`Store::reserve`] has the
    /// final say.
    pub(crate) fn first_free(&self, Interval { v4, first, last }: Interval) -> Option<u128> {
        self.index.borrow().first_free(v4, first..=last)
    }

    /// Replaces a saved index, which shows no free address, by the names in the directory. Returns
    /// `false` if the index is from the directory already.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn distrust_index(&self) -> Result<bool, Error> {
        let mut index = self.index.borrow_mut();
        if !index.is_saved() {
            return Ok(false);
        }
        index.keep_in_memory();
        index.clear();
        for reservation in self.reservations()? {
            index.insert(reservation.address, None);
        }
        Ok(true)
    }

    /// Returns the last address that range set `set` has allocated, if it is known.
    pub(crate) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        let content = read(&self.dir, &last_reserved_file(set)).ok()?;
        let address = std::str::from_utf8(&content).ok()?.trim().parse::<IpAddr>().ok()?;
        Some(address.to_canonical())
    }

    /// Reserves an address for an attachment, and records it as the last one of range set `set`.
    /// Replaces an incomplete reservation. Returns `None` if the address is taken.
    ///
    /// # Errors
    /// [`Error::IOFailure`]; the address is then not reserved.
    pub(crate) fn reserve(
        &self,
        address: IpAddr,
        container_id: &str,
        ifname: &str,
        set: impl Into<Option<usize>>,
    ) -> Result<Option<Reservation>, Error> {
        let reservation = Reservation::of(address);
        let path = self.path.join(&reservation.file);
        let holder = Holder::attachment(container_id, ifname);
        let written =
            self.write_draft(&holder.content()).and_then(|()| match self.publish(&reservation) {
                Err(Errno::EXIST) if is_incomplete(&self.dir, &reservation) => {
                    // If it cannot be removed, the address is taken.
                    let _ = remove(&self.dir, &reservation.file);
                    Ok(self.publish(&reservation)?)
                }
                published => Ok(published?),
            });
        if let Err(error) = written {
            self.remove_draft();
            return match error.kind() {
                ErrorKind::AlreadyExists => Ok(None),
                _ => Err(failure("write", &path, &error)),
            };
        }
        if let Some(set) = set.into()
            && let Err(e) = self.write_last_reserved(set, address)
        {
            let _ = self.release(&reservation);
            return Err(failure("write", &self.path.join(last_reserved_file(set)), &e));
        }
        self.index.borrow_mut().insert(address, Some(&holder));
        Ok(Some(reservation))
    }

    /// Removes a reservation. One that is removed already is not an error.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn release(&self, reservation: &Reservation) -> Result<(), Error> {
        remove(&self.dir, &reservation.file)
            .map_err(|e| failure("remove", &self.path.join(&reservation.file), &e))?;
        self.index.borrow_mut().remove(reservation.address);
        Ok(())
    }

    /// Renames the draft to its address unless that file exists.
    fn publish(&self, reservation: &Reservation) -> Result<(), Errno> {
        let (dir, file) = (&self.dir, &reservation.file);
        match rustix::fs::renameat_with(dir, DRAFT, dir, file, RenameFlags::NOREPLACE) {
            // Not supported by this file system, such as NFS.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(dir, DRAFT, dir, file, AtFlags::empty())?;
                self.remove_draft();
                Ok(())
            }
            renamed => renamed,
        }
    }

    /// Removes the draft. If that fails, the next call does it with its rebuild of the index.
    fn remove_draft(&self) {
        if !matches!(unlinkat(&self.dir, DRAFT, AtFlags::empty()), Ok(()) | Err(Errno::NOENT)) {
            self.index.borrow_mut().keep_in_memory();
        }
    }

    fn write_draft(&self, content: &str) -> std::io::Result<()> {
        // An existing draft of a killed process may be linked to its address already.
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let create = || openat(&self.dir, DRAFT, flags, Mode::from_raw_mode(0o600));
        let file = match create() {
            Err(Errno::EXIST) => {
                unlinkat(&self.dir, DRAFT, AtFlags::empty())?;
                create()
            }
            created => created,
        }?;
        File::from(file).write_all(content.as_bytes())
    }

    fn write_last_reserved(&self, set: usize, address: IpAddr) -> std::io::Result<()> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let name = last_reserved_file(set);
        let file = openat(&self.dir, name, flags, Mode::from_raw_mode(0o600))?;
        File::from(file).write_all(address.to_string().as_bytes())
    }
}

impl Resources for Store {
    type Resource = Reservation;

    fn list(&mut self) -> plugin::Result<Vec<(OwnedBy, Reservation)>> {
        let mut all = directory::owned(&self.dir, &self.path)?;
        for (by, reservation) in &mut all {
            if let OwnedBy::Unreadable { why, .. } = by {
                *why = format!("read {}: {why}", self.path.join(&reservation.file).display());
            }
        }
        Ok(all)
    }

    fn remove(self, reservations: Vec<Reservation>) -> plugin::Result<()> {
        best_effort(reservations.iter().map(|reservation| self.release(reservation)))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // An index without a seal is rebuilt by the next call.
        let _ = self.index.borrow().seal(&self.dir);
    }
}

fn last_reserved_file(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use rstest::{fixture, rstest};
    use rustix::fs::CWD;
    use tempfile::TempDir;

    use super::{
        super::range::{RangeSet, number},
        *,
    };

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

    fn make_pipe(path: &Path) {
        let (kind, mode) = (rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR);
        rustix::fs::mknodat(CWD, path, kind, mode, 0).unwrap();
    }

    #[rstest]
    fn reservations_have_the_format_of_the_go_plugin(data_dir: TempDir) {
        let store = Store::create(&data_dir.path().join("a/b"), "net").unwrap();
        store.reserve(ip("10.0.0.2"), "id", "eth0", 0).unwrap().unwrap();
        store.reserve(ip("fd00:0:0::2"), "id", "eth0", 1).unwrap().unwrap();
        let dir = data_dir.path().join("a/b/net");
        let mut files: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(
            files,
            ["10.0.0.2", "fd00::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]
        );
        assert_eq!(fs::read_to_string(dir.join("10.0.0.2")).unwrap(), "id\r\neth0");
        assert_eq!(fs::read_to_string(dir.join("last_reserved_ip.1")).unwrap(), "fd00::2");
        let mode = |file: &str| fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("10.0.0.2"), mode("last_reserved_ip.0"), mode("") & 0o700),
            (0o600, 0o600, 0o700)
        );
    }

    #[rstest]
    fn a_taken_address_is_not_reserved(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        store.reserve(ip("10.0.0.2"), "first", "eth0", 0).unwrap().unwrap();
        assert_eq!(store.reserve(ip("10.0.0.2"), "second", "eth0", 0).unwrap(), None);
        assert_eq!(
            fs::read_to_string(data_dir.path().join("net/10.0.0.2")).unwrap(),
            "first\r\neth0"
        );
    }

    #[rstest]
    fn the_draft_of_a_killed_process_is_replaced(data_dir: TempDir) {
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
    #[case("id\r\neth0", 1, 0)]
    #[case(" id\r\neth0\n", 1, 0)]
    #[case("id", 0, 1)]
    #[case("id\n", 0, 1)]
    #[case("id\r\neth1", 0, 0)]
    #[case("id2\r\neth0", 0, 0)]
    #[case("", 0, 0)]
    #[case("id\r\n", 0, 0)]
    #[case("id\0\0", 0, 0)]
    fn holders_are_parsed_like_in_the_go_plugin(
        data_dir: TempDir,
        #[case] content: &str,
        #[case] own: usize,
        #[case] of_container: usize,
    ) {
        fs::create_dir(data_dir.path().join("net")).unwrap();
        fs::write(data_dir.path().join("net/10.0.0.2"), content).unwrap();
        let store = Store::create(data_dir.path(), "net").unwrap();
        let held = store.held_by("id", "eth0").unwrap();
        assert_eq!((held.own.len(), held.of_container.len()), (own, of_container));
    }

    #[rstest]
    fn only_files_named_by_addresses_are_reservations(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        for file in [
            "10.0.0.2",
            "fd00::2",
            "FD00:0::3",
            "10.0.0.300",
            "last_reserved_ip.0",
            ".10.0.0.4",
            "x",
        ] {
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
    #[case("lock", true)]
    #[case("last_reserved_ip.0", false)]
    fn a_pipe_in_place_of_a_file_does_not_block(
        data_dir: TempDir,
        #[case] file: &str,
        #[case] is_harmless: bool,
    ) {
        fs::create_dir(data_dir.path().join("net")).unwrap();
        make_pipe(&data_dir.path().join("net").join(file));
        let store = Store::create(data_dir.path(), "net").unwrap();
        assert_eq!(store.reserve(ip("10.0.0.2"), "id", "eth0", 0).is_ok(), is_harmless);
        assert_eq!(store.reservations().unwrap().len(), usize::from(is_harmless));
    }

    #[rstest]
    fn a_pipe_or_an_empty_directory_reserves_no_address(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        fs::create_dir(data_dir.path().join("net/10.0.0.2")).unwrap();
        make_pipe(&data_dir.path().join("net/10.0.0.3"));
        let reservations = store.reservations().unwrap();
        assert_eq!(addresses(&reservations), ["10.0.0.2", "10.0.0.3"]);
        assert!(store.held_by("id", "eth0").unwrap().own.is_empty());
        for address in ["10.0.0.2", "10.0.0.3"] {
            store.reserve(ip(address), "id", "eth0", 0).unwrap().unwrap();
        }
        // A directory with content stays.
        fs::create_dir_all(data_dir.path().join("net/10.0.0.4/kept")).unwrap();
        assert_eq!(store.reserve(ip("10.0.0.4"), "id", "eth0", 0).unwrap(), None);
        assert!(!data_dir.path().join("net").join(DRAFT).exists());
    }

    #[rstest]
    fn the_next_call_knows_the_last_reserved_address(data_dir: TempDir) {
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
    fn open_and_peek_create_nothing(data_dir: TempDir) {
        assert!(Store::open(data_dir.path(), "net").unwrap().is_none());
        assert!(directory::peek(&data_dir.path().join("a/b"), "net", true).unwrap().is_empty());
        assert_eq!(fs::read_dir(data_dir.path()).unwrap().count(), 0);
    }

    #[rstest]
    fn a_file_in_place_of_the_directory_is_an_error_with_its_path(data_dir: TempDir) {
        fs::write(data_dir.path().join("net"), "").unwrap();
        for error in [
            Store::create(data_dir.path(), "net").unwrap_err(),
            Store::open(data_dir.path(), "net").unwrap_err(),
            directory::peek(data_dir.path(), "net", true).unwrap_err(),
        ] {
            let names_it =
                error.details().contains(&data_dir.path().join("net").display().to_string());
            assert!(error.code() == 5 && names_it, "{error}");
        }
    }

    #[rstest]
    #[case("..")]
    #[case("a/b")]
    #[case("")]
    fn network_names_that_are_paths_are_rejected(data_dir: TempDir, #[case] name: &str) {
        assert_eq!(Store::create(data_dir.path(), name).unwrap_err().code(), 7);
        assert_eq!(Store::open(data_dir.path(), name).unwrap_err().code(), 7);
        assert_eq!(directory::peek(data_dir.path(), name, true).unwrap_err().code(), 7);
    }

    fn is_valid(data_dir: &Path) -> bool {
        let dir = directory::open(&data_dir.join("net")).unwrap();
        Index::valid(data_dir, "net", &dir).is_some()
    }

    fn own(store: &Store, id: &str) -> Vec<String> {
        addresses(&store.held_by(id, "eth0").unwrap().own)
    }

    #[rstest]
    fn the_index_is_valid_until_another_program_changes_the_directory(data_dir: TempDir) {
        let data_dir = data_dir.path();
        let held = |id: &str| own(&Store::create(data_dir, "net").unwrap(), id);
        let file = |address: &str| data_dir.join("net").join(address);
        let store = Store::create(data_dir, "net").unwrap();
        store.reserve(ip("10.0.0.2"), "a", "eth0", 0).unwrap().unwrap();
        drop(store);
        assert!(is_valid(data_dir));
        // Like the Go plugin.
        fs::write(file("10.0.0.3"), "b\r\neth0").unwrap();
        assert!(!is_valid(data_dir));
        assert_eq!((held("a"), held("b")), (vec!["10.0.0.2".into()], vec!["10.0.0.3".into()]));
        assert!(is_valid(data_dir));
        fs::remove_file(file("10.0.0.2")).unwrap();
        assert!(!is_valid(data_dir));
        assert!(held("a").is_empty());
        // An index of another boot, or a truncated one.
        let path = data_dir.join(".index/net");
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(!is_valid(data_dir));
        fs::write(&path, &bytes[..100]).unwrap();
        assert!(!is_valid(data_dir));
        assert_eq!(held("b"), ["10.0.0.3"]);
    }

    #[rstest]
    fn a_truncated_index_hides_no_reservation(data_dir: TempDir) {
        let store = || Store::create(data_dir.path(), "net").unwrap();
        for n in 2..100 {
            let address = IpAddr::from([10, 0, 0, n]);
            store().reserve(address, &n.to_string(), "eth0", 0).unwrap().unwrap();
        }
        let path = data_dir.path().join(".index/net");
        let whole = fs::metadata(&path).unwrap().len();
        let range = rscni::IpRange { subnet: "10.0.0.0/24".into(), ..Default::default() };
        let interval = RangeSet::read(&[range]).unwrap().intervals(Some([10, 0, 0, 1].into()))[0];
        for length in (0..whole).step_by(51).chain([48, 64, whole - 1]) {
            fs::remove_file(&path).unwrap();
            drop(store());
            File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
            let store = store();
            for n in (2..100).step_by(7) {
                assert_eq!(own(&store, &n.to_string()).len(), 1, "{n} at {length}");
            }
            let expected = Some(number([10, 0, 0, 100].into()));
            assert_eq!(store.first_free(interval), expected, "{length}");
        }
    }

    #[rstest]
    fn a_process_that_is_killed_before_sealing_leaves_an_invalid_index(data_dir: TempDir) {
        drop(Store::create(data_dir.path(), "net").unwrap());
        let store = Store::create(data_dir.path(), "net").unwrap();
        store.reserve(ip("10.0.0.2"), "a", "eth0", 0).unwrap().unwrap();
        assert!(!is_valid(data_dir.path()));
        drop(store);
        assert!(is_valid(data_dir.path()));
    }

    #[rstest]
    fn without_an_index_file_the_directory_is_read(data_dir: TempDir) {
        // Another file has the name of the directory of indexes.
        fs::write(data_dir.path().join(".index"), "").unwrap();
        for n in 2..5 {
            let store = Store::create(data_dir.path(), "net").unwrap();
            store.reserve(IpAddr::from([10, 0, 0, n]), &n.to_string(), "eth0", 0).unwrap().unwrap();
        }
        let store = Store::create(data_dir.path(), "net").unwrap();
        assert_eq!(own(&store, "3").len(), 1);
        let number = |n| number(IpAddr::from([10, 0, 0, n]));
        let interval = Interval { v4: true, first: number(2), last: number(9) };
        assert_eq!(store.first_free(interval), Some(number(5)));
    }
}
