//! "STATUS": whether ADD could be serviced.

use rscni_test::Outcome;

use crate::{
    verdict::{Checked, shown, succeeded},
    world::World,
};

fn status(world: &World) -> Checked<Outcome> {
    let config = world.config(world.version_since("1.1.0")?, None);
    Ok(world.plugin.status(&config))
}

pub(super) fn ready(world: &World, _: &str) -> Checked {
    let outcome = status(world)?;
    world.facts()?;
    succeeded(&outcome, "STATUS, where ADD does,")
}

pub(super) fn silent(world: &World, _: &str) -> Checked {
    let outcome = status(world)?;
    world.facts()?;
    if outcome.stdout().is_empty() || crate::verdict::error(&outcome).is_some() {
        return Ok(());
    }
    shown(&outcome, "nothing on stdout", outcome.stdout())
}
