//! The private host on which a plugin is called.
//!
//! Checks call the plugin through here. The attachments of a check are removed at its end, so that
//! each check starts with the state after the first attachments, which have also created what
//! belongs to the whole network, such as a bridge.

mod facts;
mod settle;

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
    verdict::{
        CheckResult, describe_error, error, expect_success, fail_with_call, json as json_of,
        not_applicable,
    },
};

/// The private host of a plugin.
pub(crate) struct PrivateHost {
    pub(crate) lab: Lab,
    pub(crate) subject: Subject,
    pub(crate) plugin: Plugin,
    /// The versions of the specification that the plugin supports.
    pub(crate) supported: Vec<&'static str>,
    /// The version of calls that do not test another version.
    pub(crate) version: &'static str,
    before: Vec<(Plugin, Value)>,
    /// Two containers; checks may create others.
    pub(crate) first: Container,
    pub(crate) second: Container,
    facts: OnceCell<Result<Facts, String>>,
    sample: OnceCell<Sample>,
    open: RefCell<Vec<Attachment>>,
    deferred: RefCell<Option<CheckResult>>,
    /// Whether something may have changed besides attachments.
    may_have_changed: Cell<bool>,
    /// Whether something is known to have changed.
    is_dirty: Cell<bool>,
    /// The id of the requirement, used for container ids.
    id: Cell<&'static str>,
    /// The number of timeouts before the requirement.
    timeouts: Cell<usize>,
    /// The namespaces with the peers of the host interfaces.
    peer_namespaces: RefCell<Vec<Netns>>,
}

/// An attachment, or an attempt to make one.
#[derive(Clone)]
pub(crate) struct Attachment {
    pub(crate) container: Container,
    pub(crate) ifname: String,
    pub(crate) version: &'static str,
    /// Results of the previous plugins.
    before: Vec<Value>,
    /// Whether the last of them is passed to this plugin.
    is_chained: bool,
    /// The result of the plugin.
    pub(crate) result: Option<Value>,
}

impl Attachment {
    pub(crate) fn prev_result(&self) -> Option<&Value> {
        self.before.last().filter(|_| self.is_chained)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.container.id() == other.container.id() && self.ifname == other.ifname
    }
}

impl PrivateHost {
    /// Enters namespaces, sets them up, and asks the plugin for its versions.
    pub(crate) fn enter(subject: Subject) -> Result<Self, String> {
        let lab = rscni_test::enter_private_network().map_err(|error| error.to_string())?;
        let program = subject.program.display();
        if !subject.program.is_file() {
            return Err(format!(
                "{program} is not visible in the private namespaces, where /run and /var/lib/cni \
                 are empty: move it to another directory"
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
        let mut host = Self {
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
            deferred: RefCell::default(),
            may_have_changed: Cell::new(false),
            is_dirty: Cell::new(false),
            id: Cell::new("first"),
            timeouts: Cell::new(0),
            peer_namespaces: RefCell::default(),
        };
        host.restore_host_interfaces()?;
        for command in &host.subject.setup {
            set_up(command)?;
        }
        let outcome =
            host.plugin.call("VERSION").config(&json!({ "cniVersion": "1.1.0" })).try_run();
        let outcome = outcome.map_err(|error| describe_start(&host.subject.program, &error))?;
        if outcome.is_overdue() {
            let program = host.subject.program.display();
            return Err(format!("{program} does not answer VERSION: {}", outcome.end()));
        }
        let reply = json_of(&outcome).unwrap_or_default();
        let is_supported = |version: &&str| {
            reply["supportedVersions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|supported| supported == version))
        };
        host.supported = VERSIONS.into_iter().filter(is_supported).collect();
        let configured = host.supported.iter().find(|version| **version == host.subject.version);
        host.version = configured.or(host.supported.last()).copied().unwrap_or("0.1.0");
        Ok(host)
    }

    /// Creates missing host interfaces: the namespace of a container takes those that it got with
    /// it.
    pub(crate) fn restore_host_interfaces(&self) -> Result<(), String> {
        let mut netlink = self.lab.host().netlink();
        for name in &self.subject.host_interfaces {
            if netlink.find_link(name).is_ok_and(|link| link.is_some()) {
                continue;
            }
            let peer_namespace = add_host_interface(&mut netlink, name)
                .map_err(|error| format!("cannot create the host interface {name}: {error}"))?;
            self.peer_namespaces.borrow_mut().extend(peer_namespace);
        }
        Ok(())
    }

    /// Begins the check of a requirement.
    pub(crate) fn begin(&self, id: &'static str) {
        self.id.set(id);
        self.timeouts.set(self.count_timeouts());
    }

    /// Whether a call of this plugin or a previous one timed out since the requirement began.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.count_timeouts() > self.timeouts.get()
    }

    fn count_timeouts(&self) -> usize {
        let before = self.before.iter().map(|(plugin, _)| plugin);
        before.chain([&self.plugin]).map(Plugin::overdue_calls).sum()
    }

    /// Removes the attachments of a check and returns whether the host is clean. After a timeout or
    /// a known change it is not, and nothing is removed, since that could take long too.
    pub(crate) fn end(&self) -> bool {
        if self.has_timed_out() || self.is_dirty.get() {
            return false;
        }
        let may_have_changed = self.may_have_changed.take() | self.detach_open();
        if self.restore_host_interfaces().is_err() {
            return false;
        }
        !may_have_changed
            || self
                .facts
                .get()
                .and_then(|facts| facts.as_ref().ok())
                .is_some_and(|facts| self.lasting_changes_since(&facts.baseline).is_empty())
    }

    /// Removes all attachments and returns whether there were any.
    fn detach_open(&self) -> bool {
        let open = self.open.take();
        for attachment in open.iter().rev() {
            let _ = self.call("DEL", attachment, attachment.result.as_ref()).run();
            self.del_previous(attachment);
        }
        !open.is_empty()
    }

    /// Returns a container with its own id in an existing namespace.
    pub(crate) fn container(&self, namespace: &Container, suffix: &str) -> Container {
        Container::at(&format!("{}-{suffix}", self.id.get()), namespace.path())
    }

    /// Returns the configuration in a version with a `prevResult`.
    pub(crate) fn config(&self, version: &str, prev_result: Option<&Value>) -> Value {
        of_version(&Value::Object(self.subject.config.clone()), version, prev_result)
    }

    /// Returns a call for an attachment.
    pub(crate) fn call(
        &self,
        command: &str,
        of: &Attachment,
        prev_result: Option<&Value>,
    ) -> Call<'_> {
        let call = self.plugin.call(command).attachment(&of.container, &of.ifname);
        call.config(&self.config(of.version, prev_result))
    }

    /// Returns a valid configuration without an attachment: that of a chained plugin contains a
    /// `prevResult` that is only plausible.
    pub(crate) fn valid_config(&self, version: &str) -> Value {
        let mut result = self.subject.is_chained().then(|| rscni_test::result_in(version));
        if let Some(interface) =
            result.as_mut().and_then(|result| result.pointer_mut("/interfaces/1"))
        {
            interface["name"] = self.subject.ifname.clone().into();
            interface["sandbox"] = self.first.path().display().to_string().into();
        }
        self.config(version, result.as_ref())
    }

    /// Returns a valid call for a container that is not attached.
    pub(crate) fn valid_call(&self, command: &str, version: &str) -> Call<'_> {
        let call = self.plugin.call(command).config(&self.valid_config(version));
        call.attachment(&self.container(&self.first, "bare"), &self.subject.ifname)
    }

    /// Makes a call that should not change anything.
    pub(crate) fn try_call(&self, call: Call<'_>) -> Outcome {
        let outcome = call.run();
        let is_add =
            outcome.variables().any(|(name, value)| name == "CNI_COMMAND" && value == "ADD");
        if is_add && error(&outcome).is_none() {
            self.may_have_changed.set(true);
        }
        outcome
    }

    /// Returns the version of calls if it is at least `since`, otherwise the newest supported one.
    pub(crate) fn version_since(&self, since: &str) -> CheckResult<&'static str> {
        let all = [self.version].into_iter().chain(self.supported.iter().rev().copied());
        let mut matching = all.filter(|version| is_since(version, since));
        matching
            .next()
            .map_or_else(|| not_applicable(format!("it supports no version from {since} on")), Ok)
    }

    /// Calls ADD of the previous plugins.
    pub(crate) fn prepare(
        &self,
        container: Container,
        ifname: &str,
        version: &'static str,
    ) -> CheckResult<Attachment> {
        let ifname = ifname.to_owned();
        let is_chained = self.subject.is_chained();
        let mut made =
            Attachment { container, ifname, version, before: Vec::new(), is_chained, result: None };
        for (plugin, config) in &self.before {
            let config = of_version(config, version, made.before.last());
            let outcome = plugin.add(&made.container, &made.ifname, &config);
            match (error(&outcome), json_of(&outcome)) {
                (None, Some(result)) => made.before.push(result),
                (reply, _) => {
                    // It may be incomplete.
                    let _ = plugin.del(&made.container, &made.ifname, &config);
                    self.may_have_changed.set(true);
                    self.del_previous(&made);
                    let reason = describe_error(&outcome, &reply.unwrap_or_default());
                    let program = outcome.program().display();
                    return not_applicable(format!(
                        "the previous plugin {program} fails in {version}: {reason}"
                    ));
                }
            }
        }
        if let Some(prev_result) = &self.subject.prev_result {
            made.before.push(of_version(prev_result, version, None));
        }
        self.open.borrow_mut().push(made.clone());
        Ok(made)
    }

    /// Calls ADD of the previous plugins for a container of the check in the first namespace.
    pub(crate) fn prepare_first(&self, version: &'static str) -> CheckResult<Attachment> {
        self.prepare(self.container(&self.first, "a"), &self.subject.ifname, version)
    }

    fn del_previous(&self, attachment: &Attachment) {
        for ((plugin, config), result) in self.before.iter().zip(&attachment.before).rev() {
            let config = of_version(config, attachment.version, Some(result));
            let _ = plugin.del(&attachment.container, &attachment.ifname, &config);
        }
    }

    /// Calls ADD of the plugin.
    pub(crate) fn add(&self, attachment: &Attachment) -> Outcome {
        self.call("ADD", attachment, attachment.prev_result()).run()
    }

    /// Attaches a container with all plugins.
    pub(crate) fn attach_in(
        &self,
        container: Container,
        ifname: &str,
        version: &'static str,
    ) -> CheckResult<Attachment> {
        let mut made = self.prepare(container, ifname, version)?;
        let outcome = self.add(&made);
        self.record_result(&mut made, &outcome, "ADD")?;
        Ok(made)
    }

    /// Stores the result of an ADD; fails if there is none.
    pub(crate) fn record_result(
        &self,
        made: &mut Attachment,
        outcome: &Outcome,
        what: &str,
    ) -> CheckResult {
        expect_success(outcome, what)?;
        let Some(result) = json_of(outcome) else {
            let expected = format!("{what} has a result");
            return fail_with_call(outcome, expected, "there is no JSON object on its stdout");
        };
        if self.subject.is_ipam() {
            add_addresses(made, &result);
        }
        made.result = Some(result);
        if let Some(entry) = self.open.borrow_mut().iter_mut().find(|a| a.is_same(made)) {
            *entry = made.clone();
        }
        Ok(())
    }

    /// Attaches a container of the check in the first namespace, and returns the outcome of its
    /// ADD.
    pub(crate) fn add_first(
        &self,
        version: &'static str,
        what: &str,
    ) -> CheckResult<(Attachment, Outcome)> {
        let mut made = self.prepare_first(version)?;
        let outcome = self.add(&made);
        self.record_result(&mut made, &outcome, what)?;
        Ok((made, outcome))
    }

    /// Attaches a container of the check in the first namespace.
    pub(crate) fn attach(&self) -> CheckResult<Attachment> {
        self.facts()?;
        Ok(self.add_first(self.version, "ADD")?.0)
    }

    /// Attaches as [`attach`](Self::attach), in a version from `since` on.
    pub(crate) fn attach_since(&self, since: &str) -> CheckResult<Attachment> {
        self.facts()?;
        Ok(self.add_first(self.version_since(since)?, "ADD")?.0)
    }

    /// Calls DEL of all plugins.
    pub(crate) fn detach(&self, attachment: &Attachment) -> CheckResult {
        expect_success(&self.call("DEL", attachment, attachment.result.as_ref()).run(), "DEL")?;
        self.mark_changed();
        self.detach_previous(attachment);
        Ok(())
    }

    /// Notes that something may have changed, to be checked at the end.
    pub(crate) fn mark_changed(&self) {
        self.may_have_changed.set(true);
    }

    /// Stores the result of the next requirement, found by this check.
    pub(crate) fn defer(&self, result: CheckResult) {
        self.deferred.replace(Some(result));
    }

    /// Returns the result that the previous check stored.
    pub(crate) fn take_deferred(&self) -> Option<CheckResult> {
        self.deferred.take()
    }

    /// Calls DEL of the previous plugins, after the DEL of this one.
    pub(crate) fn detach_previous(&self, attachment: &Attachment) {
        self.del_previous(attachment);
        self.open.borrow_mut().retain(|a| !a.is_same(attachment));
    }

    /// Fails unless CHECK succeeds, if the version of the attachment has CHECK.
    pub(crate) fn expect_check(&self, attachment: &Attachment, what: &str) -> CheckResult {
        if !is_since(attachment.version, "0.4.0") {
            return Ok(());
        }
        expect_success(&self.call("CHECK", attachment, attachment.result.as_ref()).run(), what)
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

/// Adds the addresses of an IPAM plugin to the interface, as its caller does, if there is one.
fn add_addresses(made: &Attachment, result: &Value) {
    let mut netlink = made.container.netlink();
    let Ok(Some(link)) = netlink.find_link(&made.ifname) else { return };
    let flags = AddressFlags { nodad: true, ..AddressFlags::default() };
    for address in addresses(result).iter().filter_map(|address| address.parse().ok()) {
        // If this fails, CHECK of a plugin that looks for the address fails.
        let _ = netlink.add_address(link.index, address, flags);
    }
}

/// Creates a dummy, or a veth if the kernel has no dummies, with a fixed MAC address. The peer of
/// the veth is in the returned namespace, and both exist as long as the namespace.
fn add_host_interface(netlink: &mut Netlink, name: &str) -> rscni_linux::Result<Option<Netns>> {
    let mac = "02:00:00:00:c0:01".parse().ok();
    if netlink.add_link(&Dummy { up: true, mac, ..Dummy::new(name) }).is_ok() {
        return Ok(None);
    }
    let peer = Netns::create()?;
    netlink.add_veth(&Veth { up: true, mac, peer_netns: Some(&peer), ..Veth::new(name, name) })?;
    let mut other = Netlink::open_in(&peer)?;
    let index = other.link_by_name(name)?.index;
    other.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    Ok(Some(peer))
}

/// Describes why a program cannot be started, and what to do.
fn describe_start(program: &Path, error: &std::io::Error) -> String {
    let reason = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS) => "it is not executable, or its interpreter is not: chmod 755 it",
        Some(Errno::NOENT) => {
            "the interpreter that its first line names, or its loader, is missing"
        }
        Some(Errno::NOEXEC) => {
            "it is for another kind of machine, or a script without an interpreter in its first \
             line, such as #!/bin/sh"
        }
        _ => &error.to_string(),
    };
    format!("{} cannot be started: {reason}", program.display())
}

/// Runs a shell command. Its background processes continue, in the process group of this worker.
fn set_up(command: &str) -> Result<(), String> {
    let mut shell = Command::new("sh");
    let status = shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the setup command `{command}` ended with {status}")),
        Err(error) => Err(format!("cannot start `sh` for the setup command `{command}`: {error}")),
    }
}
