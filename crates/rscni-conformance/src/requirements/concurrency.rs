//! "Lifecycle & Ordering": plugins run concurrently for different containers.

use std::collections::BTreeSet;

use rscni_test::{Container, Outcome, Snapshot};

use crate::{
    host::{Attachment, PrivateHost},
    shape::addresses,
    verdict::{CheckResult, expect_success, fail, not_applicable},
};

/// The number of concurrent calls.
const COUNT: usize = 16;

/// Containers for concurrent calls, removed on drop.
struct ConcurrentContainers<'a> {
    host: &'a PrivateHost,
    namespaces: Vec<Container>,
    before: Snapshot,
}

impl<'a> ConcurrentContainers<'a> {
    fn create(host: &'a PrivateHost) -> CheckResult<Self> {
        host.require_two_attachments()?;
        if host.subject.prev_result.is_some() {
            return not_applicable("the prevResult of the configuration is of one container");
        }
        let before = host.snapshot()?;
        let namespaces = (0..COUNT).map(|i| host.lab.container(&format!("c{i}"))).collect();
        Ok(Self { host, namespaces, before })
    }

    /// Attaches all containers: with the previous plugins one by one, then concurrently.
    fn attach(&self) -> CheckResult<Vec<Attachment>> {
        let host = self.host;
        let container = |(i, namespace)| host.container(namespace, &format!("c{i}"));
        let containers = self.namespaces.iter().enumerate().map(container);
        let prepared = containers.map(|c| host.prepare(c, &host.subject.ifname, host.version));
        let mut all = prepared.collect::<CheckResult<Vec<_>>>()?;
        let outcomes = self.call(&all, "ADD");
        for (made, outcome) in all.iter_mut().zip(&outcomes) {
            host.record_result(made, outcome, "each of 16 concurrent ADDs")?;
        }
        Ok(all)
    }

    fn call(&self, all: &[Attachment], command: &str) -> Vec<Outcome> {
        let host = self.host;
        let prev_result =
            |made: &Attachment| made.result.clone().or_else(|| made.prev_result().cloned());
        let calls = all.iter().map(|made| host.call(command, made, prev_result(made).as_ref()));
        std::thread::scope(|scope| {
            let started: Vec<_> = calls.map(|call| scope.spawn(|| call.run())).collect();
            started.into_iter().map(|call| call.join().expect("a call does not panic")).collect()
        })
    }
}

impl Drop for ConcurrentContainers<'_> {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            self.host.lab.remove_namespace(namespace);
        }
    }
}

pub(super) fn add(host: &PrivateHost, _: &str) -> CheckResult {
    let (added, deleted) = add_and_del(host);
    // The next requirement needs no containers of its own.
    host.defer(deleted);
    added
}

pub(super) fn del(host: &PrivateHost, _: &str) -> CheckResult {
    host.take_deferred().unwrap_or_else(|| add_and_del(host).1)
}

/// Returns the results of attaching and of detaching.
fn add_and_del(host: &PrivateHost) -> (CheckResult, CheckResult) {
    let attached = ConcurrentContainers::create(host)
        .and_then(|containers| Ok((containers.attach()?, containers)));
    match attached {
        Ok((all, containers)) => (expect_distinct(host, &all), detach(containers, &all)),
        Err(error) => (
            Err(error),
            not_applicable("16 containers cannot be attached concurrently, see concurrent-add"),
        ),
    }
}

fn expect_distinct(host: &PrivateHost, all: &[Attachment]) -> CheckResult {
    if host.facts()?.has_fixed_addresses {
        return Ok(());
    }
    let addresses: Vec<_> =
        all.iter().filter_map(|made| made.result.as_ref()).flat_map(addresses).collect();
    let (count, distinct) = (addresses.len(), addresses.iter().collect::<BTreeSet<_>>().len());
    if distinct == count {
        return Ok(());
    }
    fail("different addresses", format!("{count} addresses, {distinct} of them distinct"))
}

fn detach(containers: ConcurrentContainers<'_>, all: &[Attachment]) -> CheckResult {
    let host = containers.host;
    for outcome in containers.call(all, "DEL") {
        expect_success(&outcome, "each of 16 concurrent DELs")?;
    }
    for made in all {
        host.detach_previous(made);
    }
    let before = containers.before.clone();
    drop(containers);
    host.expect_unchanged(&before, "nothing is left of 16 containers")
}
