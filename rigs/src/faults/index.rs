//! Whether host-local's index agrees with its directory, wherever a call would trust it.
//!
//! This is a separate reader of the format in `crates/rscni-plugins/src/host_local/index.rs`, so
//! that an error there cannot hide itself. A call does not trust an index of another boot or with
//! another modification time of the directory, but rebuilds it; such an index may contain anything.

use std::{collections::BTreeSet, net::IpAddr, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Result, ensure};
use fs_err as fs;
use sha2::{Digest, Sha256};

const NETWORKS: &str = "/var/lib/cni/networks";
const BLOCK: usize = 4096;
const PAGES: usize = 200;
const PAGE_BITS: u32 = 15;
const TABLE: usize = BLOCK * (1 + PAGES);
const SLOT: usize = 32;
const HEAD: usize = 64;

/// Addresses, each with the hash of its owner.
type Entries = BTreeSet<(IpAddr, u64)>;

/// Wrong indexes, each on a line.
pub(super) fn disagreements() -> Vec<String> {
    let networks = Path::new(NETWORKS);
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(networks.join(".index")).into_iter().flatten().flatten() {
        let directory = networks.join(entry.file_name());
        if let Err(error) = check(&entry.path(), &directory) {
            let directory = directory.display();
            wrong.push(format!("the index of {directory} is trusted and wrong: {error:#}"));
        }
    }
    wrong
}

fn check(index: &Path, directory: &Path) -> Result<()> {
    let bytes = fs::read(index)?;
    let Ok(metadata) = fs::metadata(directory) else { return Ok(()) };
    let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = Sha256::digest(boot.trim_end());
    let is_trusted = bytes.len() >= HEAD
        && bytes.starts_with(b"rscni 1\n")
        && bytes[8..24] == boot[..16]
        && bytes[24..40] == modified.to_le_bytes();
    if !is_trusted {
        return Ok(());
    }
    let reserved = reservations(directory)?;
    let number = |at: usize| usize::try_from(number(&bytes, 40 + 8 * at));
    let (capacity, used, pages) = (number(0)?, number(1)?, number(2)?);
    ensure!(capacity.is_power_of_two() && pages <= PAGES, "{capacity} slots and {pages} pages");
    let taken = taken(&bytes, pages);
    let addresses: BTreeSet<IpAddr> = reserved.iter().map(|(address, _)| *address).collect();
    ensure!(taken == addresses, "it has {taken:?} as taken, the directory {addresses:?}");
    let slots: Vec<_> = (0..capacity).map(|at| slot(&bytes, at)).collect();
    let in_use = slots.iter().filter(|(key, _)| *key != 0).count();
    let is_counted = in_use == used && used < capacity;
    ensure!(is_counted, "{in_use} of {capacity} slots are in use, but it says {used}");
    let entries: Entries =
        slots.iter().filter_map(|(key, address)| Some(((*address)?, *key))).collect();
    ensure!(entries == reserved, "its owners are {entries:?}, the directory's {reserved:?}");
    for (address, key) in reserved {
        let start = usize::try_from(key)? & (capacity - 1);
        let mut row = (start..start + capacity)
            .map(|at| slots[at & (capacity - 1)])
            .take_while(|(key, _)| *key != 0);
        let is_found = row.any(|slot| slot == (key, Some(address)));
        ensure!(is_found, "{address} is not found by its owner");
    }
    Ok(())
}

/// The reservations in the directory that name an owner.
fn reservations(directory: &Path) -> Result<Entries> {
    let mut reserved = Entries::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let content = fs::read_to_string(entry.path())?;
        if !content.trim().is_empty() {
            let digest = Sha256::digest(content.trim());
            reserved.insert((address, number(&digest, 0).max(2)));
        }
    }
    Ok(reserved)
}

/// The addresses whose bits are set.
fn taken(bytes: &[u8], pages: usize) -> BTreeSet<IpAddr> {
    const V4: u128 = 1 << 127;
    let mut taken = BTreeSet::new();
    for at in 0..pages {
        let page = wide(bytes, HEAD + 16 * at);
        let block = bytes.iter().skip(BLOCK * (1 + at)).take(BLOCK);
        for (byte, bits) in (0u128..).zip(block) {
            for bit in (0..8).filter(|bit| bits >> bit & 1 == 1) {
                let number = (page & !V4) << PAGE_BITS | (byte * 8 + bit);
                taken.insert(address(page & V4 != 0, number));
            }
        }
    }
    taken
}

/// The key of a slot, and its address unless it is empty or was deleted.
fn slot(bytes: &[u8], at: usize) -> (u64, Option<IpAddr>) {
    let at = TABLE + SLOT * at;
    let key = number(bytes, at);
    (key, (key > 1).then(|| address(bytes.get(at + 8) == Some(&4), wide(bytes, at + 16))))
}

#[expect(clippy::cast_possible_truncation, reason = "an IPv4 address has 32 bits")]
fn address(v4: bool, number: u128) -> IpAddr {
    if v4 { IpAddr::V4((number as u32).into()) } else { IpAddr::V6(number.into()) }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn wide(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(field(bytes, at))
}

/// Bytes beyond the end of the file are zero.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    field
}

#[cfg(test)]
mod tests {
    use std::{
        fs::FileTimes,
        time::{Duration, SystemTime},
    };

    use super::*;

    /// A directory with one reservation, and its index.
    struct Store {
        directory: tempfile::TempDir,
        index: Vec<u8>,
    }

    impl Store {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let network = directory.path().join("net");
            fs::create_dir(&network).unwrap();
            fs::write(network.join("10.7.0.2"), "a\r\neth0").unwrap();
            let sealed = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_000_000_007);
            let times = FileTimes::new().set_modified(sealed);
            std::fs::File::open(&network).unwrap().set_times(times).unwrap();
            let (address, capacity) = (0x0a07_0002_u128, 128_u64);
            let mut index = vec![0; TABLE + SLOT * 128];
            let mut put =
                |at: usize, bytes: &[u8]| index[at..at + bytes.len()].copy_from_slice(bytes);
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
            put(0, b"rscni 1\n");
            put(8, &Sha256::digest(boot.trim_end())[..16]);
            put(24, &1_000_000_007_i128.to_le_bytes());
            for (at, value) in [(40, capacity), (48, 1), (56, 1)] {
                put(at, &value.to_le_bytes());
            }
            put(HEAD, &(address >> PAGE_BITS | 1 << 127).to_le_bytes());
            put(BLOCK + (address as usize & 0x7fff) / 8, &[1 << 2]);
            let key = number(&Sha256::digest("a\r\neth0"), 0);
            let slot = TABLE + SLOT * usize::try_from(key & (capacity - 1)).unwrap();
            put(slot, &key.to_le_bytes());
            put(slot + 8, &[4]);
            put(slot + 16, &address.to_le_bytes());
            Self { directory, index }
        }

        fn check(&self, index: &[u8]) -> Result<()> {
            let [file, network] = ["index", "net"].map(|name| self.directory.path().join(name));
            fs::write(&file, index).unwrap();
            check(&file, &network)
        }

        /// Checks the index with another byte.
        fn check_with(&self, at: usize, byte: u8) -> Result<()> {
            let mut index = self.index.clone();
            index[at] = byte;
            self.check(&index)
        }
    }

    #[test]
    fn a_trusted_index_has_the_addresses_and_owners_of_its_directory() {
        let store = Store::new();
        store.check_with(0, b'r').unwrap();
        let bit = store.check_with(BLOCK, 1).unwrap_err().to_string();
        assert!(bit.contains("10.7.0.0") && bit.contains("as taken"), "{bit}");
        let used = store.check_with(48, 2).unwrap_err().to_string();
        assert!(used.contains("1 of 128 slots are in use"), "{used}");
        let slot = (TABLE..store.index.len()).find(|at| store.index[*at] != 0).unwrap();
        let owner = store.check_with(slot + 7, store.index[slot + 7] ^ 1).unwrap_err().to_string();
        assert!(owner.contains("its owners are"), "{owner}");
    }

    #[test]
    fn an_index_of_another_time_or_boot_is_not_trusted() {
        let store = Store::new();
        for at in [0, 8, 24] {
            let mut index = store.index.clone();
            index[at] ^= 1;
            index[BLOCK] = 1;
            store.check(&index).unwrap();
        }
    }
}
