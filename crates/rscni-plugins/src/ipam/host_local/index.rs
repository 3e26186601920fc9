//! The index of a network's reservations: `<dataDir>/.index/<network>`.
//!
//! Reading this one file replaces reading every reservation. The directory of reservations stays
//! authoritative, and the Go plugin never looks here: no network name begins with a dot.
//!
//! An index is valid if it carries the current boot and the modification time of the directory.
//! Sealing sets that time to one that the kernel does not set again. So every change by another
//! program invalidates the index, and so does a change by a process that was killed before it
//! sealed. An invalid index is rebuilt from the directory.
//!
//! The file consists of, little-endian:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 16 | hash of the boot ID |
//! | 16 | modification time of the directory, in nanoseconds |
//! | 8 | number of blocks |
//! | 16 × 4096 | number of each block |
//! | 1024 each | blocks: a cell of 4 bytes for each of 256 addresses |
//!
//! A cell is 0 if its address is free, 1 if the holder is unknown, or else a hash of the holder. A
//! lookup by holder scans all cells, which are 240 KB for 60,000 addresses. The hash is a hint: the
//! reservation itself decides.

use std::{
    collections::HashSet,
    fs::File,
    io::{Error, ErrorKind, Result},
    net::IpAddr,
    ops::RangeInclusive,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rscni_linux::sysctl;
use rustix::{
    fs::{CWD, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{
    range::{address, number},
    reservation::Holder,
};

const MAGIC: [u8; 8] = *b"rscni 2\n";
/// Position of the number of blocks.
pub(super) const COUNT: usize = 8 + 16 + 16;
pub(super) const HEAD: usize = COUNT + 8;
/// Length of a block's number.
pub(super) const NUMBER: usize = 16;
const MOST_BLOCKS: usize = 4096;
/// Position of the first block.
pub(super) const BLOCKS: usize = HEAD + NUMBER * MOST_BLOCKS;
const CELL: usize = 4;
pub(super) const BLOCK: usize = CELL * 256;
/// Blocks that are read at once. Few, since each page of fresh memory costs a page fault.
const CHUNK: usize = 16;
const FREE: u32 = 0;
const HOLDER_UNKNOWN: u32 = 1;

/// The index of one network's store. The caller holds the lock of the store.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// `None` if the index serves only this call.
    file: Option<File>,
    /// The taken addresses if there is no file.
    taken: HashSet<IpAddr>,
    boot: [u8; 16],
    numbers: Vec<u128>,
    has_changed: bool,
}

impl Index {
    /// Opens the index, and tells whether it is valid. If not, the caller rebuilds it.
    ///
    /// # Errors
    /// If the file cannot be created or read.
    pub(super) fn open(data_dir: &Path, network: &str, store: &OwnedFd) -> Result<(Self, bool)> {
        let path = data_dir.join(".index");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o600);
        let open = || rustix::fs::openat(CWD, path.join(network), flags, mode);
        let file = match open() {
            Err(Errno::NOENT) => {
                rscni_linux::make_directory(&path, 0o700)?;
                open()
            }
            opened => opened,
        }?;
        let (index, seal) = Self::read(file.into())?;
        let is_valid = seal.is_some_and(|seal| index.is_valid(seal, store));
        Ok((index, is_valid))
    }

    /// Returns the index of an earlier boot. `None` if a call of this boot has rebuilt it already.
    pub(super) fn of_earlier_boot(data_dir: &Path, network: &str) -> Option<(Self, Seal)> {
        Self::peek(data_dir, network).filter(|(index, seal)| seal.boot != index.boot)
    }

    /// Returns the index if it is valid, without changing anything.
    pub(super) fn valid(data_dir: &Path, network: &str, store: &OwnedFd) -> Option<Self> {
        let (index, seal) = Self::peek(data_dir, network)?;
        index.is_valid(seal, store).then_some(index)
    }

    fn is_valid(&self, seal: Seal, store: &OwnedFd) -> bool {
        seal.boot == self.boot && seal.is_of(store)
    }

    fn peek(data_dir: &Path, network: &str) -> Option<(Self, Seal)> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = data_dir.join(".index").join(network);
        let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
        let (index, seal) = Self::read(file.into()).ok()?;
        Some((index, seal?))
    }

    /// Reads an index. Without a seal the file is not a complete index.
    fn read(file: File) -> Result<(Self, Option<Seal>)> {
        let mut index = Self { boot: this_boot()?, ..Self::default() };
        let seal = index.read_head(&file).unwrap_or_default();
        index.file = Some(file);
        Ok((index, seal))
    }

    fn read_head(&mut self, file: &File) -> Result<Option<Seal>> {
        let length = file.metadata()?.len();
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0)?;
        let count =
            usize::try_from(u64::from_le_bytes(field(&head, COUNT))).map_err(Error::other)?;
        if field(&head, 0) != MAGIC
            || count > MOST_BLOCKS
            || length != (BLOCKS + count * BLOCK) as u64
        {
            return Ok(None);
        }
        let mut numbers = vec![0; count * NUMBER];
        file.read_exact_at(&mut numbers, HEAD as u64)?;
        let number = |bytes| u128::from_le_bytes(field(bytes, 0));
        self.numbers = numbers.chunks_exact(NUMBER).map(number).collect();
        Ok(Some(Seal { boot: field(&head, 8), time: i128::from_le_bytes(field(&head, 24)) }))
    }

    /// Whether the next call can use this index.
    pub(super) fn is_saved(&self) -> bool {
        self.file.is_some()
    }

    /// Keeps the index in memory for this call. The next call rebuilds it.
    pub(super) fn keep_in_memory(&mut self) {
        self.file = None;
    }

    /// Makes the index valid for the directory as it is now, if the index has changed.
    ///
    /// # Errors
    /// If it remains invalid.
    pub(super) fn seal(&self, store: &OwnedFd) -> Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.has_changed) else { return Ok(()) };
        // A time in the past: the kernel sets later ones when the directory changes.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Error::other)?;
        let tv_sec = i64::try_from(now.as_secs()).map_err(Error::other)? - 1;
        let last_modification = Timespec { tv_sec, tv_nsec: now.subsec_nanos().into() };
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let time = nanoseconds(tv_sec, last_modification.tv_nsec);
        let count = self.numbers.len() as u64;
        let head: [&[u8]; 4] = [&MAGIC, &self.boot, &time.to_le_bytes(), &count.to_le_bytes()];
        file.write_all_at(&head.concat(), 0)?;
        Ok(rustix::fs::futimens(store, &Timestamps { last_access, last_modification })?)
    }

    /// Marks all addresses as free.
    pub(super) fn clear(&mut self) {
        self.numbers.clear();
        self.taken.clear();
        self.has_changed = true;
        let clear = |file: &File| file.set_len(0).and_then(|()| file.set_len(BLOCKS as u64));
        if self.file.as_ref().is_some_and(|file| clear(file).is_err()) {
            self.keep_in_memory();
        }
    }

    /// Returns the addresses that one of two holders may have, unless the index serves only this
    /// call.
    pub(super) fn find(&self, holders: [&Holder; 2]) -> Option<Vec<IpAddr>> {
        let file = self.file.as_ref()?;
        let hashes = holders.map(|holder| hash(holder).to_le_bytes());
        let is_wanted = |cell: &[u8]| cell == hashes[0] || cell == hashes[1];
        let mut found = Vec::new();
        let mut buffer = vec![0; self.numbers.len().min(CHUNK) * BLOCK];
        for (chunk, numbers) in self.numbers.chunks(CHUNK).enumerate() {
            let blocks = &mut buffer[..numbers.len() * BLOCK];
            file.read_exact_at(blocks, (BLOCKS + chunk * CHUNK * BLOCK) as u64).ok()?;
            for (number, block) in numbers.iter().zip(blocks.chunks_exact(BLOCK)) {
                let cells = || block.chunks_exact(CELL);
                // Without an early exit the compiler compares several cells at once.
                if cells().fold(false, |found, cell| found | is_wanted(cell)) {
                    let at = (0..).zip(cells()).filter(|(_, cell)| is_wanted(cell));
                    found.extend(at.filter_map(|(at, _)| address_in(*number, at)));
                }
            }
        }
        Some(found)
    }

    /// Marks an address as taken.
    pub(super) fn insert(&mut self, address: IpAddr, holder: Option<&Holder>) {
        self.set(address, holder.map_or(HOLDER_UNKNOWN, hash));
    }

    /// Marks an address as free.
    pub(super) fn remove(&mut self, address: IpAddr) {
        self.set(address, FREE);
    }

    pub(super) fn is_taken(&self, address: IpAddr) -> bool {
        self.cell(address) != FREE
    }

    /// Whether the holder may have the address.
    pub(super) fn is_held_by(&self, address: IpAddr, holder: &Holder) -> bool {
        self.cell(address) == hash(holder)
    }

    /// Returns the first free address of a family, by its number.
    pub(super) fn first_free(&self, v4: bool, numbers: RangeInclusive<u128>) -> Option<u128> {
        if self.file.is_none() {
            return numbers.into_iter().find(|n| !self.taken.contains(&address(v4, *n)));
        }
        let (mut first, last) = numbers.into_inner();
        let mut block = [0; BLOCK];
        while let Some(at) = self.position(block_of(v4, first)) {
            self.read_cells(at, &mut block);
            let end = last.min(first | 0xff);
            let is_free = |number: &u128| field(&block, cell_of(*number)) == FREE.to_le_bytes();
            match (first..=end).find(is_free) {
                None if end < last => first = end + 1,
                found => return found,
            }
        }
        Some(first)
    }

    fn cell(&self, address: IpAddr) -> u32 {
        let number = number(address);
        let mut cell = FREE.to_le_bytes();
        if let Some(at) = self.position(block_of(address.is_ipv4(), number)) {
            self.read_cells(at + cell_of(number), &mut cell);
        }
        u32::from_le_bytes(cell)
    }

    /// Returns the position of a block. All addresses without a block are free.
    fn position(&self, block: u128) -> Option<usize> {
        let at = self.numbers.iter().position(|number| *number == block)?;
        Some(BLOCKS + at * BLOCK)
    }

    /// Reads cells. Unreadable ones are free: a reservation that exists is not overwritten.
    fn read_cells(&self, at: usize, cells: &mut [u8]) {
        let read = |file: &File| file.read_exact_at(cells, at as u64).is_ok();
        if !self.file.as_ref().is_some_and(read) {
            cells.fill(0);
        }
    }

    fn set(&mut self, address: IpAddr, cell: u32) {
        self.has_changed = true;
        if self.write_cell(address, cell).is_err() {
            self.keep_in_memory();
        }
        if self.file.is_none() {
            if cell == FREE {
                self.taken.remove(&address)
            } else {
                self.taken.insert(address)
            };
        }
    }

    fn write_cell(&mut self, address: IpAddr, cell: u32) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let number = number(address);
        let block = block_of(address.is_ipv4(), number);
        let at = match self.position(block) {
            Some(at) => at,
            None if self.numbers.len() == MOST_BLOCKS => return Err(ErrorKind::FileTooLarge.into()),
            None => {
                let count = self.numbers.len();
                let at = BLOCKS + count * BLOCK;
                file.write_all_at(&block.to_le_bytes(), (HEAD + count * NUMBER) as u64)?;
                file.write_all_at(&[0; BLOCK], at as u64)?;
                self.numbers.push(block);
                at
            }
        };
        file.write_all_at(&cell.to_le_bytes(), (at + cell_of(number)) as u64)
    }
}

/// When and in which boot an index was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    boot: [u8; 16],
    /// The modification time that sealing gave to the directory.
    time: i128,
}

impl Seal {
    /// Whether the directory has not changed since.
    pub(super) fn is_of(self, store: &OwnedFd) -> bool {
        rustix::fs::fstat(store)
            .is_ok_and(|stat| nanoseconds(stat.st_mtime, stat.st_mtime_nsec) == self.time)
    }

    /// Whether the file has not changed since, in any way.
    pub(super) fn is_after(self, file: &Stat) -> bool {
        // The seal's time is one second before the moment of sealing.
        nanoseconds(file.st_ctime, file.st_ctime_nsec) <= self.time + 1_000_000_000
    }
}

const V4: u128 = 1 << 127;

/// Returns the number of an address's block.
fn block_of(v4: bool, number: u128) -> u128 {
    number >> 8 | if v4 { V4 } else { 0 }
}

/// Returns the position of an address's cell in its block.
fn cell_of(number: u128) -> usize {
    CELL * usize::from(number.to_le_bytes()[0])
}

/// Returns an address of a block, unless the block is invalid.
fn address_in(block: u128, at: u128) -> Option<IpAddr> {
    let (v4, number) = (block & V4 != 0, (block & !V4) << 8 | at);
    (!v4 || number <= u32::MAX.into()).then(|| address(v4, number))
}

fn hash(holder: &Holder) -> u32 {
    let digest = Sha256::digest(holder.content());
    u32::from_le_bytes(field(&digest, 0)).max(HOLDER_UNKNOWN + 1)
}

fn this_boot() -> Result<[u8; 16]> {
    let text = sysctl::get("kernel/random/boot_id").map_err(Error::other)?;
    Ok(field(&Sha256::digest(text), 0))
}

fn nanoseconds(seconds: i64, nanoseconds: impl Into<i128>) -> i128 {
    i128::from(seconds) * 1_000_000_000 + nanoseconds.into()
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
    };

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn holder(id: &impl ToString) -> Holder {
        Holder::attachment(&id.to_string(), "eth0")
    }

    fn find(index: &Index, holder: &Holder) -> Vec<IpAddr> {
        index.find([holder, &Holder::Container("other".into())]).unwrap()
    }

    /// Returns an empty index of an empty directory.
    fn index() -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        let store = OwnedFd::from(File::open(dir.path().join("net")).unwrap());
        let (mut index, is_valid) = Index::open(dir.path(), "net", &store).unwrap();
        assert!(!is_valid);
        index.clear();
        (dir, index)
    }

    proptest! {
        #[test]
        fn index_has_what_was_inserted_and_not_removed(
            steps in prop::collection::vec((any::<bool>(), 0u8..40, 0u8..6), 1..400),
        ) {
            let (_dir, mut index) = index();
            let mut model: BTreeMap<u8, u8> = BTreeMap::new();
            let address = |n: u8| IpAddr::from([10, 0, 0, n]);
            for (insert, n, id) in steps {
                match model.get(&n).copied() {
                    None if insert => {
                        index.insert(address(n), Some(&holder(&id)));
                        model.insert(n, id);
                    }
                    Some(_) if !insert => {
                        index.remove(address(n));
                        model.remove(&n);
                    }
                    _ => {}
                }
            }
            for id in 0..6 {
                let found: BTreeSet<_> = find(&index, &holder(&id)).into_iter().collect();
                let held = model.iter().filter(|(_, h)| **h == id).map(|(n, _)| address(*n));
                prop_assert_eq!(found, held.collect());
            }
            let number = |n: u8| number(address(n));
            for first in 0..40u8 {
                let free = (first..40).find(|n| !model.contains_key(n)).map(number);
                prop_assert_eq!(index.first_free(true, number(first)..=number(39)), free);
            }
        }
    }

    #[rstest]
    #[case("10.0.0.0", 70_000)]
    #[case("fd00::ffff:7ff3", 70_000)]
    fn first_free_passes_over_many_taken_addresses(#[case] first: &str, #[case] length: u128) {
        let (_dir, mut index) = index();
        let (v4, first) = (ip(first).is_ipv4(), number(ip(first)));
        for n in first..first + length {
            index.insert(address(v4, n), None);
        }
        let end = first + length;
        for from in [first, first + 1, first + 255, first + 256, first + 32_768, end - 1] {
            assert_eq!(index.first_free(v4, from..=end), Some(end));
            assert_eq!(index.first_free(v4, from..=end - 1), None);
        }
        index.remove(address(v4, first + 40_003));
        assert_eq!(index.first_free(v4, first..=end), Some(first + 40_003));
    }

    #[test]
    fn the_last_addresses_of_each_family_can_be_free_or_taken() {
        let (_dir, mut index) = index();
        for last in [ip("255.255.255.255"), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")] {
            let (v4, n) = (last.is_ipv4(), number(last));
            assert_eq!(index.first_free(v4, n - 1..=n), Some(n - 1));
            index.insert(address(v4, n - 1), None);
            assert_eq!(index.first_free(v4, n - 1..=n), Some(n));
            index.insert(last, None);
            assert_eq!(index.first_free(v4, n - 1..=n), None);
        }
    }

    #[test]
    fn released_addresses_leave_room_for_others() {
        let (_dir, mut index) = index();
        let address = |n: u32| IpAddr::V4((n + 1).into());
        for round in 0..3u32 {
            let holder = |n: u32| holder(&format!("{round} {n}"));
            for n in 0..1000u32 {
                index.insert(address(n), Some(&holder(n)));
            }
            assert_eq!(find(&index, &holder(777)), [ip("0.0.3.10")]);
            for n in 0..1000u32 {
                index.remove(address(n));
            }
            assert!(find(&index, &holder(777)).is_empty());
        }
        assert_eq!(index.numbers.len(), 4);
    }
}
