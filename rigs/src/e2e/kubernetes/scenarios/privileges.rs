//! The privileges of the daemon: each of them is taken away in turn.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::nodes;
use crate::e2e::kubernetes::{
    CLUSTER,
    cluster::{Cluster, eventually},
    kubectl,
    node::Node,
    pod_network, pods,
};

const DAEMON: &str = "--namespace kube-system daemonset rscnid";
const CAPABILITIES: &str = "/spec/template/spec/containers/0/securityContext/capabilities/add";

/// A privilege of the manifest.
enum Privilege {
    Capability(String),
    /// A verb on a resource, in a role of a kind.
    Rule {
        role: &'static str,
        resource: String,
        verb: String,
    },
}

impl std::fmt::Display for Privilege {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Capability(name) => f.write_str(name),
            Self::Rule { resource, verb, .. } => write!(f, "{verb} {resource}"),
        }
    }
}

/// Something that the daemon can do with one privilege only.
struct Ability {
    /// The privilege.
    needs: &'static str,
    name: &'static str,
    /// Gives the daemon something to do.
    ask: fn(&Cluster) -> Result<()>,
    /// Succeeds once it is done.
    is_done: fn(&Node) -> Result<()>,
    /// The time in which it would be done.
    within: Duration,
}

const SHORT: Duration = Duration::from_secs(4);
/// A problem becomes an event after 10 to 20 seconds.
const OF_EVENT: Duration = Duration::from_secs(25);

const ABILITIES: [Ability; 8] = [
    Ability {
        needs: "NET_ADMIN",
        name: "routes that are removed come back",
        ask: |cluster| cluster.node(0).run("ip route flush proto 82").map(drop),
        is_done: |node| {
            let routes = node.run("ip route show proto 82")?;
            ensure!(!routes.is_empty(), "no routes");
            Ok(())
        },
        within: SHORT,
    },
    Ability {
        needs: "SYS_ADMIN",
        name: "addresses of attachments without a result are released",
        ask: |cluster| {
            let node = cluster.node(0);
            node.run(&format!("mkdir -p {STALE}"))?;
            Ok(fs_err::write(node.path(&format!("{STALE}/10.98.0.2")), "gone\r\neth0")?)
        },
        is_done: |node| {
            pod_network::exec("rscnid", node, "/rscnid gc --once --gc-grace 0")?;
            let left = node.run(&format!("ls {STALE}"))?;
            ensure!(!left.contains("10.98.0.2"), "it is still reserved");
            Ok(())
        },
        within: Duration::ZERO,
    },
    Ability {
        needs: "list nodes",
        name: "the daemon becomes ready",
        ask: |_| Ok(()),
        is_done: |node| node.run("busybox wget -q -O - http://127.0.0.1:9472/readyz").map(drop),
        within: SHORT,
    },
    Ability {
        needs: "watch nodes",
        name: "Nodes are watched",
        ask: |_| Ok(()),
        is_done: |_| logs_have_no("cannot watch resource"),
        within: SHORT,
    },
    Ability {
        needs: "patch nodes",
        name: "the tunnel is published",
        ask: |cluster| {
            kubectl::run(&format!("annotate node {} {TUNNEL}-", cluster.node(0).name)).map(drop)
        },
        is_done: |node| {
            let node = kubectl::get(&format!("node {}", node.name))?;
            ensure!(node["metadata"]["annotations"][TUNNEL].is_string(), "it is not published");
            Ok(())
        },
        within: SHORT,
    },
    Ability {
        needs: "patch nodes/status",
        name: "the condition NetworkUnavailable is set",
        ask: |cluster| {
            let condition =
                json!({"type": "NetworkUnavailable", "status": "True", "reason": "Test"});
            let patch = json!({"status": {"conditions": [condition]}});
            kubectl::patch_status(&cluster.node(0).name, &patch)
        },
        is_done: |node| {
            let node = kubectl::get(&format!("node {}", node.name))?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_up = conditions.iter().any(|condition| condition["reason"] == "RscniIsUp");
            ensure!(is_up, "the conditions are {conditions:?}");
            Ok(())
        },
        within: SHORT,
    },
    Ability {
        needs: "create events",
        name: "problems become events",
        ask: nodes::add_copy,
        is_done: |_| {
            let events = kubectl::get(&format!(
                "events --namespace default --field-selector involvedObject.name={},source=rscnid",
                nodes::COPY
            ))?;
            let events = events["items"].as_array().map_or(0, Vec::len);
            ensure!(events > 0, "no event");
            Ok(())
        },
        within: OF_EVENT,
    },
    Ability {
        needs: "patch events",
        name: "events of other nodes are updated",
        ask: |_| Ok(()),
        is_done: |_| logs_have_no("report a problem as an event"),
        within: OF_EVENT,
    },
];

const STALE: &str = "/var/lib/cni/networks/gone";
const TUNNEL: &str = "flannel.alpha.coreos.com/backend-type";

/// Without one of its privileges, the daemon cannot do what the privilege is for. With all of them,
/// it can.
pub(super) fn run(cluster: &Cluster) -> Result<()> {
    // The garbage collection looks into its namespace.
    pods::start(&[("running", cluster.node(0))])?;
    let outcome = each(cluster);
    kubectl::run(&format!("apply -k {CLUSTER}/deploy"))?;
    restart(cluster)?;
    let outcome = outcome.and_then(|()| {
        relevant(cluster).try_for_each(|ability| {
            eventually(|| (ability.is_done)(cluster.node(0)))
                .with_context(|| format!("{}, with all privileges", ability.name))
        })
    });
    kubectl::run(&format!("delete node {} --ignore-not-found", nodes::COPY))?;
    outcome
}

/// A cluster on one segment has no tunnels.
fn relevant(cluster: &Cluster) -> impl Iterator<Item = &'static Ability> {
    let has_tunnels = cluster.nodes().any(|node| !node.machine.is_near());
    ABILITIES.iter().filter(move |ability| has_tunnels || ability.needs != "patch nodes")
}

fn each(cluster: &Cluster) -> Result<()> {
    let privileges = privileges()?;
    for privilege in &privileges {
        let needs = privilege.to_string();
        if !ABILITIES.iter().any(|ability| ability.needs == needs) {
            bail!("the manifest has the privilege {needs}, and no ability needs it");
        }
    }
    for ability in relevant(cluster) {
        let privilege = privileges.iter().find(|it| it.to_string() == ability.needs);
        let privilege = privilege
            .with_context(|| format!("the manifest has no privilege {}", ability.needs))?;
        without(privilege, || {
            restart(cluster)?;
            (ability.ask)(cluster)?;
            // Some things are done at the start only.
            restart(cluster)?;
            std::thread::sleep(ability.within);
            let outcome = (ability.is_done)(cluster.node(0));
            ensure!(outcome.is_err(), "{} without {privilege}", ability.name);
            println!("  without {privilege}, this fails: {}", ability.name);
            Ok(())
        })?;
    }
    Ok(())
}

/// All privileges of the manifest.
fn privileges() -> Result<Vec<Privilege>> {
    let daemon = kubectl::get(DAEMON)?;
    let capabilities = daemon.pointer(CAPABILITIES).context("capabilities")?;
    let mut all: Vec<_> = strings(capabilities).map(Privilege::Capability).collect();
    for role in ["clusterrole rscnid", "--namespace default role rscnid"] {
        for rule in kubectl::get(role)?["rules"].as_array().into_iter().flatten() {
            for resource in strings(&rule["resources"]) {
                all.extend(strings(&rule["verbs"]).map(|verb| Privilege::Rule {
                    role,
                    resource: resource.clone(),
                    verb,
                }));
            }
        }
    }
    Ok(all)
}

fn strings(array: &Value) -> impl Iterator<Item = String> {
    array.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

/// Runs `work` while the manifest does not have a privilege.
fn without(privilege: &Privilege, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let object = match privilege {
        Privilege::Capability(_) => DAEMON,
        Privilege::Rule { role, .. } => role,
    };
    let before = kubectl::get(object)?;
    let mut after = before.clone();
    match privilege {
        Privilege::Capability(name) => {
            let all = after.pointer_mut(CAPABILITIES).and_then(Value::as_array_mut);
            all.context("capabilities")?.retain(|other| other != name);
            // Pods that do not become ready would stop a rolling update.
            after["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
        }
        Privilege::Rule { resource, verb, .. } => {
            let rules = after["rules"].as_array_mut().context("rules")?;
            for rule in &mut *rules {
                if strings(&rule["resources"]).any(|other| other == *resource) {
                    rule["verbs"].as_array_mut().context("verbs")?.retain(|other| other != verb);
                }
            }
            rules.retain(|rule| strings(&rule["verbs"]).next().is_some());
        }
    }
    replace(after)?;
    let outcome = work();
    replace(before)?;
    outcome
}

fn replace(mut object: Value) -> Result<()> {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    kubectl::replace(&object)
}

/// Replaces the pods of all daemons, and waits until they have started. Some end with an error.
fn restart(cluster: &Cluster) -> Result<()> {
    let pods = "pods --namespace kube-system --selector app=rscnid";
    kubectl::run(&format!("delete {pods} --wait"))?;
    eventually(|| {
        let pods = kubectl::get(pods)?;
        let pods = pods["items"].as_array().into_iter().flatten();
        let started =
            pods.filter(|pod| has_started(&pod["status"]["containerStatuses"][0])).count();
        ensure!(started == cluster.nodes().count(), "{started} daemons have started");
        Ok(())
    })
}

fn has_started(container: &Value) -> bool {
    let state = &container["state"];
    [&state["running"], &state["terminated"], &container["lastState"]["terminated"]]
        .iter()
        .any(|state| state.is_object())
}

fn logs_have_no(text: &str) -> Result<()> {
    let logs = kubectl::run("logs --namespace kube-system --selector app=rscnid --tail -1")?;
    ensure!(!logs.contains(text), "the logs have {text:?}");
    Ok(())
}
