//! "Plugin Delegation", with an IPAM plugin that records its calls and fails on demand.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use rscni_test::{Call, Outcome, Plugin};
use serde_json::{Value, json};

use crate::{
    host::{Attachment, PrivateHost},
    shape::{is_since, list, net},
    verdict::{
        CheckResult, describe_error, error, expect_error, expect_success, fail, fail_with_call,
        not_applicable,
    },
};

/// The name of the IPAM plugin.
const NAME: &str = "conformance-ipam";
/// The code of its errors.
const CODE: u64 = 177;
const CNI_ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAME=web";

/// The IPAM plugin and its directory.
struct Ipam<'a> {
    host: &'a PrivateHost,
    directory: PathBuf,
    caller: Plugin,
    version: &'static str,
}

impl<'a> Ipam<'a> {
    fn install(host: &'a PrivateHost, version: &'static str) -> CheckResult<Self> {
        if host.subject.ipam().is_none() {
            return not_applicable("its configuration has no IPAM plugin");
        }
        if host.subject.is_ipam() || host.subject.is_chained() {
            return not_applicable("it does not call an IPAM plugin itself");
        }
        let directory = host.lab.dir().join("ipam");
        let _ = fs::remove_dir_all(&directory);
        let mut path = vec![directory.clone()];
        path.extend(host.subject.path.iter().cloned());
        let ipam = Self { host, directory, caller: host.plugin.clone().cni_path(path), version };
        match ipam.write(&host.sample()?.result) {
            Ok(()) => Ok(ipam),
            Err(error) => not_applicable(format!("the IPAM plugin cannot be installed: {error}")),
        }
    }

    fn write(&self, sample: &Value) -> std::io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let failure = json!({ "cniVersion": self.version, "code": CODE, "msg": "told to fail" });
        let script = format!(
            "#!/bin/sh\n\
             cd {directory} || exit 1\n\
             attachment=\"$CNI_CONTAINERID|$CNI_NETNS|$CNI_IFNAME\"\n\
             printf '%s\\n' \"$CNI_COMMAND|$attachment|$CNI_ARGS|$CNI_PATH\" >> calls\n\
             cat > \"stdin-$CNI_COMMAND\"\n\
             if [ -e \"fail-$CNI_COMMAND\" ]; then echo '{failure}'; exit 1; fi\n\
             if [ \"$CNI_COMMAND\" = ADD ]; then echo '{result}'; fi\n",
            directory = self.directory.display(),
            result = self.result(sample),
        );
        let program = self.directory.join(NAME);
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
    }

    /// Returns a result with the addresses of the plugin's own IPAM plugin, since others may not
    /// fit the network.
    fn result(&self, sample: &Value) -> Value {
        let mut result = json!({ "cniVersion": self.version });
        for ip in list(sample, "ips") {
            let address = &ip["address"];
            let v4 = net(address).is_none_or(|net| net.addr().is_ipv4());
            let is_legacy = !is_since(self.version, "0.3.0");
            let mut entry = json!({ if is_legacy { "ip" } else { "address" }: address });
            if !ip["gateway"].is_null() {
                entry["gateway"] = ip["gateway"].clone();
            }
            if is_legacy {
                result[if v4 { "ip4" } else { "ip6" }] = entry;
                continue;
            }
            if !is_since(self.version, "1.0.0") {
                entry["version"] = if v4 { "4" } else { "6" }.into();
            }
            match &mut result["ips"] {
                Value::Array(ips) => ips.push(entry),
                ips => *ips = json!([entry]),
            }
        }
        result
    }

    /// Lets a command fail from now on.
    fn fail(&self, command: &str) -> CheckResult {
        fs::write(self.directory.join(format!("fail-{command}")), "").or_else(|error| {
            not_applicable(format!("the IPAM plugin cannot be configured to fail: {error}"))
        })
    }

    fn stop_failing(&self, command: &str) {
        let _ = fs::remove_file(self.directory.join(format!("fail-{command}")));
    }

    /// Returns the calls so far.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn config(&self, prev_result: Option<&Value>) -> Value {
        let mut config = self.host.config(self.version, prev_result);
        config["ipam"] = json!({ "type": NAME, "conformance": [1] });
        config
    }

    fn call(&self, command: &str, made: &Attachment) -> Call<'_> {
        if matches!(command, "GC" | "STATUS") {
            let mut config = self.config(None);
            config["cni.dev/valid-attachments"] = json!([]);
            return self.caller.call(command).config(&config);
        }
        let call = self.caller.call(command).config(&self.config(made.result.as_ref()));
        call.attachment(&made.container, &made.ifname).env("CNI_ARGS", CNI_ARGS)
    }

    fn attach(&self) -> CheckResult<Attachment> {
        let mut made = self.host.prepare_first(self.version)?;
        let outcome = self.call("ADD", &made).run();
        if let Some(reply) = error(&outcome) {
            let reason = describe_error(&outcome, &reply);
            self.detach(&made);
            return not_applicable(format!(
                "it rejects addresses of another IPAM plugin: {reason}"
            ));
        }
        self.host.record_result(&mut made, &outcome, "ADD")?;
        Ok(made)
    }

    /// Removes the attachment with this IPAM plugin.
    fn detach(&self, made: &Attachment) {
        for command in ["ADD", "DEL", "CHECK"] {
            self.stop_failing(command);
        }
        let _ = self.call("DEL", made).run();
        self.host.mark_changed();
        self.host.detach_previous(made);
    }

    /// Runs a check of an attachment and removes the attachment.
    fn check(&self, made: &Attachment, check: impl FnOnce() -> CheckResult) -> CheckResult {
        let result = check();
        self.detach(made);
        result
    }

    /// Runs a check of a call with an IPAM plugin whose ADD fails.
    fn check_failed_add(&self, check: impl FnOnce(&Outcome) -> CheckResult) -> CheckResult {
        self.fail("ADD")?;
        let made = self.host.prepare_first(self.version)?;
        self.check(&made, || check(&self.call("ADD", &made).run()))
    }

    /// Fails unless the IPAM plugin was called with this command.
    fn expect_call(&self, outcome: &Outcome, command: &str) -> CheckResult {
        let calls = self.calls();
        if calls.iter().any(|call| call.split('|').next() == Some(command)) {
            return Ok(());
        }
        let expected = format!("the IPAM plugin's {command} is called");
        fail_with_call(outcome, expected, format!("its calls are: {}", calls.join(", ")))
    }
}

pub(super) fn parameters(host: &PrivateHost, _: &str) -> CheckResult {
    let ipam = Ipam::install(host, host.version)?;
    let made = ipam.attach()?;
    ipam.check(&made, || {
        let path = std::env::join_paths([&ipam.directory].into_iter().chain(&host.subject.path))
            .unwrap_or_default();
        let expected = format!(
            "ADD|{}|{}|{}|{CNI_ARGS}|{}",
            made.container.id(),
            made.container.path().display(),
            made.ifname,
            path.to_string_lossy()
        );
        let calls = ipam.calls();
        if calls.first() != Some(&expected) {
            return fail(format!("a call with {expected}"), calls.join("\n"));
        }
        let stdin = fs::read(ipam.directory.join("stdin-ADD")).unwrap_or_default();
        let found: Value = serde_json::from_slice(&stdin).unwrap_or_default();
        let expected = ipam.config(None);
        if found == expected { Ok(()) } else { fail(expected.to_string(), found.to_string()) }
    })
}

pub(super) fn add_fails(host: &PrivateHost, _: &str) -> CheckResult {
    let ipam = Ipam::install(host, host.version)?;
    ipam.check_failed_add(|outcome| {
        ipam.expect_call(outcome, "ADD")?;
        expect_error(outcome, "ADD with a failing IPAM plugin")
    })
}

pub(super) fn undo(host: &PrivateHost, _: &str) -> CheckResult {
    let ipam = Ipam::install(host, host.version)?;
    ipam.check_failed_add(|outcome| ipam.expect_call(outcome, "DEL"))
}

pub(super) fn del(host: &PrivateHost, _: &str) -> CheckResult {
    let ipam = Ipam::install(host, host.version)?;
    let made = ipam.attach()?;
    ipam.check(&made, || {
        let outcome = ipam.call("DEL", &made).run();
        expect_success(&outcome, "DEL")?;
        ipam.expect_call(&outcome, "DEL")
    })
}

/// `parameter` is a command and its first version.
pub(super) fn forwards(host: &PrivateHost, parameter: &str) -> CheckResult {
    let (command, since) = parameter.split_once(' ').unwrap_or_default();
    let ipam = Ipam::install(host, host.version_since(since)?)?;
    let made = ipam.attach()?;
    ipam.check(&made, || {
        ipam.fail(command)?;
        let outcome = ipam.call(command, &made).run();
        ipam.stop_failing(command);
        ipam.expect_call(&outcome, command)?;
        expect_error(&outcome, &format!("{command} with a failing IPAM plugin"))
    })
}
