//! "ADD": what it does.

use rscni_linux::Veth;

use crate::{
    shape::{addresses, list},
    verdict::{Checked, is_one_object, not_applicable, not_met, refused, shown, succeeded},
    world::World,
};

pub(super) fn stdout(world: &World, _: &str) -> Checked {
    world.facts()?;
    let mut made =
        world.prepare(world.container(&world.first, "a"), &world.subject.ifname, world.version)?;
    let outcome = world.add(&made);
    world.note(&mut made, &outcome, "ADD")?;
    if is_one_object(&outcome) {
        Ok(())
    } else {
        shown(&outcome, "one JSON object on stdout", "there is more")
    }
}

pub(super) fn interface(world: &World, _: &str) -> Checked {
    makes_interface(world)?;
    let sample = world.sample()?;
    let ifname = &world.subject.ifname;
    match sample.container.link(ifname) {
        Some(_) => Ok(()),
        None => not_met(format!("the container has {ifname} after ADD"), "it has not"),
    }
}

/// It is no IPAM plugin.
pub(super) fn makes_interface(world: &World) -> Checked {
    if world.subject.is_ipam() {
        not_applicable("an IPAM plugin makes no interface")
    } else {
        Ok(())
    }
}

/// It makes the interface, which was not there before it.
pub(super) fn is_first(world: &World) -> Checked {
    makes_interface(world)?;
    if world.subject.is_chained() {
        return not_applicable("a plugin before it makes the interface");
    }
    if world.facts()?.adjusts {
        return not_applicable(format!(
            "it changes {}, which is in the container before it",
            world.subject.ifname
        ));
    }
    Ok(())
}

pub(super) fn existing(world: &World, _: &str) -> Checked {
    is_first(world)?;
    let ifname = &world.subject.ifname;
    let mut netlink = world.first.netlink();
    let Ok(link) = netlink.add_veth(&Veth::new(ifname, "other")) else {
        return not_applicable(format!("{ifname} cannot be made in the container"));
    };
    let before = world.snapshot()?;
    let made = world.prepare(world.container(&world.first, "a"), ifname, world.version)?;
    let outcome = world.add(&made);
    let checked =
        refused(&outcome, "ADD of an interface name that the container has").and_then(|()| {
            world.unchanged_since(&before, "nothing is changed by an ADD that has to be refused")
        });
    // The DEL that follows may remove it too.
    let _ = netlink.del_link(link.index);
    checked
}

pub(super) fn second(world: &World, _: &str) -> Checked {
    if world.subject.ifname == "lo" {
        return not_applicable("there is one lo in a container");
    }
    world.shareable()?;
    if world.subject.prev_result.is_some() {
        return not_applicable("the prevResult of the configuration is of one interface");
    }
    let first = world.attach()?;
    let before = world.snapshot()?;
    let second = world.attach_in(world.container(&world.first, "a"), "cnf1", world.version)?;
    if !world.subject.is_ipam()
        && world.first.netlink().find_link("cnf1").is_ok_and(|link| link.is_none())
    {
        return not_met("the container has cnf1 after its second ADD", "it has not");
    }
    let (one, other) =
        (first.result.as_ref().map(addresses), second.result.as_ref().map(addresses));
    if !world.facts()?.fixed && one == other && one.is_some_and(|all| !all.is_empty()) {
        return not_met("other addresses for the second interface", "they are those of the first");
    }
    world.detach(&second)?;
    world.unchanged_since(
        &before,
        "the first attachment is as it was, and nothing is left of the second",
    )?;
    if world.version_since("0.4.0").is_ok_and(|version| version == world.version) {
        succeeded(
            &world.call("CHECK", &first, first.result.as_ref()).run(),
            "CHECK of the first attachment",
        )?;
    }
    Ok(())
}

pub(super) fn prev_result(world: &World, _: &str) -> Checked {
    if !world.subject.is_chained() {
        return not_applicable("it is the first plugin of its list");
    }
    world.facts()?;
    let mut made =
        world.prepare(world.container(&world.first, "a"), &world.subject.ifname, world.version)?;
    let outcome = world.add(&made);
    world.note(&mut made, &outcome, "ADD")?;
    let (Some(given), Some(result)) = (made.prev_result(), made.result.as_ref()) else {
        return not_applicable("the plugins before it give no result");
    };
    let names =
        |result| list(result, "interfaces").iter().map(|i| i["name"].clone()).collect::<Vec<_>>();
    let missing: Vec<_> =
        names(given).into_iter().filter(|name| !names(result).contains(name)).collect();
    if !missing.is_empty() {
        return shown(
            &outcome,
            "all interfaces of prevResult are in the result",
            format!("without {missing:?}"),
        );
    }
    let missing: Vec<_> =
        addresses(given).into_iter().filter(|ip| !addresses(result).contains(ip)).collect();
    if !missing.is_empty() {
        return shown(
            &outcome,
            "all addresses of prevResult are in the result",
            format!("without {missing:?}"),
        );
    }
    let empty = |value: &serde_json::Value| value.as_object().is_none_or(serde_json::Map::is_empty);
    if !empty(&given["dns"]) && given["dns"] != result["dns"] {
        return shown(
            &outcome,
            format!("dns is {}, as in prevResult", given["dns"]),
            result["dns"].to_string(),
        );
    }
    Ok(())
}
