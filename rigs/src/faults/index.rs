//! Checks that host-local's index agrees with its directory if it is valid.
//!
//! The format is documented in `crates/rscni-plugins/src/ipam/host_local/index.rs`. It is parsed
//! here a second time, so that an error there cannot hide itself. An invalid index, of another boot
//! or of another modification time of the directory, may have any content: it is rebuilt.

use std::{collections::BTreeMap, fs, net::IpAddr, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

const NETWORKS: &str = "/var/lib/cni/networks";
const HEAD: usize = 48;
/// Position of the first block, after the numbers of all blocks.
const BLOCKS: usize = HEAD + 16 * 4096;
/// A cell for each of the addresses of a block.
const BLOCK: usize = 4 * 256;

/// The hash of the holder of each address.
type Holders = BTreeMap<IpAddr, u32>;

/// Returns the contradictions of all indexes, one a line.
pub(super) fn disagreements() -> Vec<String> {
    let networks = Path::new(NETWORKS);
    let mut wrong = Vec::new();
    for entry in fs::read_dir(networks.join(".index")).into_iter().flatten().flatten() {
        let directory = networks.join(entry.file_name());
        if let Err(error) = agrees(&entry.path(), &directory) {
            wrong.push(format!(
                "the index of {} is valid and wrong: {error:#}",
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
    let is_valid = bytes.len() >= HEAD
        && bytes.starts_with(b"rscni 2\n")
        && bytes[8..24] == boot[..16]
        && bytes[24..40] == modified.to_le_bytes();
    if !is_valid {
        return Ok(());
    }
    let count = usize::try_from(u64::from_le_bytes(field(&bytes, 40)))?;
    ensure!(bytes.len() == BLOCKS + count * BLOCK, "{count} blocks in {} bytes", bytes.len());
    let numbers = bytes[HEAD..BLOCKS].chunks_exact(16);
    let indexed: Holders =
        numbers.zip(bytes[BLOCKS..].chunks_exact(BLOCK)).flat_map(holders).collect();
    let held = held(directory)?;
    let addresses = |holders: &Holders| holders.keys().copied().collect::<Vec<_>>();
    let (taken, reserved) = (addresses(&indexed), addresses(&held));
    ensure!(taken == reserved, "{taken:?} are taken in the index, {reserved:?} in the directory");
    ensure!(indexed == held, "the holders are {indexed:?} in the index, {held:?} in the directory");
    Ok(())
}

/// Returns the reservations in the directory, without incomplete ones.
fn held(directory: &Path) -> Result<Holders> {
    let mut held = Holders::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let content = fs::read_to_string(entry.path())?;
        if !content.trim().is_empty() {
            held.insert(address, hash(content.trim()));
        }
    }
    Ok(held)
}

/// Returns the taken addresses of a block.
#[expect(clippy::cast_possible_truncation, reason = "an IPv4 address has 32 bits")]
fn holders((number, block): (&[u8], &[u8])) -> impl Iterator<Item = (IpAddr, u32)> {
    const V4: u128 = 1 << 127;
    let number = u128::from_le_bytes(field(number, 0));
    let address = move |at: u128| match (number & !V4) << 8 | at {
        address if number & V4 != 0 => IpAddr::V4((address as u32).into()),
        address => IpAddr::V6(address.into()),
    };
    let cells = block.chunks_exact(4).map(|cell| u32::from_le_bytes(field(cell, 0)));
    (0..).map(address).zip(cells).filter(|(_, holder)| *holder != 0)
}

fn hash(holder: &str) -> u32 {
    u32::from_le_bytes(field(&Sha256::digest(holder), 0)).max(2)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

#[cfg(test)]
mod tests {
    use std::{
        fs::FileTimes,
        path::PathBuf,
        time::{Duration, SystemTime},
    };

    use super::*;

    /// A directory with one reservation, and its index.
    struct Store {
        directory: tempfile::TempDir,
        index: Vec<u8>,
    }

    /// Position of the cell of 10.7.0.2.
    const CELL: usize = BLOCKS + 4 * 2;

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
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
            let mut index = vec![0; BLOCKS + BLOCK];
            let mut put =
                |at: usize, bytes: &[u8]| index[at..at + bytes.len()].copy_from_slice(bytes);
            put(0, b"rscni 2\n");
            put(8, &Sha256::digest(boot.trim_end())[..16]);
            put(24, &1_000_000_007_i128.to_le_bytes());
            put(40, &1_u64.to_le_bytes());
            put(HEAD, &(0x000a_0700_u128 | 1 << 127).to_le_bytes());
            put(CELL, &hash("a\r\neth0").to_le_bytes());
            Self { directory, index }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// Checks the index after a change of one byte.
        fn agrees_with(&self, at: usize, byte: u8) -> Result<()> {
            let mut index = self.index.clone();
            index[at] = byte;
            fs::write(self.path("index"), index).unwrap();
            agrees(&self.path("index"), &self.path("net"))
        }
    }

    #[test]
    fn a_valid_index_has_the_addresses_and_holders_of_its_directory() {
        let store = Store::new();
        store.agrees_with(0, b'r').unwrap();
        let taken = store.agrees_with(BLOCKS, 1).unwrap_err().to_string();
        assert!(taken.contains("[10.7.0.0, 10.7.0.2] are taken"), "{taken}");
        let count = store.agrees_with(40, 2).unwrap_err().to_string();
        assert!(count.contains("2 blocks in 66608 bytes"), "{count}");
        let holder = store.agrees_with(CELL, store.index[CELL] ^ 4).unwrap_err().to_string();
        assert!(holder.contains("the holders are"), "{holder}");
    }

    #[test]
    fn an_invalid_index_may_have_any_content() {
        let store = Store::new();
        for at in [0, 8, 24] {
            let mut index = store.index.clone();
            index[at] ^= 1;
            index[BLOCKS] = 1;
            fs::write(store.path("index"), index).unwrap();
            agrees(&store.path("index"), &store.path("net")).unwrap();
        }
    }
}
