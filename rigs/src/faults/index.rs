//! Whether host-local's index says the same as its directory, wherever it would be believed.
//!
//! It is a reader of its own for the format that `crates/rscni-plugins/src/host_local/index.rs` describes, so that an
//! error there cannot hide itself. An index that a call would not believe, since the boot or the directory's time of
//! modification is another, may say anything: it is made anew then.

use std::{collections::BTreeSet, fs, net::IpAddr, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

const NETWORKS: &str = "/var/lib/cni/networks";
const BLOCK: usize = 4096;
const PAGES: usize = 200;
const PAGE_BITS: u32 = 15;
const TABLE: usize = BLOCK * (1 + PAGES);
const SLOT: usize = 32;
const HEAD: usize = 64;

/// An address, and the hash of who has it.
type Entries = BTreeSet<(IpAddr, u64)>;

/// What the indexes say that is not so, each on a line.
pub(super) fn disagreements() -> Vec<String> {
    let networks = Path::new(NETWORKS);
    let mut wrong = Vec::new();
    for entry in fs::read_dir(networks.join(".index")).into_iter().flatten().flatten() {
        let directory = networks.join(entry.file_name());
        if let Err(error) = agrees(&entry.path(), &directory) {
            wrong.push(format!(
                "the index of {} is believed and wrong: {error:#}",
                directory.display()
            ));
        }
    }
    wrong
}

fn agrees(index: &Path, directory: &Path) -> Result<()> {
    let bytes = fs::read(index).with_context(|| format!("read {}", index.display()))?;
    let Ok(metadata) = fs::metadata(directory) else { return Ok(()) };
    let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = Sha256::digest(boot.trim_end());
    let is_believed = bytes.len() >= HEAD
        && bytes.starts_with(b"rscni 1\n")
        && bytes[8..24] == boot[..16]
        && bytes[24..40] == modified.to_le_bytes();
    if !is_believed {
        return Ok(());
    }
    let held = held(directory)?;
    let number = |at: usize| usize::try_from(number(&bytes, 40 + 8 * at));
    let (capacity, used, pages) = (number(0)?, number(1)?, number(2)?);
    ensure!(capacity.is_power_of_two() && pages <= PAGES, "{capacity} slots and {pages} pages");
    let taken = taken(&bytes, pages);
    let addresses: BTreeSet<IpAddr> = held.iter().map(|(address, _)| *address).collect();
    ensure!(taken == addresses, "it has {taken:?} as taken, the directory {addresses:?}");
    let slots: Vec<_> = (0..capacity).map(|at| slot(&bytes, at)).collect();
    let in_use = slots.iter().filter(|(key, _)| *key != 0).count();
    ensure!(
        in_use == used && used < capacity,
        "{in_use} of {capacity} slots are in use, and it says {used}"
    );
    let entries: Entries =
        slots.iter().filter_map(|(key, address)| Some(((*address)?, *key))).collect();
    ensure!(entries == held, "its holders are {entries:?}, the directory's {held:?}");
    for (address, key) in held {
        let start = usize::try_from(key)? & (capacity - 1);
        let mut row = (start..start + capacity)
            .map(|at| slots[at & (capacity - 1)])
            .take_while(|(key, _)| *key != 0);
        ensure!(
            row.any(|slot| slot == (key, Some(address))),
            "{address} is not found by its holder"
        );
    }
    Ok(())
}

/// The reservations in the directory that say whose they are. The remains of one are as good as none.
fn held(directory: &Path) -> Result<Entries> {
    let mut held = Entries::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let content = fs::read_to_string(entry.path())?;
        if !content.trim().is_empty() {
            let digest = Sha256::digest(content.trim());
            held.insert((address, number(&digest, 0).max(2)));
        }
    }
    Ok(held)
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

/// The key of a slot, and its address if it is not empty or only was in use.
fn slot(bytes: &[u8], at: usize) -> (u64, Option<IpAddr>) {
    let at = TABLE + SLOT * at;
    let key = number(bytes, at);
    (key, (key > 1).then(|| address(bytes.get(at + 8) == Some(&4), wide(bytes, at + 16))))
}

#[expect(clippy::cast_possible_truncation, reason = "an IPv4 address has 32 bits")]
fn address(v4: bool, number: u128) -> IpAddr {
    if v4 { IpAddr::V4((number as u32).into()) } else { IpAddr::V6(number.into()) }
}

/// What is beyond the end of the file is zero.
fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn wide(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(field(bytes, at))
}

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
        path::PathBuf,
        time::{Duration, SystemTime},
    };

    use super::*;

    /// A directory with one reservation, and the index that describes it.
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
            fs::File::open(&network)
                .unwrap()
                .set_times(FileTimes::new().set_modified(sealed))
                .unwrap();
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

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// Whether the index agrees once a byte of it is another.
        fn agrees_with(&self, at: usize, byte: u8) -> Result<()> {
            let mut index = self.index.clone();
            index[at] = byte;
            fs::write(self.path("index"), index).unwrap();
            agrees(&self.path("index"), &self.path("net"))
        }
    }

    #[test]
    fn an_index_that_is_believed_has_the_addresses_and_the_holders_of_its_directory() {
        let store = Store::new();
        store.agrees_with(0, b'r').unwrap();
        let bit = store.agrees_with(BLOCK, 1).unwrap_err().to_string();
        assert!(bit.contains("10.7.0.0") && bit.contains("as taken"), "{bit}");
        let used = store.agrees_with(48, 2).unwrap_err().to_string();
        assert!(used.contains("1 of 128 slots are in use"), "{used}");
        let slot = (TABLE..store.index.len()).find(|at| store.index[*at] != 0).unwrap();
        let holder =
            store.agrees_with(slot + 7, store.index[slot + 7] ^ 1).unwrap_err().to_string();
        assert!(holder.contains("its holders are"), "{holder}");
    }

    #[test]
    fn an_index_of_another_time_or_boot_is_not_believed_and_may_say_anything() {
        let store = Store::new();
        for at in [0, 8, 24] {
            let mut index = store.index.clone();
            index[at] ^= 1;
            index[BLOCK] = 1;
            fs::write(store.path("index"), index).unwrap();
            agrees(&store.path("index"), &store.path("net")).unwrap();
        }
    }
}
