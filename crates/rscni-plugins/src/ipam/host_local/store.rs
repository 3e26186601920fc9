//! The reservations of one network, on disk.
//!
//! The format is that of the Go plugin, so that both can work on the same directory, at the same time even:
//! `<dataDir>/<network>/` holds a file per address, named by the address, with the container id and the interface
//! name in it; `last_reserved_ip.<n>`, the address that range set `n` gave last; and `lock`, which whoever changes
//! anything holds by `flock`. Files of old releases have the container id alone.
//!
//! A reservation is written under another name first and gets its own when it is complete, so that no one ever sees half
//! of one: a process that is killed leaves either all of a reservation or nothing of it. The Go plugin makes
//! the file first and writes it then, and a power loss may take what is in a file; what such a call leaves behind says
//! of nobody that he has the address. Under the lock, where nobody is in the middle of writing, it is as good as free.
//! Which addresses there are to reserve is the business of [`range`](super::range). The directory is what counts; so
//! that no call has to walk it, an [`Index`] says the same faster. Where none can be had the directory is walked.

use std::{
    cell::RefCell,
    collections::HashSet,
    fs::File,
    io::Write,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rscni::Error;
use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{
    directory::{self, failure, list},
    index::Index,
    range::Stretch,
    remains::{is_remains, read, read_holder, remove},
    reservation::{Held, Holder, Reservation},
};

/// A reservation that is being written. No address, so no one takes it for one.
const DRAFT: &str = ".reservation";

/// The directory of one network, locked as long as this lives.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    dir: OwnedFd,
    _lock: OwnedFd,
    books: RefCell<Books>,
}

/// From where it is known what is taken.
#[derive(Debug)]
enum Books {
    /// The index, and whether it has to be sealed.
    Index(Index, bool),
    /// The names in the directory.
    List(HashSet<IpAddr>),
}

impl Store {
    /// Opens and locks the directory of `network`, and makes it where there is none.
    ///
    /// # Errors
    /// [`Error::IOFailure`], or [`Error::InvalidNetworkConfig`] for a network name that is not one.
    pub(crate) fn create(data_dir: &Path, network: &str) -> Result<Self, Error> {
        if let Some(store) = Self::open(data_dir, network)? {
            return Ok(store);
        }
        let path = directory::path(data_dir, network)?;
        rscni_linux::make_directory(&path, 0o755).map_err(|e| failure("make", &path, &e))?;
        let dir = directory::open(&path).map_err(|e| failure("open", &path, &e))?;
        Self::lock(data_dir, path, dir, network)
    }

    /// Opens and locks the directory of `network`, if there is one.
    ///
    /// # Errors
    /// [`Error::IOFailure`], or [`Error::InvalidNetworkConfig`] for a network name that is not one.
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
        let books = RefCell::new(Books::List(HashSet::new()));
        let store = Self { path, dir, _lock: lock, books };
        match Index::open(data_dir, network, &store.dir) {
            Ok((index, true)) => *store.books.borrow_mut() = Books::Index(index, false),
            Ok((index, false)) => store.fill(index)?,
            Err(_) => store.list_only()?,
        }
        Ok(store)
    }

    /// Makes the index anew from the directory, and removes the draft of a process that did not live to do so: it has
    /// not sealed the index either.
    fn fill(&self, mut index: Index) -> Result<(), Error> {
        let _ = rustix::fs::unlinkat(&self.dir, DRAFT, AtFlags::empty());
        let mut fill = || {
            index.clear()?;
            for reservation in list(&self.dir)? {
                if reservation.file != reservation.address.to_string() {
                    // Only the directory knows how it is spelled.
                    return Err(std::io::Error::other(reservation.file));
                }
                match read_holder(&self.dir, &reservation.file) {
                    // Its turn may come.
                    Ok(None) => {}
                    Ok(Some(holder)) => {
                        index.insert(Some(&holder.content()), reservation.address)?;
                    }
                    Err(_) => index.insert(None, reservation.address)?,
                }
            }
            Ok(())
        };
        if fill().is_err() {
            return self.list_only();
        }
        *self.books.borrow_mut() = Books::Index(index, true);
        Ok(())
    }

    /// Goes by the directory from here on.
    fn list_only(&self) -> Result<(), Error> {
        let mut taken = self.reservations()?;
        taken.retain(|reservation| !is_remains(&self.dir, reservation));
        *self.books.borrow_mut() =
            Books::List(taken.into_iter().map(|reservation| reservation.address).collect());
        Ok(())
    }

    /// Asks or changes the index. If that fails the directory is walked from here on.
    fn with_index<T>(
        &self,
        changes: bool,
        f: impl FnOnce(&mut Index) -> std::io::Result<T>,
    ) -> Result<Option<T>, Error> {
        let outcome = match &mut *self.books.borrow_mut() {
            Books::List(_) => return Ok(None),
            Books::Index(index, has_changed) => {
                *has_changed |= changes;
                f(index)
            }
        };
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(_) => self.list_only().map(|()| None),
        }
    }

    /// Every reservation, in no order. Reads names only.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn reservations(&self) -> Result<Vec<Reservation>, Error> {
        list(&self.dir).map_err(|e| failure("read", &self.path, &e))
    }

    /// Who holds a reservation; none if it is gone, or only the remains of one.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn holder(&self, reservation: &Reservation) -> Result<Option<Holder>, Error> {
        read_holder(&self.dir, &reservation.file)
            .map_err(|e| failure("read", &self.path.join(&reservation.file), &e))
    }

    /// What an attachment holds. What cannot be read is not its, unless the index says that it is.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn held_by(&self, container_id: &str, ifname: &str) -> Result<Held, Error> {
        let own = Holder::Attachment { container_id: container_id.into(), ifname: ifname.into() };
        let of_container = Holder::Container(container_id.into());
        let find = |index: &mut Index| {
            Ok([index.find(&own.content())?, index.find(&of_container.content())?].concat())
        };
        let (candidates, indexed) = match self.with_index(false, find)? {
            Some(found) => (found.into_iter().map(Reservation::of).collect(), true),
            None => (self.reservations()?, false),
        };
        let mut held = Held::default();
        for reservation in candidates {
            match self.holder(&reservation) {
                Ok(Some(holder)) if holder == own => held.own.push(reservation),
                Ok(Some(holder)) if holder == of_container => held.of_container.push(reservation),
                Err(error) if indexed => return Err(error),
                _ => {}
            }
        }
        Ok(held)
    }

    /// The first address of a stretch, from number `first` on, that seems to be free: [`Store::reserve`] says whether
    /// it is.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn first_free(&self, stretch: Stretch) -> Result<Option<u128>, Error> {
        let Stretch { v4, first, last } = stretch;
        if let Some(found) = self.with_index(false, |index| index.first_free(v4, first, last))? {
            return Ok(found);
        }
        match &*self.books.borrow() {
            Books::List(taken) => {
                Ok((first..=last).find(|number| !taken.contains(&stretch.address(*number))))
            }
            Books::Index(..) => Ok(Some(first)),
        }
    }

    /// Looks at the directory itself where the index has shown nothing free; says whether that may change anything.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn doubt(&self) -> Result<bool, Error> {
        let is_indexed = matches!(&*self.books.borrow(), Books::Index(..));
        if is_indexed {
            // By names only: remains have come into no index.
            let taken =
                self.reservations()?.into_iter().map(|reservation| reservation.address).collect();
            *self.books.borrow_mut() = Books::List(taken);
        }
        Ok(is_indexed)
    }

    /// The address that range set `set` gave last, where that is known.
    pub(crate) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        let content = read(&self.dir, &last_reserved_file(set)).ok()?;
        std::str::from_utf8(&content)
            .ok()?
            .trim()
            .parse::<IpAddr>()
            .ok()
            .map(|address| address.to_canonical())
    }

    /// Reserves an address for an attachment, as the last one of range set `set`, if it is in one.
    /// None if it is taken; the remains of another reservation make way.
    ///
    /// # Errors
    /// [`Error::IOFailure`]; then it is not reserved.
    pub(crate) fn reserve(
        &self,
        address: IpAddr,
        container_id: &str,
        ifname: &str,
        set: impl Into<Option<usize>>,
    ) -> Result<Option<Reservation>, Error> {
        let reservation = Reservation::of(address);
        let path = self.path.join(&reservation.file);
        let holder =
            Holder::Attachment { container_id: container_id.into(), ifname: ifname.into() };
        let written =
            self.write_draft(&holder.content()).and_then(|()| match self.publish(&reservation) {
                Err(Errno::EXIST) if is_remains(&self.dir, &reservation) => {
                    // What cannot be removed stays in the way.
                    let _ = remove(&self.dir, &reservation.file);
                    Ok(self.publish(&reservation)?)
                }
                published => Ok(published?),
            });
        if let Err(error) = written {
            self.remove_draft()?;
            return match error.kind() {
                std::io::ErrorKind::AlreadyExists => Ok(None),
                _ => Err(failure("write", &path, &error)),
            };
        }
        if let Some(set) = set.into()
            && let Err(e) = self.write_last_reserved(set, address)
        {
            let _ = self.release(&reservation, Some(&holder));
            return Err(failure("write", &self.path.join(last_reserved_file(set)), &e));
        }
        self.with_index(true, |index| index.insert(Some(&holder.content()), address))?;
        Ok(Some(reservation))
    }

    /// Gives a reservation up; one that is gone already is fine.
    ///
    /// # Errors
    /// [`Error::IOFailure`].
    pub(crate) fn release(
        &self,
        reservation: &Reservation,
        holder: Option<&Holder>,
    ) -> Result<(), Error> {
        remove(&self.dir, &reservation.file)
            .map_err(|e| failure("remove", &self.path.join(&reservation.file), &e))?;
        let holder = holder.map(Holder::content);
        self.with_index(true, |index| index.remove(holder.as_deref(), reservation.address))?;
        Ok(())
    }

    /// Gives the draft the name of its address, if no file has that.
    fn publish(&self, reservation: &Reservation) -> Result<(), Errno> {
        let (dir, file) = (&self.dir, &reservation.file);
        match rustix::fs::renameat_with(dir, DRAFT, dir, file, RenameFlags::NOREPLACE) {
            // A file system that does not know this, such as NFS.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(dir, DRAFT, dir, file, AtFlags::empty())?;
                self.remove_draft().map_err(|_| Errno::IO)
            }
            renamed => renamed,
        }
    }

    /// Removes the draft. One that cannot be removed is in no one's way: without the seal the next call makes the index
    /// anew, and removes it.
    fn remove_draft(&self) -> Result<(), Error> {
        match rustix::fs::unlinkat(&self.dir, DRAFT, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(_) => self.list_only(),
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
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::openat(
            &self.dir,
            last_reserved_file(set),
            flags,
            Mode::from_raw_mode(0o600),
        )?;
        File::from(file).write_all(address.to_string().as_bytes())
    }
}

impl Drop for Store {
    /// Leaves an index that describes the directory. One that cannot be sealed does not, and will be made anew.
    fn drop(&mut self) {
        if let Books::Index(index, true) = &*self.books.borrow() {
            let _ = index.seal(&self.dir);
        }
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
    fn a_taken_address_is_not_reserved_again(data_dir: TempDir) {
        let store = Store::create(data_dir.path(), "net").unwrap();
        store.reserve(ip("10.0.0.2"), "first", "eth0", 0).unwrap().unwrap();
        assert_eq!(store.reserve(ip("10.0.0.2"), "second", "eth0", 0).unwrap(), None);
        assert_eq!(
            fs::read_to_string(data_dir.path().join("net/10.0.0.2")).unwrap(),
            "first\r\neth0"
        );
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
    #[case("id\r\n", 0, 0)]
    #[case("id\0\0", 0, 0)]
    fn the_holder_is_read_as_go_reads_it(
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
    fn only_names_that_are_addresses_are_reservations(data_dir: TempDir) {
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
            store.release(reservation, None).unwrap();
            store.release(reservation, None).unwrap();
        }
        assert!(store.reservations().unwrap().is_empty());
        assert!(data_dir.path().join("net/x").exists());
    }

    #[rstest]
    #[case("lock", true)]
    #[case("last_reserved_ip.0", false)]
    fn a_pipe_in_place_of_a_file_keeps_nobody_waiting(
        data_dir: TempDir,
        #[case] file: &str,
        #[case] is_as_good: bool,
    ) {
        fs::create_dir(data_dir.path().join("net")).unwrap();
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(
            CWD,
            data_dir.path().join("net").join(file),
            kind,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let store = Store::create(data_dir.path(), "net").unwrap();
        assert_eq!(store.reserve(ip("10.0.0.2"), "id", "eth0", 0).is_ok(), is_as_good);
        assert_eq!(store.reservations().unwrap().len(), usize::from(is_as_good));
    }

    #[rstest]
    fn a_pipe_or_a_directory_in_place_of_a_file_is_no_ones(data_dir: TempDir) {
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
        assert!(store.held_by("id", "eth0").unwrap().own.is_empty());
        for address in ["10.0.0.2", "10.0.0.3"] {
            store.reserve(ip(address), "id", "eth0", 0).unwrap().unwrap();
        }
        // But for one in which somebody keeps something.
        fs::create_dir_all(data_dir.path().join("net/10.0.0.4/kept")).unwrap();
        assert_eq!(store.reserve(ip("10.0.0.4"), "id", "eth0", 0).unwrap(), None);
        assert!(!data_dir.path().join("net").join(DRAFT).exists());
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
        assert!(directory::peek(&data_dir.path().join("a/b"), "net", true).unwrap().is_empty());
        assert_eq!(fs::read_dir(data_dir.path()).unwrap().count(), 0);
    }

    #[rstest]
    fn a_file_in_place_of_the_directory_is_an_error_that_names_it(data_dir: TempDir) {
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
    fn no_path_is_made_from_a_name_that_leads_elsewhere(data_dir: TempDir, #[case] name: &str) {
        assert_eq!(Store::create(data_dir.path(), name).unwrap_err().code(), 7);
        assert_eq!(Store::open(data_dir.path(), name).unwrap_err().code(), 7);
        assert_eq!(directory::peek(data_dir.path(), name, true).unwrap_err().code(), 7);
    }
}
