//! "Lifecycle & Ordering": plugins are executed at the same time for different containers.

use std::collections::BTreeSet;

use rscni_test::{Container, Outcome, Snapshot};

use crate::{
    shape::addresses,
    verdict::{Checked, not_applicable, not_met, succeeded},
    world::{Attachment, World},
};

/// How many at once.
const AT_ONCE: usize = 16;

/// Containers that are there for as long as this is.
struct Crowd<'a> {
    world: &'a World,
    namespaces: Vec<Container>,
    before: Snapshot,
}

impl<'a> Crowd<'a> {
    fn gather(world: &'a World) -> Checked<Self> {
        world.shareable()?;
        if world.subject.prev_result.is_some() {
            return not_applicable("the prevResult of the configuration is of one container");
        }
        let before = world.snapshot()?;
        let namespaces =
            (0..AT_ONCE).map(|number| world.lab.container(&format!("c{number}"))).collect();
        Ok(Self { world, namespaces, before })
    }

    /// Attaches all of them, at once but for the plugins that come before.
    fn attach(&self) -> Checked<Vec<Attachment>> {
        let world = self.world;
        let container = |(number, namespace)| world.container(namespace, &format!("c{number}"));
        let containers = self.namespaces.iter().enumerate().map(container);
        let prepared = containers.map(|c| world.prepare(c, &world.subject.ifname, world.version));
        let mut all = prepared.collect::<Checked<Vec<_>>>()?;
        let outcomes = self.at_once(&all, "ADD");
        for (made, outcome) in all.iter_mut().zip(&outcomes) {
            world.note(made, outcome, "each of 16 ADDs at once")?;
        }
        Ok(all)
    }

    fn at_once(&self, all: &[Attachment], command: &str) -> Vec<Outcome> {
        let world = self.world;
        let given = |made: &Attachment| made.result.clone().or_else(|| made.prev_result().cloned());
        let calls = all.iter().map(|made| world.call(command, made, given(made).as_ref()));
        std::thread::scope(|scope| {
            let started: Vec<_> = calls.map(|call| scope.spawn(|| call.run())).collect();
            started.into_iter().map(|call| call.join().expect("a call does not panic")).collect()
        })
    }
}

impl Drop for Crowd<'_> {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            self.world.lab.remove_namespace(namespace);
        }
    }
}

pub(super) fn add(world: &World, _: &str) -> Checked {
    let (added, deleted) = both(world);
    // The next requirement need not gather all of them again.
    world.keep(deleted);
    added
}

pub(super) fn del(world: &World, _: &str) -> Checked {
    world.kept().unwrap_or_else(|| both(world).1)
}

/// What attaching them comes to, and what detaching them.
fn both(world: &World) -> (Checked, Checked) {
    let attached = Crowd::gather(world).and_then(|crowd| Ok((crowd.attach()?, crowd)));
    match attached {
        Ok((all, crowd)) => (distinct(world, &all), detach(crowd, &all)),
        Err(not) => (
            Err(not),
            not_applicable("16 containers cannot be attached at once, see concurrent-add"),
        ),
    }
}

fn distinct(world: &World, all: &[Attachment]) -> Checked {
    if world.facts()?.fixed {
        // The configuration itself gives all containers the same.
        return Ok(());
    }
    let given: Vec<_> =
        all.iter().filter_map(|made| made.result.as_ref()).flat_map(addresses).collect();
    let distinct = given.iter().collect::<BTreeSet<_>>().len();
    if distinct == given.len() {
        return Ok(());
    }
    not_met(
        "addresses that no two containers have",
        format!("{} addresses, {distinct} of them distinct", given.len()),
    )
}

fn detach(crowd: Crowd<'_>, all: &[Attachment]) -> Checked {
    let world = crowd.world;
    for outcome in crowd.at_once(all, "DEL") {
        succeeded(&outcome, "each of 16 DELs at once")?;
    }
    for made in all {
        world.forget(made);
    }
    let before = crowd.before.clone();
    drop(crowd);
    world.unchanged_since(&before, "nothing is left of 16 containers")
}
