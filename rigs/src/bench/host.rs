//! The private network of the measurement, with both sets of plugins in one directory in memory.

use std::path::PathBuf;

use anyhow::{Context, Result};
use fs_err as fs;
use rscni_linux::{AddressFlags, Bridge};
use rscni_test::Lab;
use serde_json::{Value, json};
use xtask::dist;

use super::{
    call::{Attachment, Call},
    cases::{self, BRIDGE, Case, Floor, Side},
};

/// The programs to measure, as they were built.
#[derive(Default)]
pub(crate) struct Programs {
    pub(crate) rscni: PathBuf,
    pub(crate) peer: Vec<PathBuf>,
    /// Programs to compare with: the floor, [`EMPTY`], the runtime.
    pub(crate) others: Vec<PathBuf>,
}

/// Programs that do nothing: linked with glibc, as most static programs are, and with our C
/// library.
pub(crate) const EMPTY: [&str; 2] = ["empty-glibc", "empty"];

/// The host end of the floor's veth pair.
const FLOOR_END: &str = "floor0";

/// The private network, which this process has entered.
pub(crate) struct BenchHost {
    lab: Lab,
    floor_bridge: u32,
}

impl BenchHost {
    /// Moves this process, which must have one thread, into a private network, and installs the
    /// programs.
    pub(crate) fn enter(programs: &Programs) -> Result<Self> {
        let lab = rscni_test::enter_private_network()?;
        let mut host = lab.host().netlink();
        let bridge = Bridge { up: true, ..Bridge::new(Side::Floor.bridge()) };
        let floor_bridge = host.add_bridge(&bridge)?.index;
        let gateway = Side::Floor.gateway().parse()?;
        host.add_address(floor_bridge, gateway, AddressFlags::default())?;
        let host = Self { lab, floor_bridge };
        // All on one file system, since reading from different ones would be a difference.
        dist::install(&programs.rscni, &host.directory(Side::Ours))?;
        for (side, programs) in [(Side::Peer, &programs.peer), (Side::Floor, &programs.others)] {
            let directory = host.directory(side);
            fs::create_dir_all(&directory)?;
            for program in programs {
                let name = program.file_name().context("a program has a name")?;
                fs::copy(program, directory.join(name))?;
            }
        }
        Ok(host)
    }

    /// The directory of a side's programs.
    pub(crate) fn directory(&self, side: Side) -> PathBuf {
        self.lab.dir().join(side.name())
    }

    /// Makes a container.
    pub(crate) fn attachment(&self, name: &str, number: u16) -> Attachment {
        Attachment { container: self.lab.container(name), number }
    }

    /// Makes a container for a case.
    pub(crate) fn attachment_of(&self, case: &Case, number: u16) -> Attachment {
        let name: String = case.name.chars().filter(char::is_ascii_alphanumeric).collect();
        self.attachment(&format!("{name}{number}"), number)
    }

    /// Prepares the ADD of a chained plugin: makes the interface, and returns its result.
    pub(crate) fn prepare(&self, case: &Case, side: Side, on: &Attachment) -> Result<Value> {
        if !case.chained {
            return Ok(Value::Null);
        }
        Ok(self.plugin(&BRIDGE, side, "ADD", on, &Value::Null).timed()?.1)
    }

    /// Undoes [`prepare`](Self::prepare).
    pub(crate) fn restore(&self, case: &Case, side: Side, on: &Attachment) -> Result<()> {
        if case.chained {
            self.plugin(&BRIDGE, side, "DEL", on, &Value::Null).timed()?;
        }
        Ok(())
    }

    /// ADD of a case, with the result of [`prepare`](Self::prepare).
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
        let (netns, bridge) = (on.container.path().display(), self.floor_bridge);
        let (address, gateway) = (side.address(on.number), side.gateway());
        let gateway = gateway.trim_end_matches("/16");
        Ok(self.floor(&match case.floor.context("this case has no floor")? {
            Floor::Loopback => format!("lo-up {netns}"),
            Floor::Bridge => format!("bridge-add {bridge} {FLOOR_END} {netns} {address} {gateway}"),
            Floor::Ptp => format!("ptp-add {FLOOR_END} {netns} {address} 10.103.0.2/32"),
        }))
    }

    /// DEL of a case, with the answer of its ADD.
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
            Floor::Loopback => format!("lo-down {}", on.container.path().display()),
            Floor::Bridge | Floor::Ptp => {
                format!("del {}", self.lab.host().netlink().link_by_name(FLOOR_END)?.index)
            }
        }))
    }

    /// A program that does nothing.
    pub(crate) fn empty(&self, program: &str) -> Call {
        Call::program(&self.directory(Side::Floor).join(program), "")
    }

    /// VERSION of a side's bridge plugin.
    pub(crate) fn version(&self, side: Side) -> Call {
        let config = json!({"cniVersion": cases::VERSION, "type": "bridge"});
        Call::plugin(&self.directory(side), "VERSION", None, config)
    }

    fn plugin(
        &self,
        case: &Case,
        side: Side,
        command: &'static str,
        on: &Attachment,
        previous: &Value,
    ) -> Call {
        let mut config = case.config(side, on.number);
        // The answer of an IPAM plugin is not the result of an attachment, so runtimes do not pass
        // it on.
        if !previous.is_null() && case.plugin != "host-local" {
            config["prevResult"] = previous.clone();
        }
        Call::plugin(&self.directory(side), command, Some(on), config)
    }

    fn floor(&self, arguments: &str) -> Call {
        Call::program(&self.directory(Side::Floor).join("floor"), arguments)
    }
}
