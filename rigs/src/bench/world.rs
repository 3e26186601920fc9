//! Where everything is measured: a private network with both sets of plugins in one directory in memory.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use rscni_linux::{AddressFlags, Bridge, LinkChange};
use rscni_test::Lab;
use serde_json::{Value, json};

use super::{
    call::{Attachment, Call},
    cases::{self, BRIDGE, Case, Floor, Side},
};
use xtask::program;

/// The programs that are measured, as they were built.
pub(crate) struct Programs {
    pub(crate) rscni: PathBuf,
    /// Empty where the peer is not measured.
    pub(crate) peer: Vec<PathBuf>,
    pub(crate) floor: Option<PathBuf>,
    /// A program that does nothing, linked as [`EMPTY`] says.
    pub(crate) empty: Vec<PathBuf>,
    pub(crate) runtime: Option<PathBuf>,
}

/// The program that does nothing: with glibc, as a static program usually is, and with the C library that ours has.
pub(crate) const EMPTY: [&str; 2] = ["empty-glibc", "empty"];

/// The private network with everything in its place. This process is in it and stays there.
pub(crate) struct World {
    pub(crate) lab: Lab,
    floor_bridge: u32,
}

impl World {
    /// Moves this process, which has one thread, into a private network, and sets everything up.
    pub(crate) fn enter(programs: &Programs) -> Result<Self> {
        let lab = rscni_test::enter_private_network()?;
        let mut host = lab.host().netlink();
        let bridge = host.add_bridge(&Bridge::new(Side::Floor.bridge()))?.index;
        host.set_link(bridge, &LinkChange { up: Some(true), ..LinkChange::default() })?;
        host.add_address(bridge, Side::Floor.gateway().parse()?, AddressFlags::default())?;
        let world = Self { lab, floor_bridge: bridge };
        for side in [Side::Ours, Side::Peer, Side::Floor] {
            std::fs::create_dir_all(world.directory(side))?;
        }
        // Both from the same file system: which one is read from would else be a difference.
        let ours = world.directory(Side::Ours);
        program::capture(Command::new(&programs.rscni).arg("install").arg(&ours))?;
        for plugin in &programs.peer {
            copy(plugin, &world.directory(Side::Peer))?;
        }
        for program in programs.floor.iter().chain(&programs.empty).chain(&programs.runtime) {
            copy(program, &world.directory(Side::Floor))?;
        }
        Ok(world)
    }

    /// Where the programs of a side are.
    pub(crate) fn directory(&self, side: Side) -> PathBuf {
        self.lab.dir().join(side.name())
    }

    /// A new container.
    pub(crate) fn attachment(&self, name: &str, number: u16) -> Attachment {
        let container = self.lab.container(name);
        Attachment { id: container.id().to_owned(), netns: container.path().to_owned(), number }
    }

    /// A new container for a case, one of several.
    pub(crate) fn attachment_of(&self, case: &Case, number: u16) -> Attachment {
        let name: String = case.name.chars().filter(char::is_ascii_alphanumeric).collect();
        self.attachment(&format!("{name}{number}"), number)
    }

    /// What has to be there before the ADD of a case: for a chained plugin the interface, and the result that it gets.
    pub(crate) fn prepare(&self, case: &Case, side: Side, on: &Attachment) -> Result<Value> {
        if !case.chained {
            return Ok(Value::Null);
        }
        Ok(self.plugin(&BRIDGE, side, "ADD", on, &Value::Null).timed()?.1)
    }

    /// Takes away what [`prepare`](Self::prepare) made.
    pub(crate) fn restore(&self, case: &Case, side: Side, on: &Attachment) -> Result<()> {
        if case.chained {
            self.plugin(&BRIDGE, side, "DEL", on, &Value::Null).timed()?;
        }
        Ok(())
    }

    /// The ADD of a case, with what [`prepare`](Self::prepare) gave.
    pub(crate) fn add(
        &self,
        case: &Case,
        side: Side,
        on: &Attachment,
        before: &Value,
    ) -> Result<Call> {
        if side != Side::Floor {
            return Ok(self.plugin(case, side, "ADD", on, before));
        }
        let netns = on.netns.display().to_string();
        let (end, address, gateway) =
            (FLOOR_END.to_owned(), side.address(on.number), side.gateway());
        let bare = |gateway: &str| gateway.split('/').next().unwrap_or_default().to_owned();
        Ok(self.floor(&match case.floor.context("this case has no floor")? {
            Floor::Loopback => vec!["lo-up".to_owned(), netns],
            Floor::Bridge => {
                vec![
                    "bridge-add".to_owned(),
                    self.floor_bridge.to_string(),
                    end,
                    netns,
                    address,
                    bare(&gateway),
                ]
            }
            Floor::Ptp => {
                vec!["ptp-add".to_owned(), end, netns, address, "10.103.0.2/32".to_owned()]
            }
        }))
    }

    /// The DEL of a case, after its ADD has answered.
    pub(crate) fn del(
        &self,
        case: &Case,
        side: Side,
        on: &Attachment,
        answer: &Value,
    ) -> Result<Call> {
        if side != Side::Floor {
            return Ok(self.plugin(case, side, "DEL", on, answer));
        }
        Ok(self.floor(&match case.floor.context("this case has no floor")? {
            Floor::Loopback => vec!["lo-down".to_owned(), on.netns.display().to_string()],
            Floor::Bridge | Floor::Ptp => {
                let index = self.lab.host().netlink().link_by_name(FLOOR_END)?.index;
                vec!["del".to_owned(), index.to_string()]
            }
        }))
    }

    /// One of the programs that do nothing.
    pub(crate) fn empty(&self, program: &str) -> Call {
        Call::program(&self.directory(Side::Floor).join(program), &[])
    }

    /// VERSION of a side's bridge plugin.
    pub(crate) fn version(&self, side: Side) -> Call {
        Call::plugin(
            &self.directory(side),
            "bridge",
            "VERSION",
            None,
            &json!({"cniVersion": cases::VERSION}),
        )
    }

    fn plugin(
        &self,
        case: &Case,
        side: Side,
        command: &str,
        on: &Attachment,
        previous: &Value,
    ) -> Call {
        let mut config = case.config(side, on.number);
        // What an IPAM plugin answers is not the result of an attachment; nobody passes it on.
        if !previous.is_null() && case.plugin != "host-local" {
            config["prevResult"] = previous.clone();
        }
        Call::plugin(&self.directory(side), case.plugin, command, Some(on), &config)
    }

    fn floor(&self, arguments: &[String]) -> Call {
        Call::program(&self.directory(Side::Floor).join("floor"), arguments)
    }
}

/// The host's end of the floor's veth.
const FLOOR_END: &str = "floor0";

fn copy(program: &Path, to: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    std::fs::copy(program, to.join(name)).with_context(|| format!("copy {}", program.display()))?;
    Ok(())
}
