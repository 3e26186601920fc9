//! The part of host-local in [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use std::{collections::HashSet, fs, net::IpAddr};

use rscni::IpRange;

use super::{
    index::Index,
    range::{RangeSet, number},
    reservation::Holder,
    store::Store,
};
use crate::fuzzing::Place;

/// The content of a reservation's file; range sets as they are configured; and, after an `i`, an index.
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

/// How many addresses of a set are looked at.
const SOME: usize = 300;

fn arithmetic(set: &RangeSet) {
    assert!(set.size() > 0 && set.overlaps(set));
    let stretches = set.stretches(None);
    let length = |first: u128, last: u128| (last - first).saturating_add(1);
    assert_eq!(
        stretches.iter().fold(0, |n: u128, s| n.saturating_add(length(s.first, s.last))),
        set.size()
    );
    for stretch in &stretches {
        assert!(stretch.first <= stretch.last);
        for last in [stretch.first, stretch.last].map(|number| stretch.address(number)) {
            assert_eq!((set.contains(last), number(last) <= stretch.last), (true, true));
            let walked: Vec<_> = set.candidates(Some(last)).take(SOME).collect();
            let distinct: HashSet<_> = walked.iter().collect();
            assert_eq!(distinct.len(), walked.len(), "each once");
            assert!(
                walked.iter().all(|address| set.contains(*address) && !set.is_gateway(*address))
            );
            assert!(
                walked.len() == SOME || !walked.contains(&last) || walked.last() == Some(&last)
            );
            let range = set.range_of(last).expect("it is of a range");
            assert!(range.with_prefix(last).contains(&last));
        }
    }
}

/// An index that is believed and says whatever: nobody holds what the directory does not give him, and what is reserved
/// and released is.
fn with_index(index: &[u8]) {
    let place = Place::new();
    let held: IpAddr = [10, 0, 0, 2].into();
    let file = |address: IpAddr| place.0.join("net").join(address.to_string());
    drop(Store::create(&place.0, "net").expect("the store is made"));
    fs::write(file(held), "id\r\neth0").expect("a reservation is written");
    // It becomes true, and then something else behind its seal and in its table.
    drop(Store::create(&place.0, "net").expect("the store is opened"));
    let path = place.0.join(".index/net");
    let mut bytes = fs::read(&path).expect("there is an index");
    let (front, table) = index.split_at(index.len() / 2);
    for (at, part) in [(Index::SEAL_END, front), (Index::TABLE_START, table)] {
        let length = part.len().min(bytes.len() - at);
        bytes[at..at + length].copy_from_slice(&part[..length]);
    }
    fs::write(&path, bytes).expect("the index is written");

    let addresses = |store: &Store, id: &str| -> Vec<IpAddr> {
        let held = store.held_by(id, "eth0").expect("the store is read");
        held.own.iter().map(|reservation| reservation.address).collect()
    };
    let store = Store::create(&place.0, "net").expect("the store is opened");
    assert!(addresses(&store, "id").iter().all(|address| *address == held));
    assert!(addresses(&store, "other").is_empty());
    let set = RangeSet::read(&[IpRange { subnet: "10.0.0.0/29".into(), ..IpRange::default() }])
        .expect("a range");
    for stretch in set.stretches(Some(held)) {
        if let Some(free) = store.first_free(stretch).expect("the store is read") {
            assert!((stretch.first..=stretch.last).contains(&free));
        }
    }
    assert_eq!(
        store.reserve(held, "other", "eth0", 0).expect("the store is written"),
        None,
        "it is taken"
    );
    for n in 3..7 {
        let address = IpAddr::from([10, 0, 0, n]);
        let reservation = store
            .reserve(address, "other", "eth0", 0)
            .expect("the store is written")
            .expect("it is free");
        assert_eq!(fs::read(file(address)).expect("a reservation has a file"), b"other\r\neth0");
        if n % 2 == 0 {
            let holder = Holder::Attachment { container_id: "other".into(), ifname: "eth0".into() };
            store.release(&reservation, Some(&holder)).expect("the store is written");
            assert!(!file(address).exists());
        }
    }
    assert!(addresses(&store, "other").iter().all(|address| file(*address).exists()));
}
