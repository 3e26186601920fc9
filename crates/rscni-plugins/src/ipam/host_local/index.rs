//! What the store holds, in a form where nothing has to be walked: `<dataDir>/.index/<network>`.
//!
//! The store is what counts, the index only says it faster; the Go plugin never looks there (no network's name begins
//! with a dot). It is believed only if it carries the boot it was written in and the directory's time of modification:
//! whoever seals it sets that time to one that no clock gives again, so any change to the directory by someone else, or
//! by a process that did not live to seal its own, shows. Then it is made anew from the directory.
//!
//! One file:
//!
//! | at | what |
//! |---|---|
//! | 0 | the head, a block |
//! | [`BLOCK`] | [`PAGES`] pages, a block each: a bit for each of 2¹⁵ addresses in a row, taken or not |
//! | [`TABLE`] | a hash table: who holds which address. Its slots are hints; a reservation is read before it is believed |

use std::{
    fs::File,
    io::{Error, ErrorKind, Result},
    net::IpAddr,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rscni_linux::sysctl;
use rustix::fs::{CWD, Mode, OFlags, Timespec, Timestamps};
use sha2::{Digest, Sha256};

use super::range::number;

const MAGIC: &[u8; 8] = b"rscni 1\n";
const BLOCK: u64 = BLOCK_BYTES as u64;
const BLOCK_BYTES: usize = 4096;
/// How many pages there can be. Addresses that find no page are tried one by one.
const PAGES: usize = 200;
/// A page has this many bits of an address.
const PAGE_BITS: u32 = 15;
const TABLE: u64 = BLOCK * (1 + PAGES as u64);
const LARGEST: u64 = 1 << 24;
const SLOT: u64 = SLOT_BYTES as u64;
const SLOT_BYTES: usize = 32;
/// A slot that was used, and after which a search goes on.
const GONE: u64 = 1;
const SMALLEST: u64 = 128;

/// The index of one network's store, whose lock the caller holds.
#[derive(Debug)]
pub(super) struct Index {
    file: File,
    /// Slots of the table, a power of two.
    capacity: u64,
    /// Slots that are not empty.
    used: u64,
    /// What addresses the pages are for.
    pages: Vec<u128>,
    boot: [u8; 16],
}

impl Index {
    /// Where in its file it is said that it is true, and what follows is what it says.
    #[cfg(any(test, fuzzing))]
    pub(super) const SEAL_END: usize = 8 + 16 + 16;
    /// Where its hash table begins.
    #[cfg(any(test, fuzzing))]
    pub(super) const TABLE_START: usize = BLOCK_BYTES * (1 + PAGES);

    /// Opens the index; it has to be filled first if it does not describe the directory as it is.
    ///
    /// # Errors
    /// Whatever keeps the file from being used: the store does without.
    pub(super) fn open(data_dir: &Path, network: &str, store: &OwnedFd) -> Result<(Self, bool)> {
        let path = data_dir.join(".index");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open =
            || rustix::fs::openat(CWD, path.join(network), flags, Mode::from_raw_mode(0o600));
        let file = match open() {
            Err(rustix::io::Errno::NOENT) => {
                rscni_linux::make_directory(&path, 0o700)?;
                open()
            }
            opened => opened,
        }?;
        let mut index = Self {
            file: file.into(),
            capacity: SMALLEST,
            used: 0,
            pages: Vec::new(),
            boot: this_boot()?,
        };
        let is_true = index.read_head()? == Some((index.boot, modified(store)?));
        Ok((index, is_true))
    }

    /// The index as the last call before the machine was booted has left it, with its mark: none if a call of this boot
    /// has made it anew, or there is none.
    pub(super) fn of_earlier_boot(data_dir: &Path, network: &str) -> Option<(Self, Seal)> {
        let (index, of_boot, seal) = Self::look(data_dir, network)?;
        (of_boot != index.boot).then_some((index, seal))
    }

    /// The index, if it is believed as it is, where nothing is to be changed.
    pub(super) fn believed(data_dir: &Path, network: &str, store: &OwnedFd) -> Option<Self> {
        let (index, of_boot, seal) = Self::look(data_dir, network)?;
        (of_boot == index.boot && seal.is_of(store)).then_some(index)
    }

    /// Whatever index there is, and the boot that it is of.
    fn look(data_dir: &Path, network: &str) -> Option<(Self, [u8; 16], Seal)> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file =
            rustix::fs::openat(CWD, data_dir.join(".index").join(network), flags, Mode::empty())
                .ok()?;
        let boot = this_boot().ok()?;
        let mut index =
            Self { file: file.into(), capacity: SMALLEST, used: 0, pages: Vec::new(), boot };
        let (of_boot, sealed) = index.read_head().ok()??;
        Some((index, of_boot, Seal(sealed)))
    }

    /// Takes the head in; gives the boot that it is of, and when the directory was modified that it describes. None if it
    /// is no head.
    fn read_head(&mut self) -> Result<Option<([u8; 16], [u8; 16])>> {
        let mut head = [0; LONGEST_HEAD];
        let length = read_up_to(&self.file, &mut head, 0)?;
        let mut head = Fields(&head);
        if head.take() != *MAGIC {
            return Ok(None);
        }
        let (boot, modified) = (head.take(), head.take());
        let (capacity, used, pages) = (head.number(), head.number(), head.number());
        let count = usize::try_from(pages).unwrap_or(usize::MAX);
        if !capacity.is_power_of_two() || capacity > LARGEST || used > capacity || count > PAGES {
            return Ok(None);
        }
        if length < FIXED_HEAD + count * PAGE_NUMBER {
            return Ok(None);
        }
        (self.capacity, self.used) = (capacity, used);
        self.pages = (0..count).map(|_| u128::from_le_bytes(head.take())).collect();
        Ok(Some((boot, modified)))
    }

    /// Makes the index describe the directory as it is now.
    pub(super) fn seal(&self, store: &OwnedFd) -> Result<()> {
        // A time gone by: the kernel gives later ones to whatever changes the directory from here on.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Error::other)?;
        let sealed = Timespec {
            tv_sec: i64::try_from(now.as_secs()).map_err(Error::other)? - 1,
            tv_nsec: now.subsec_nanos().into(),
        };
        let mut head = Vec::with_capacity(FIXED_HEAD + self.pages.len() * PAGE_NUMBER);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&self.boot);
        head.extend_from_slice(&stamp(sealed.tv_sec, sealed.tv_nsec));
        for number in [self.capacity, self.used, self.pages.len() as u64] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        for page in &self.pages {
            head.extend_from_slice(&page.to_le_bytes());
        }
        self.file.write_all_at(&head, 0)?;
        let accessed = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        Ok(rustix::fs::futimens(
            store,
            &Timestamps { last_access: accessed, last_modification: sealed },
        )?)
    }

    /// Forgets everything. From here on the file is as long as all that it has a place for.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(TABLE + SMALLEST * SLOT)?;
        (self.capacity, self.used) = (SMALLEST, 0);
        self.pages.clear();
        Ok(())
    }

    /// The addresses that a holder may have.
    pub(super) fn find(&self, holder: &str) -> Result<Vec<IpAddr>> {
        let key = key(holder);
        let mut found = Vec::new();
        self.walk(key, |_, slot| {
            if slot.key == key {
                found.extend(slot.address());
            }
            slot.key == 0
        })?;
        Ok(found)
    }

    /// Marks an address as taken, by `holder` if it is known.
    pub(super) fn insert(&mut self, holder: Option<&str>, address: IpAddr) -> Result<()> {
        self.set_bit(address, true)?;
        let Some(holder) = holder else { return Ok(()) };
        if (self.used + 1) * 2 > self.capacity {
            self.make_room()?;
        }
        self.insert_slot(Slot::new(key(holder), address))
    }

    fn insert_slot(&mut self, slot: Slot) -> Result<()> {
        let (at, found) =
            self.walk(slot.key, |_, other| other.key <= GONE || other.bytes == slot.bytes)?;
        if found.key == 0 {
            self.used += 1;
        }
        self.write_slot(at, slot)
    }

    /// Marks an address as free again.
    pub(super) fn remove(&mut self, holder: Option<&str>, address: IpAddr) -> Result<()> {
        self.set_bit(address, false)?;
        let Some(holder) = holder else { return Ok(()) };
        let wanted = Slot::new(key(holder), address);
        let (at, found) =
            self.walk(wanted.key, |_, slot| slot.key == 0 || slot.bytes == wanted.bytes)?;
        if found.key == 0 {
            return Ok(());
        }
        // At the end of its row a slot can be empty again, so that tables do not fill with what is gone.
        let is_last = self.read_slots((at + 1) & (self.capacity - 1))?[0].key == 0;
        // An index that says there are fewer than there are is made anew once its table is full.
        self.used = self.used.saturating_sub(u64::from(is_last));
        self.write_slot(at, Slot { key: if is_last { 0 } else { GONE }, bytes: [0; 24] })
    }

    /// The first address from `first` to `last` that is not marked as taken.
    pub(super) fn first_free(&self, v4: bool, first: u128, last: u128) -> Result<Option<u128>> {
        let mut at = first;
        loop {
            let start = at & !PAGE_MASK;
            let end = last.min(at | PAGE_MASK);
            let Some(place) = self.place(page(v4, at)) else { return Ok(Some(at)) };
            let free = self.first_zero(place, at - start)?.map(|bit| start + bit);
            if let Some(free) = free.filter(|free| *free <= end) {
                return Ok(Some(free));
            }
            if end == last {
                return Ok(None);
            }
            at = end + 1;
        }
    }

    /// The first zero of a page from bit `first` on.
    fn first_zero(&self, place: u64, first: u128) -> Result<Option<u128>> {
        let mut bits = [0; BLOCK_BYTES];
        self.file.read_exact_at(&mut bits, place)?;
        let whole = (first / 8, u8::MAX << (first % 8));
        for (at, byte) in (0..).zip(bits).skip(usize::try_from(first / 8).map_err(Error::other)?) {
            // Bits before the first that is wanted count as taken.
            let taken = if at == whole.0 { byte | !whole.1 } else { byte };
            if taken != u8::MAX {
                return Ok(Some(at * 8 + u128::from(taken.trailing_ones())));
            }
        }
        Ok(None)
    }

    fn set_bit(&mut self, address: IpAddr, taken: bool) -> Result<()> {
        let number = number(address);
        let page = page(address.is_ipv4(), number);
        if taken && self.place(page).is_none() && self.pages.len() < PAGES {
            self.pages.push(page);
        }
        let Some(place) = self.place(page) else { return Ok(()) };
        let at = place + u64::try_from((number & PAGE_MASK) / 8).map_err(Error::other)?;
        let bit = 1 << (number % 8);
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, at)?;
        let changed = if taken { byte[0] | bit } else { byte[0] & !bit };
        if changed != byte[0] {
            self.file.write_all_at(&[changed], at)?;
        }
        Ok(())
    }

    /// Where a page is.
    fn place(&self, page: u128) -> Option<u64> {
        self.pages.iter().position(|other| *other == page).map(|at| (1 + at as u64) * BLOCK)
    }

    /// Makes the table larger, or only drops the slots that are gone.
    fn make_room(&mut self) -> Result<()> {
        let mut slots = Vec::new();
        let mut at = 0;
        while at < self.capacity {
            let chunk = self.read_slots(at)?;
            at += chunk.len() as u64;
            slots.extend(chunk.into_iter().filter(|slot| slot.key > GONE));
        }
        let capacity = (slots.len() as u64 * 4).next_power_of_two().max(SMALLEST);
        if capacity > LARGEST {
            return Err(Error::other("too many reservations for an index"));
        }
        let mut table = vec![0; usize::try_from(capacity * SLOT).map_err(Error::other)?];
        for slot in &slots {
            let mut at = slot.key & (capacity - 1);
            let place = loop {
                let start = usize::try_from(at * SLOT).map_err(Error::other)?;
                let place = &mut table[start..start + SLOT_BYTES];
                if place[..8] == [0; 8] {
                    break place;
                }
                at = (at + 1) & (capacity - 1);
            };
            slot.write(place);
        }
        self.file.write_all_at(&table, TABLE)?;
        (self.capacity, self.used) = (capacity, slots.len() as u64);
        Ok(())
    }

    /// Goes along the row of a key until `is_end`; gives that slot and its place.
    fn walk(&self, key: u64, mut is_end: impl FnMut(u64, &Slot) -> bool) -> Result<(u64, Slot)> {
        let mut at = key & (self.capacity - 1);
        let mut seen = 0;
        while seen < self.capacity {
            for slot in self.read_slots(at)? {
                if is_end(at, &slot) {
                    return Ok((at, slot));
                }
                at = (at + 1) & (self.capacity - 1);
                seen += 1;
            }
        }
        Err(Error::new(ErrorKind::InvalidData, "the index has no empty slot"))
    }

    /// The slot at that place and some that follow it.
    fn read_slots(&self, at: u64) -> Result<Vec<Slot>> {
        const SOME: usize = 32;
        let count = usize::try_from(self.capacity - at).map_or(SOME, |left| left.min(SOME));
        let mut bytes = [0; SOME * SLOT_BYTES];
        let bytes = &mut bytes[..count * SLOT_BYTES];
        // An index that was cut off says nothing about anybody.
        self.file.read_exact_at(bytes, TABLE + at * SLOT)?;
        Ok(bytes.chunks_exact(SLOT_BYTES).map(Slot::read).collect())
    }

    fn write_slot(&self, at: u64, slot: Slot) -> Result<()> {
        let mut bytes = [0; SLOT_BYTES];
        slot.write(&mut bytes);
        self.file.write_all_at(&bytes, TABLE + at * SLOT)
    }
}

/// When an index was sealed, as it stands in its head and as the directory's time of modification.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seal([u8; 16]);

impl Seal {
    /// Whether nobody has changed the directory since.
    pub(super) fn is_of(self, store: &OwnedFd) -> bool {
        modified(store).is_ok_and(|modified| modified == self.0)
    }

    /// Whether it was set after a file was last changed, in any way.
    pub(super) fn is_after(self, file: &rustix::fs::Stat) -> bool {
        // The time that is set is a second before that of the call.
        let changed = i128::from_le_bytes(stamp(file.st_ctime, file.st_ctime_nsec));
        changed <= i128::from_le_bytes(self.0) + 1_000_000_000
    }
}

/// An entry of the table: the hash of a holder, the family of an address and the address.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// 0 where it is empty, [`GONE`] where it was used.
    key: u64,
    bytes: [u8; 24],
}

impl Slot {
    fn new(key: u64, address: IpAddr) -> Self {
        let mut bytes = [0; 24];
        bytes[0] = if address.is_ipv4() { 4 } else { 6 };
        bytes[8..].copy_from_slice(&number(address).to_le_bytes());
        Self { key, bytes }
    }

    fn address(&self) -> Option<IpAddr> {
        let number = u128::from_le_bytes(Fields(&self.bytes[8..]).take());
        match self.bytes[0] {
            4 => Some(IpAddr::V4(u32::try_from(number).ok()?.into())),
            6 => Some(IpAddr::V6(number.into())),
            _ => None,
        }
    }

    fn read(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        Self { key: fields.number(), bytes: fields.take() }
    }

    fn write(&self, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&self.key.to_le_bytes());
        bytes[8..].copy_from_slice(&self.bytes);
    }
}

/// The length of the head, without the numbers of the pages.
const FIXED_HEAD: usize = 8 + 16 + 16 + 3 * 8;
/// The length of the number of a page.
const PAGE_NUMBER: usize = 16;
const LONGEST_HEAD: usize = FIXED_HEAD + PAGES * PAGE_NUMBER;

/// Reads fields of fixed length; what is missing is zero.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..field.len()].copy_from_slice(field);
        bytes
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// A file gives less than it is asked for only at its end.
fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> Result<usize> {
    loop {
        match file.read_at(bytes, at) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

const PAGE_MASK: u128 = (1 << PAGE_BITS) - 1;

/// The page of an address.
fn page(v4: bool, number: u128) -> u128 {
    number >> PAGE_BITS | u128::from(v4) << 127
}

fn key(holder: &str) -> u64 {
    let digest = Sha256::digest(holder.as_bytes());
    Fields(&digest).number().max(GONE + 1)
}

fn this_boot() -> Result<[u8; 16]> {
    let text = sysctl::get("kernel/random/boot_id").map_err(Error::other)?;
    Ok(Fields(&Sha256::digest(text)).take())
}

fn modified(store: &OwnedFd) -> Result<[u8; 16]> {
    let stat = rustix::fs::fstat(store)?;
    Ok(stamp(stat.st_mtime, stat.st_mtime_nsec))
}

fn stamp(seconds: i64, nanoseconds: impl Into<i128>) -> [u8; 16] {
    (i128::from(seconds) * 1_000_000_000 + nanoseconds.into()).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
    };

    use proptest::prelude::*;
    use rstest::rstest;

    use super::{
        super::{
            range::{RangeSet, address},
            store::Store,
        },
        *,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// An index of a directory that does not matter.
    fn index() -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        let store = OwnedFd::from(File::open(dir.path().join("net")).unwrap());
        let (mut index, is_true) = Index::open(dir.path(), "net", &store).unwrap();
        assert!(!is_true);
        index.clear().unwrap();
        (dir, index)
    }

    /// Whether the index of a directory is believed.
    fn is_believed(data_dir: &Path) -> bool {
        let store = OwnedFd::from(File::open(data_dir.join("net")).unwrap());
        Index::open(data_dir, "net", &store).unwrap().1
    }

    proptest! {
        #[test]
        fn it_says_what_was_put_in_and_not_taken_out(
            steps in prop::collection::vec((any::<bool>(), 0u8..40, 0u8..6), 1..400),
        ) {
            let (_dir, mut index) = index();
            let mut model: BTreeMap<u8, u8> = BTreeMap::new();
            let address = |n: u8| IpAddr::from([10, 0, 0, n]);
            for (insert, n, holder) in steps {
                match model.get(&n).copied() {
                    None if insert => {
                        index.insert(Some(&holder.to_string()), address(n)).unwrap();
                        model.insert(n, holder);
                    }
                    Some(holder) if !insert => {
                        index.remove(Some(&holder.to_string()), address(n)).unwrap();
                        model.remove(&n);
                    }
                    _ => {}
                }
            }
            for holder in 0..6 {
                let found: BTreeSet<_> = index.find(&holder.to_string()).unwrap().into_iter().collect();
                let held = model.iter().filter(|(_, h)| **h == holder).map(|(n, _)| address(*n));
                prop_assert_eq!(found, held.collect());
            }
            for first in 0..40u8 {
                let base = number(address(0));
                let free = (first..40).find(|n| !model.contains_key(n)).map(|n| base + u128::from(n));
                prop_assert_eq!(index.first_free(true, base + u128::from(first), base + 39).unwrap(), free);
            }
        }
    }

    #[rstest]
    #[case("10.0.0.0", 70_000)]
    #[case("fd00::ffff:7ff3", 70_000)]
    fn a_long_row_is_passed_over_wherever_it_begins(#[case] first: &str, #[case] length: u128) {
        let (_dir, mut index) = index();
        let (v4, first) = (ip(first).is_ipv4(), number(ip(first)));
        for n in first..first + length {
            index.insert(None, address(v4, n)).unwrap();
        }
        for from in [first, first + 1, first + 32_767, first + 32_768, first + length - 1] {
            assert_eq!(index.first_free(v4, from, first + length).unwrap(), Some(first + length));
            assert_eq!(index.first_free(v4, from, first + length - 1).unwrap(), None);
        }
        index.remove(None, address(v4, first + 40_003)).unwrap();
        assert_eq!(index.first_free(v4, first, first + length).unwrap(), Some(first + 40_003));
    }

    #[test]
    fn the_last_addresses_of_each_family_are_looked_at() {
        let (_dir, mut index) = index();
        for last in [ip("255.255.255.255"), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")] {
            let (v4, n) = (last.is_ipv4(), number(last));
            assert_eq!(index.first_free(v4, n - 1, n).unwrap(), Some(n - 1));
            index.insert(None, address(v4, n - 1)).unwrap();
            assert_eq!(index.first_free(v4, n - 1, n).unwrap(), Some(n));
            index.insert(None, last).unwrap();
            assert_eq!(index.first_free(v4, n - 1, n).unwrap(), None);
        }
    }

    #[test]
    fn it_is_believed_until_anyone_else_changes_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = |address: &str, id: &str| {
            Store::create(dir.path(), "net")
                .unwrap()
                .reserve(ip(address), id, "eth0", 0)
                .unwrap()
                .unwrap();
        };
        let held = |id: &str| -> Vec<_> {
            let held = Store::create(dir.path(), "net").unwrap().held_by(id, "eth0").unwrap();
            held.own.iter().map(|reservation| reservation.address.to_string()).collect()
        };
        let file = |address: &str| dir.path().join("net").join(address);
        reserve("10.0.0.2", "a");
        assert!(is_believed(dir.path()));
        // As the Go plugin does it.
        fs::write(file("10.0.0.3"), "b\r\neth0").unwrap();
        assert!(!is_believed(dir.path()));
        assert_eq!(
            (held("a"), held("b")),
            (vec!["10.0.0.2".to_owned()], vec!["10.0.0.3".to_owned()])
        );
        assert!(is_believed(dir.path()));
        fs::remove_file(file("10.0.0.2")).unwrap();
        assert!(!is_believed(dir.path()));
        assert!(held("a").is_empty());
        // And of another boot, or cut off, it is not.
        let path = dir.path().join(".index/net");
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(!is_believed(dir.path()));
        fs::write(&path, &bytes[..100]).unwrap();
        assert!(!is_believed(dir.path()));
        assert_eq!(held("b"), ["10.0.0.3"]);
    }

    #[test]
    fn one_that_is_cut_off_hides_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let store = || Store::create(dir.path(), "net").unwrap();
        for n in 2..100 {
            store()
                .reserve(IpAddr::from([10, 0, 0, n]), &n.to_string(), "eth0", 0)
                .unwrap()
                .unwrap();
        }
        let path = dir.path().join(".index/net");
        let length = fs::metadata(&path).unwrap().len();
        let range = rscni::IpRange { subnet: "10.0.0.0/24".into(), ..Default::default() };
        let set = RangeSet::read(&[range]).unwrap();
        let within_table = (TABLE..length).step_by(32 * 7);
        for length in
            [0, 50, BLOCK, BLOCK + 1, 2 * BLOCK].into_iter().chain(within_table).chain([length - 1])
        {
            fs::remove_file(&path).unwrap();
            drop(store());
            File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
            let store = store();
            for n in (2..100).step_by(7) {
                assert_eq!(
                    store.held_by(&n.to_string(), "eth0").unwrap().own.len(),
                    1,
                    "{n} at {length}"
                );
            }
            let stretch = set.stretches(Some([10, 0, 0, 1].into()))[0];
            assert_eq!(
                store.first_free(stretch).unwrap(),
                Some(number([10, 0, 0, 100].into())),
                "{length}"
            );
        }
    }

    #[test]
    fn a_process_that_did_not_live_to_seal_it_leaves_an_index_that_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::create(dir.path(), "net").unwrap());
        let store = Store::create(dir.path(), "net").unwrap();
        store.reserve(ip("10.0.0.2"), "a", "eth0", 0).unwrap().unwrap();
        assert!(!is_believed(dir.path()));
        drop(store);
        assert!(is_believed(dir.path()));
    }

    #[test]
    fn it_grows_and_shrinks_with_what_is_held() {
        let (_dir, mut index) = index();
        for round in 0..3u32 {
            for n in 0..1000u32 {
                index.insert(Some(&format!("{round} {n}")), IpAddr::V4((n + 1).into())).unwrap();
            }
            assert_eq!(index.find(&format!("{round} 777")).unwrap(), [ip("0.0.3.10")]);
            for n in 0..1000u32 {
                index.remove(Some(&format!("{round} {n}")), IpAddr::V4((n + 1).into())).unwrap();
            }
            assert!(index.find(&format!("{round} 777")).unwrap().is_empty());
        }
        assert!(index.capacity <= 8192, "{}", index.capacity);
    }

    #[test]
    fn where_there_can_be_no_index_the_directory_is_walked() {
        let dir = tempfile::tempdir().unwrap();
        // Someone else's file where the directory of indexes would be.
        fs::write(dir.path().join(".index"), "").unwrap();
        for n in 2..5 {
            let store = Store::create(dir.path(), "net").unwrap();
            store.reserve(IpAddr::from([10, 0, 0, n]), &n.to_string(), "eth0", 0).unwrap().unwrap();
        }
        let store = Store::create(dir.path(), "net").unwrap();
        assert_eq!(store.held_by("3", "eth0").unwrap().own.len(), 1);
        let set = super::super::range::Stretch {
            v4: true,
            first: number(ip("10.0.0.2")),
            last: number(ip("10.0.0.9")),
        };
        assert_eq!(store.first_free(set).unwrap(), Some(number(ip("10.0.0.5"))));
    }
}
