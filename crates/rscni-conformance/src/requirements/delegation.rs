//! "Plugin Delegation": the plugin calls an IPAM plugin that notes how it is called, and fails when it is told to.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rscni_test::{Call, Outcome, Plugin};
use serde_json::{Value, json};

use crate::{
    shape::{is_since, list, net},
    verdict::{Checked, error, not_applicable, not_met, refused, shown, succeeded},
    world::{Attachment, World},
};

/// The name of that plugin.
const NAME: &str = "conformance-ipam";
/// The error that it is told to tell.
const CODE: u64 = 177;

/// The IPAM plugin, and the directory in which it keeps its notes.
struct Ipam<'a> {
    world: &'a World,
    directory: PathBuf,
    caller: Plugin,
    version: &'static str,
}

fn with_gateway(mut entry: Value, gateway: &Value) -> Value {
    if !gateway.is_null() {
        entry["gateway"] = gateway.clone();
    }
    entry
}

impl<'a> Ipam<'a> {
    fn install(world: &'a World, version: &'static str) -> Checked<Self> {
        match world.subject.ipam() {
            None => return not_applicable("its configuration names no IPAM plugin"),
            Some(_) if world.subject.is_ipam() || world.subject.is_chained() => {
                return not_applicable("it calls no IPAM plugin itself");
            }
            Some(_) => {}
        }
        let directory = world.lab.dir().join("ipam");
        let _ = fs::remove_dir_all(&directory);
        let mut path = vec![directory.clone()];
        path.extend(world.subject.path.iter().cloned());
        let ipam = Self { world, directory, caller: world.plugin.clone().cni_path(path), version };
        let sample = world.sample()?;
        match ipam.write(&sample.result) {
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
             printf '%s\\n' \"$CNI_COMMAND|$CNI_CONTAINERID|$CNI_NETNS|$CNI_IFNAME|$CNI_ARGS|$CNI_PATH\" >> calls\n\
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

    /// The addresses that the plugin gets from its own IPAM plugin: others may not fit the network.
    fn result(&self, of: &Value) -> Value {
        let mut result = json!({ "cniVersion": self.version });
        for ip in list(of, "ips") {
            let (address, gateway) = (&ip["address"], &ip["gateway"]);
            let v4 = net(address).is_none_or(|net| net.addr().is_ipv4());
            if !is_since(self.version, "0.3.0") {
                result[if v4 { "ip4" } else { "ip6" }] =
                    with_gateway(json!({ "ip": address }), gateway);
                continue;
            }
            let mut entry = with_gateway(json!({ "address": address }), gateway);
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

    /// Tells it to fail from now on.
    fn fail(&self, command: &str) -> Checked {
        let told = fs::write(self.directory.join(format!("fail-{command}")), "");
        told.or_else(|error| {
            not_applicable(format!("the IPAM plugin cannot be told to fail: {error}"))
        })
    }

    fn stop_failing(&self, command: &str) {
        let _ = fs::remove_file(self.directory.join(format!("fail-{command}")));
    }

    /// The calls so far, a line each.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn was_called(&self, command: &str) -> bool {
        self.calls().iter().any(|call| call.split('|').next() == Some(command))
    }

    fn config(&self, prev_result: Option<&Value>) -> Value {
        let mut config = self.world.config(self.version, prev_result);
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
        call.attachment(&made.container, &made.ifname)
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web")
    }

    fn prepare(&self) -> Checked<Attachment> {
        let world = self.world;
        world.prepare(world.container(&world.first, "a"), &world.subject.ifname, self.version)
    }

    fn attach(&self) -> Checked<Attachment> {
        let mut made = self.prepare()?;
        let outcome = self.call("ADD", &made).run();
        if let Some(reply) = error(&outcome) {
            let why = crate::verdict::told(&outcome, &reply);
            self.finish(&made);
            return not_applicable(format!(
                "it cannot do with addresses of another IPAM plugin: {why}"
            ));
        }
        self.world.note(&mut made, &outcome, "ADD")?;
        Ok(made)
    }

    /// Removes the attachment, for which the caller has to find this IPAM plugin.
    fn finish(&self, made: &Attachment) {
        for command in ["ADD", "DEL", "CHECK"] {
            self.stop_failing(command);
        }
        let _ = self.call("DEL", made).run();
        self.world.touch();
        self.world.forget(made);
    }

    /// Looks at an attachment, and removes it.
    fn with<T>(&self, made: &Attachment, look: impl FnOnce() -> Checked<T>) -> Checked<T> {
        let looked = look();
        self.finish(made);
        looked
    }
}

pub(super) fn parameters(world: &World, _: &str) -> Checked {
    let ipam = Ipam::install(world, world.version)?;
    let made = ipam.attach()?;
    ipam.with(&made, || {
        let path = std::env::join_paths([&ipam.directory].into_iter().chain(&world.subject.path))
            .unwrap_or_default();
        let wanted = format!(
            "ADD|{}|{}|{}|IgnoreUnknown=1;K8S_POD_NAME=web|{}",
            made.container.id(),
            made.container.path().display(),
            made.ifname,
            path.to_string_lossy()
        );
        let calls = ipam.calls();
        if calls.first() != Some(&wanted) {
            return not_met(format!("a call with {wanted}"), calls.join("\n"));
        }
        let got = read(&ipam.directory.join("stdin-ADD"));
        let wanted = ipam.config(None);
        if got == wanted { Ok(()) } else { not_met(wanted.to_string(), got.to_string()) }
    })
}

fn read(file: &Path) -> Value {
    fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

pub(super) fn add_fails(world: &World, _: &str) -> Checked {
    let ipam = Ipam::install(world, world.version)?;
    ipam.fail("ADD")?;
    let made = ipam.prepare()?;
    ipam.with(&made, || {
        let outcome = ipam.call("ADD", &made).run();
        called(&ipam, &outcome, "ADD")?;
        refused(&outcome, "ADD whose IPAM plugin fails")
    })
}

pub(super) fn undo(world: &World, _: &str) -> Checked {
    let ipam = Ipam::install(world, world.version)?;
    ipam.fail("ADD")?;
    let made = ipam.prepare()?;
    ipam.with(&made, || {
        let outcome = ipam.call("ADD", &made).run();
        called(&ipam, &outcome, "DEL")
    })
}

fn called(ipam: &Ipam<'_>, outcome: &Outcome, command: &str) -> Checked {
    if ipam.was_called(command) {
        return Ok(());
    }
    shown(
        outcome,
        format!("the IPAM plugin's {command} is called"),
        format!("its calls are: {}", ipam.calls().join(", ")),
    )
}

pub(super) fn del(world: &World, _: &str) -> Checked {
    let ipam = Ipam::install(world, world.version)?;
    let made = ipam.attach()?;
    ipam.with(&made, || {
        let outcome = ipam.call("DEL", &made).run();
        succeeded(&outcome, "DEL")?;
        called(&ipam, &outcome, "DEL")
    })
}

/// `about` is a command, and the version that it comes with.
pub(super) fn forwards(world: &World, about: &str) -> Checked {
    let (command, since) = about.split_once(' ').unwrap_or_default();
    let ipam = Ipam::install(world, world.version_since(since)?)?;
    let made = ipam.attach()?;
    ipam.with(&made, || {
        ipam.fail(command)?;
        let outcome = ipam.call(command, &made).run();
        ipam.stop_failing(command);
        called(&ipam, &outcome, command)?;
        refused(&outcome, &format!("{command} whose IPAM plugin fails"))
    })
}
