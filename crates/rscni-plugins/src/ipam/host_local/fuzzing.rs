//! The part of host-local in [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use std::{collections::HashSet, fs, net::IpAddr};

use rscni::IpRange;

use super::{
    index::{BLOCK, BLOCKS, COUNT, HEAD, NUMBER},
    range::{RangeSet, number},
    reservation::Holder,
    store::Store,
};
use crate::fuzzing::scratch::ScratchDirectory;

/// Fuzzes the content of a reservation, configured range sets, and after an `i` an index.
pub fn host_local(data: &[u8]) {
    if let Some(index) = data.strip_prefix(b"i") {
        return with_index(index);
    }
    if let Some(holder) = Holder::parse(data) {
        assert_eq!(Holder::parse(holder.content().as_bytes()).as_ref(), Some(&holder));
    }
    if let Ok(sets) = serde_json::from_slice::<Vec<Vec<IpRange>>>(data) {
        let sets: Vec<_> = sets.iter().filter_map(|set| RangeSet::read(set).ok()).collect();
        sets.iter().for_each(arithmetic);
    }
}

/// Number of addresses of a set to walk.
const SOME: usize = 300;

fn arithmetic(set: &RangeSet) {
    assert!(set.size() > 0 && set.overlaps(set));
    let intervals = set.intervals(None);
    let length = |first: u128, last: u128| (last - first).saturating_add(1);
    assert_eq!(
        intervals.iter().fold(0, |n: u128, s| n.saturating_add(length(s.first, s.last))),
        set.size()
    );
    for interval in &intervals {
        assert!(interval.first <= interval.last);
        for last in [interval.first, interval.last].map(|number| interval.address(number)) {
            assert_eq!((set.contains(last), number(last) <= interval.last), (true, true));
            let walked: Vec<_> = set.candidates(Some(last)).take(SOME).collect();
            let distinct: HashSet<_> = walked.iter().collect();
            assert_eq!(distinct.len(), walked.len(), "no address twice");
            assert!(
                walked.iter().all(|address| set.contains(*address) && !set.is_gateway(*address))
            );
            assert!(
                walked.len() == SOME || !walked.contains(&last) || walked.last() == Some(&last)
            );
            let range = set.range_of(last).expect("the address is in a range");
            assert!(range.with_prefix(last).contains(&last));
        }
    }
}

/// A valid index with any content: no attachment gets an address that the directory does not give
/// it, and reserving and releasing have their effects.
fn with_index(index: &[u8]) {
    let scratch = ScratchDirectory::new();
    let data_dir = &scratch.0;
    let held: IpAddr = [10, 0, 0, 2].into();
    let file = |address: IpAddr| data_dir.join("net").join(address.to_string());
    let create = || Store::create(data_dir, "net").expect("the store opens");
    drop(create());
    fs::write(file(held), "id\r\neth0").expect("a reservation is written");
    drop(create());
    // The index is sealed now. Change its cells and the numbers of its blocks.
    let path = data_dir.join(".index/net");
    let mut bytes = fs::read(&path).expect("there is an index");
    let (numbers, cells) = index.split_at(index.len() / 2);
    let count = (cells.len() + numbers.len()).div_ceil(BLOCK).max(1);
    bytes.resize(BLOCKS + count * BLOCK, 0);
    bytes[COUNT..HEAD].copy_from_slice(&(count as u64).to_le_bytes());
    // The first block keeps its number, the others get any.
    let numbers = &numbers[..numbers.len().min(NUMBER * (count - 1))];
    bytes[HEAD + NUMBER..][..numbers.len()].copy_from_slice(numbers);
    bytes[BLOCKS..][..cells.len()].copy_from_slice(cells);
    fs::write(&path, bytes).expect("the index is written");

    let addresses = |store: &Store, id: &str| -> Vec<IpAddr> {
        let held = store.held_by(id, "eth0").expect("the store is read");
        held.own.iter().map(|reservation| reservation.address).collect()
    };
    let store = create();
    assert!(addresses(&store, "id").iter().all(|address| *address == held));
    assert!(addresses(&store, "other").is_empty());
    let range = IpRange { subnet: "10.0.0.0/29".into(), ..IpRange::default() };
    for interval in RangeSet::read(&[range]).expect("a range").intervals(Some(held)) {
        if let Some(free) = store.first_free(interval) {
            assert!((interval.first..=interval.last).contains(&free));
        }
    }
    let reserve =
        |address| store.reserve(address, "other", "eth0", 0).expect("the store is written");
    assert_eq!(reserve(held), None, "the address is taken");
    for n in 3..7 {
        let address = IpAddr::from([10, 0, 0, n]);
        let reservation = reserve(address).expect("the address is free");
        assert_eq!(fs::read(file(address)).expect("a reservation has a file"), b"other\r\neth0");
        if n % 2 == 0 {
            store.release(&reservation).expect("the store is written");
            assert!(!file(address).exists());
        }
    }
    assert!(addresses(&store, "other").iter().all(|address| file(*address).exists()));
}
