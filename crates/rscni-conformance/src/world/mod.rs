//! The private host that a plugin is called on, and what is known of the plugin once it has been called there.
//!
//! A check calls the plugin through here. What it attaches is detached when it has ended, so that each check begins
//! with what there was after the first attachments: what belongs to a network as a whole (a bridge, say) has come by
//! then.

mod facts;
mod patience;

use std::{
    cell::{Cell, OnceCell, RefCell},
    path::Path,
    process::{Command, Stdio},
};

use rscni_linux::{AddressFlags, Dummy, LinkChange, Netlink, Netns, Veth};
use rscni_test::{Call, Container, Lab, Outcome, Plugin, VERSIONS};
use rustix::io::Errno;
use serde_json::{Value, json};

use self::facts::Facts;
use crate::{
    sample::Sample,
    shape::{addresses, is_since},
    subject::Subject,
    verdict::{Checked, error, json as json_of, not_applicable, succeeded, told},
};

/// A plugin's private host.
pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) subject: Subject,
    pub(crate) plugin: Plugin,
    /// The versions that the plugin claims, of those that there are.
    pub(crate) supported: Vec<&'static str>,
    /// The version of all calls that are not about another.
    pub(crate) version: &'static str,
    before: Vec<(Plugin, Value)>,
    /// The containers, other than those that a check makes for itself.
    pub(crate) first: Container,
    pub(crate) second: Container,
    facts: OnceCell<Result<Facts, String>>,
    sample: OnceCell<Sample>,
    open: RefCell<Vec<Attachment>>,
    kept: RefCell<Option<Checked>>,
    /// Whether something may have come that is no attachment.
    touched: Cell<bool>,
    /// Whether something is not as it was.
    spoilt: Cell<bool>,
    /// The id of the requirement, of which container ids are made.
    id: Cell<&'static str>,
    /// How many calls were overdue before it.
    overdue: Cell<usize>,
    /// Where the host's interfaces lead.
    worlds: RefCell<Vec<Netns>>,
}

/// An attachment, or an attempt to make one.
#[derive(Clone)]
pub(crate) struct Attachment {
    pub(crate) container: Container,
    pub(crate) ifname: String,
    pub(crate) version: &'static str,
    /// Results of the plugins before.
    before: Vec<Value>,
    /// Whether the last of them is given to this plugin.
    is_given: bool,
    /// The result of the plugin.
    pub(crate) result: Option<Value>,
}

impl Attachment {
    pub(crate) fn prev_result(&self) -> Option<&Value> {
        self.before.last().filter(|_| self.is_given)
    }
}

impl World {
    /// Enters namespaces and furnishes them.
    pub(crate) fn enter(subject: Subject) -> Result<Self, String> {
        let lab = rscni_test::enter_private_network().map_err(|error| error.to_string())?;
        if !subject.program.is_file() {
            return Err(format!(
                "{} cannot be seen from the private namespaces, where /run and /var/lib/cni are empty: put it elsewhere",
                subject.program.display()
            ));
        }
        let plugin = |program| {
            Plugin::at(program).cni_path(subject.path.clone()).time_limit(subject.time_limit)
        };
        let before = subject
            .before
            .iter()
            .map(|(program, config)| (plugin(program), json!(config)))
            .collect();
        let (first, second) = (lab.container("first"), lab.container("second"));
        let mut world = Self {
            plugin: plugin(&subject.program),
            before,
            lab,
            subject,
            supported: Vec::new(),
            version: "",
            first,
            second,
            facts: OnceCell::new(),
            sample: OnceCell::new(),
            open: RefCell::default(),
            kept: RefCell::default(),
            touched: Cell::new(false),
            spoilt: Cell::new(false),
            id: Cell::new("first"),
            overdue: Cell::new(0),
            worlds: RefCell::default(),
        };
        world.restore_host_interfaces()?;
        for command in &world.subject.setup {
            set_up(command)?;
        }
        let outcome =
            world.plugin.call("VERSION").config(&json!({ "cniVersion": "1.1.0" })).try_run();
        let outcome = outcome.map_err(|error| unstartable(&world.subject.program, &error))?;
        if outcome.is_overdue() {
            return Err(format!(
                "{} does not answer VERSION: {}",
                world.subject.program.display(),
                outcome.end()
            ));
        }
        let claimed = json_of(&outcome).unwrap_or_default();
        let claims = |version: &&str| {
            claimed["supportedVersions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|claimed| claimed == version))
        };
        world.supported = VERSIONS.into_iter().filter(claims).collect();
        let wanted = world.supported.iter().find(|version| **version == world.subject.version);
        world.version = wanted.or(world.supported.last()).copied().unwrap_or("0.1.0");
        Ok(world)
    }

    /// Makes the interfaces of the host that are not there: a container takes those that it was lent with it.
    pub(crate) fn restore_host_interfaces(&self) -> Result<(), String> {
        let mut netlink = self.lab.host().netlink();
        for name in &self.subject.host_interfaces {
            if netlink.find_link(name).is_ok_and(|link| link.is_some()) {
                continue;
            }
            let made = add_host_interface(&mut netlink, name);
            self.worlds
                .borrow_mut()
                .extend(made.map_err(|error| format!("make the host's {name}: {error}"))?);
        }
        Ok(())
    }

    /// Begins with a requirement.
    pub(crate) fn begin(&self, id: &'static str) {
        self.id.set(id);
        self.overdue.set(self.overdue_calls());
    }

    /// Whether the time limit has ended a call since the requirement began, of this plugin or of one before it.
    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue_calls() > self.overdue.get()
    }

    fn overdue_calls(&self) -> usize {
        let before = self.before.iter().map(|(plugin, _)| plugin);
        before.chain([&self.plugin]).map(Plugin::overdue_calls).sum()
    }

    /// Removes what the check has left, and says whether the world is fit for the next one. Where a call was overdue, or
    /// something is known to have been left behind, it is not, and nothing is removed: that might be waited for too.
    pub(crate) fn end(&self) -> bool {
        if self.is_overdue() || self.spoilt.get() {
            return false;
        }
        let touched = self.touched.take() | self.detach_open();
        if self.restore_host_interfaces().is_err() {
            return false;
        }
        match self.facts.get() {
            Some(Ok(facts)) => !touched || self.lasting_changes_since(&facts.baseline).is_empty(),
            _ => !touched,
        }
    }

    /// Detaches what is attached, and says whether there was something.
    fn detach_open(&self) -> bool {
        let open = self.open.take();
        for attachment in open.iter().rev() {
            let _ = self.call("DEL", attachment, attachment.result.as_ref()).run();
            self.undo_before(attachment);
        }
        !open.is_empty()
    }

    /// A container with an id of its own, in a namespace that is there.
    pub(crate) fn container(&self, namespace: &Container, suffix: &str) -> Container {
        Container::at(&format!("{}-{suffix}", self.id.get()), namespace.path())
    }

    /// The configuration in a version, with what is given as `prevResult`.
    pub(crate) fn config(&self, version: &str, prev_result: Option<&Value>) -> Value {
        of_version(&Value::Object(self.subject.config.clone()), version, prev_result)
    }

    /// A call about an attachment.
    pub(crate) fn call(
        &self,
        command: &str,
        of: &Attachment,
        prev_result: Option<&Value>,
    ) -> Call<'_> {
        let call = self.plugin.call(command).attachment(&of.container, &of.ifname);
        call.config(&self.config(of.version, prev_result))
    }

    /// The configuration for a call that no attachment is needed for: a chained plugin is given a result that could be.
    pub(crate) fn bare_config(&self, version: &str) -> Value {
        let mut result = self.subject.is_chained().then(|| rscni_test::result_in(version));
        if let Some(interface) =
            result.as_mut().and_then(|result| result.pointer_mut("/interfaces/1"))
        {
            interface["name"] = self.subject.ifname.clone().into();
            interface["sandbox"] = self.first.path().display().to_string().into();
        }
        self.config(version, result.as_ref())
    }

    /// A call with all that is required, about a container that is not attached.
    pub(crate) fn bare(&self, command: &str, version: &str) -> Call<'_> {
        let call = self.plugin.call(command).config(&self.bare_config(version));
        call.attachment(&self.container(&self.first, "bare"), &self.subject.ifname)
    }

    /// A call that should change nothing. If it does, the world is not fit any more.
    pub(crate) fn try_call(&self, call: Call<'_>) -> Outcome {
        let outcome = call.run();
        let command = outcome
            .variables()
            .find(|(name, _)| *name == "CNI_COMMAND")
            .map(|(_, value)| value == "ADD");
        if command == Some(true) && error(&outcome).is_none() {
            self.touched.set(true);
        }
        outcome
    }

    /// The version of calls, if it is `since` or later, or else the newest one that the plugin claims.
    pub(crate) fn version_since(&self, since: &str) -> Checked<&'static str> {
        let all = [self.version].into_iter().chain(self.supported.iter().rev().copied());
        let mut good = all.filter(|version| is_since(version, since));
        good.next()
            .map_or_else(|| not_applicable(format!("it claims no version from {since} on")), Ok)
    }

    /// Has the plugins before this one attach the container.
    pub(crate) fn prepare(
        &self,
        container: Container,
        ifname: &str,
        version: &'static str,
    ) -> Checked<Attachment> {
        let ifname = ifname.to_owned();
        let is_given = self.subject.is_chained();
        let mut made =
            Attachment { container, ifname, version, before: Vec::new(), is_given, result: None };
        for (plugin, config) in &self.before {
            let config = of_version(config, version, made.before.last());
            let outcome = plugin.add(&made.container, &made.ifname, &config);
            match (error(&outcome), json_of(&outcome)) {
                (None, Some(result)) => made.before.push(result),
                (reply, _) => {
                    // It may have got half way.
                    let _ = plugin.del(&made.container, &made.ifname, &config);
                    self.touched.set(true);
                    self.undo_before(&made);
                    let why = told(&outcome, &reply.unwrap_or_default());
                    let program = outcome.program().display();
                    return not_applicable(format!(
                        "{program}, which comes before it, fails in {version}: {why}"
                    ));
                }
            }
        }
        if let Some(given) = &self.subject.prev_result {
            made.before.push(of_version(given, version, None));
        }
        self.open.borrow_mut().push(made.clone());
        Ok(made)
    }

    fn undo_before(&self, attachment: &Attachment) {
        for ((plugin, config), result) in self.before.iter().zip(&attachment.before).rev() {
            let config = of_version(config, attachment.version, Some(result));
            let _ = plugin.del(&attachment.container, &attachment.ifname, &config);
        }
    }

    /// ADD, without anything before it.
    pub(crate) fn add(&self, attachment: &Attachment) -> Outcome {
        self.call("ADD", attachment, attachment.prev_result()).run()
    }

    /// Attaches, in a version that may not work.
    pub(crate) fn attach_in(
        &self,
        container: Container,
        ifname: &str,
        version: &'static str,
    ) -> Checked<Attachment> {
        let mut made = self.prepare(container, ifname, version)?;
        let outcome = self.add(&made);
        self.note(&mut made, &outcome, "ADD")?;
        Ok(made)
    }

    /// Keeps the result of an ADD that should have succeeded.
    pub(crate) fn note(&self, made: &mut Attachment, outcome: &Outcome, what: &str) -> Checked {
        succeeded(outcome, what)?;
        let Some(result) = json_of(outcome) else {
            return crate::verdict::shown(
                outcome,
                format!("{what} has a result"),
                "there is no JSON object on its stdout",
            );
        };
        if self.subject.is_ipam() {
            use_addresses(made, &result);
        }
        made.result = Some(result);
        let mut open = self.open.borrow_mut();
        let same = |a: &&mut Attachment| {
            a.container.id() == made.container.id() && a.ifname == made.ifname
        };
        if let Some(entry) = open.iter_mut().find(same) {
            *entry = made.clone();
        }
        Ok(())
    }

    /// Attaches a container of its own to the first namespace, as most checks want it.
    pub(crate) fn attach(&self) -> Checked<Attachment> {
        self.facts()?;
        self.attach_in(self.container(&self.first, "a"), &self.subject.ifname, self.version)
    }

    /// The same with the second namespace, where two attachments are possible.
    pub(crate) fn attach_another(&self) -> Checked<Attachment> {
        self.shareable()?;
        self.attach_in(self.container(&self.second, "b"), &self.subject.ifname, self.version)
    }

    /// DEL of this plugin and of those before it. Whether that has removed everything is looked at in the end.
    pub(crate) fn detach(&self, attachment: &Attachment) -> Checked {
        succeeded(&self.call("DEL", attachment, attachment.result.as_ref()).run(), "DEL")?;
        self.touch();
        self.forget(attachment);
        Ok(())
    }

    /// Something may have come that has to be looked for in the end.
    pub(crate) fn touch(&self) {
        self.touched.set(true);
    }

    /// Keeps what one check has found about the requirement after it.
    pub(crate) fn keep(&self, found: Checked) {
        self.kept.replace(Some(found));
    }

    /// What the check before has found.
    pub(crate) fn kept(&self) -> Option<Checked> {
        self.kept.take()
    }

    /// Only the plugins before it are left to be undone.
    pub(crate) fn forget(&self, attachment: &Attachment) {
        self.undo_before(attachment);
        let same = |a: &Attachment| {
            a.container.id() == attachment.container.id() && a.ifname == attachment.ifname
        };
        self.open.borrow_mut().retain(|a| !same(a));
    }
}

fn of_version(config: &Value, version: &str, prev_result: Option<&Value>) -> Value {
    let mut config = config.clone();
    config["cniVersion"] = version.into();
    if let Some(prev_result) = prev_result {
        config["prevResult"] = prev_result.clone();
    }
    config
}

/// Does with the addresses of an IPAM plugin what its caller does, where there is an interface.
fn use_addresses(made: &Attachment, result: &Value) {
    let mut netlink = made.container.netlink();
    let Ok(Some(link)) = netlink.find_link(&made.ifname) else { return };
    let flags = AddressFlags { nodad: true, ..AddressFlags::default() };
    for address in addresses(result).iter().filter_map(|address| address.parse().ok()) {
        // One that the kernel refuses is missed by the CHECK of a plugin that looks for it.
        let _ = netlink.add_address(link.index, address, flags);
    }
}

/// A dummy, or one end of a veth where the kernel has none; with a hardware address that stays the same. The veth's other
/// end is in the namespace that is returned, and both are there as long as that is.
fn add_host_interface(netlink: &mut Netlink, name: &str) -> rscni_linux::Result<Option<Netns>> {
    let mac = "02:00:00:00:c0:01".parse().ok();
    if netlink.add_link(&Dummy { up: true, mac, ..Dummy::new(name) }).is_ok() {
        return Ok(None);
    }
    let world = Netns::create()?;
    netlink.add_veth(&Veth { up: true, mac, peer_netns: Some(&world), ..Veth::new(name, name) })?;
    let mut other = Netlink::open_in(&world)?;
    let index = other.link_by_name(name)?.index;
    other.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    Ok(Some(world))
}

/// Why a program cannot be started, and what to do about it.
fn unstartable(program: &Path, error: &std::io::Error) -> String {
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS) => "it is not executable, or its interpreter is not: chmod 755 it".to_owned(),
        Some(Errno::NOENT) => {
            "the interpreter that its first line names, or the loader that it needs, is not there".to_owned()
        }
        Some(Errno::NOEXEC) => {
            "it is for another kind of machine, or a script whose first line names no interpreter, as #!/bin/sh does"
                .to_owned()
        }
        _ => error.to_string(),
    };
    format!("{} cannot be started: {why}", program.display())
}

/// Runs a command of a shell. What it starts in the background stays, in the process group of this worker.
fn set_up(command: &str) -> Result<(), String> {
    let mut shell = Command::new("sh");
    let status = shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the set-up `{command}` ended with {status}")),
        Err(error) => Err(format!("start `sh` for the set-up `{command}`: {error}")),
    }
}
