//! Churn: many containers come and go at once, their plugins (or the daemon of dhcp) are killed at random, and in the end
//! there is GC.
//!
//! A ledger says who holds which address: from the moment an ADD has reported it until its DEL begins. An address that
//! is reported while somebody holds it was held twice.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rscni_test::{Container, Lab};
use serde_json::Value;

use super::{
    call::{Added, Attachment, Caller},
    dhcp::Service,
    injection::{Blow, Injection},
    leftovers, remains,
    table::Count,
    worlds::World,
};

/// Of so many operations one is killed.
const KILLED: u64 = 3;
/// How often a runtime calls DEL before it gives up.
const PATIENCE: usize = 20;

/// Who is killed, and how many come and go.
pub(super) struct Plan<'a> {
    pub(super) containers: usize,
    pub(super) workers: usize,
    /// The daemon that is killed instead of the plugins.
    pub(super) daemon: Option<&'a Service>,
    /// Whether the plugins know GC; else each container gets one more DEL.
    pub(super) gc: bool,
}

/// The results of what is attached, by the container's id.
type Attached = BTreeMap<String, Value>;

/// Who holds which address.
#[derive(Default)]
struct Ledger {
    holders: BTreeMap<String, String>,
    /// What was wrong.
    wrong: Vec<String>,
}

/// Churns for that long, with a list whose range has room for all. Each operation is a trial.
pub(super) fn run(
    lab: &Lab,
    directory: &Path,
    world: &World,
    seconds: u64,
    plan: &Plan<'_>,
) -> Result<Count> {
    let caller = Caller { directory, world, is_peer: !plan.gc };
    let first = lab.container("first");
    let added = caller.add(&attachment(&first), None)?;
    if let Some(ended) = added.failed {
        bail!("ADD fails by itself: {}", ended.said());
    }
    caller.del(&attachment(&first), world.steps.len(), added.results.last(), None)?;
    lab.remove_namespace(&first);
    let baseline = leftovers::baseline(lab);

    let containers: Vec<Container> =
        (0..plan.containers).map(|number| lab.container(&format!("c{number}"))).collect();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (ledger, operations) = (Mutex::new(Ledger::default()), AtomicUsize::new(0));
    let outcomes: Vec<Result<Attached>> = std::thread::scope(|scope| {
        let mut workers: Vec<_> = (0..plan.workers)
            .map(|number| {
                let worker = Worker {
                    caller: &caller,
                    plan,
                    containers: containers.iter().skip(number).step_by(plan.workers).collect(),
                    ledger: &ledger,
                    operations: &operations,
                    random: Random(number as u64 + 1),
                };
                scope.spawn(move || worker.run(deadline))
            })
            .collect();
        if let Some(daemon) = plan.daemon {
            workers.push(
                scope.spawn(move || kill_now_and_then(daemon, deadline).map(|()| Attached::new())),
            );
        }
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
            .collect()
    });
    let attached: Attached =
        outcomes.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();

    // Most are attached, some half. Their namespaces vanish, and where there is GC the runtime knows of none any more.
    for container in &containers {
        lab.remove_namespace(container);
    }
    let mut wrong = ledger.into_inner().expect("no worker panicked").wrong;
    let after = if plan.gc {
        wrong.extend(caller.gc()?.iter().map(|ended| format!("GC fails: {}", ended.said())));
        "GC"
    } else {
        for container in &containers {
            let result = attached.get(container.id());
            let failures = caller.del(&attachment(container), world.steps.len(), result, None)?;
            wrong.extend(
                failures.iter().map(|ended| format!("the last DEL fails: {}", ended.said())),
            );
        }
        "DEL"
    };
    wrong.extend(
        leftovers::since(lab, &baseline, caller.is_peer)
            .into_iter()
            .map(|line| format!("after {after}: {line}")),
    );
    let operations = operations.into_inner();
    println!(
        "  churn: {operations} operations on {} containers by {} workers",
        plan.containers, plan.workers
    );
    // However much is left, there were no more trials than operations.
    let failed = wrong.len().min(operations);
    let count = Count { held: operations - failed, failed, left: remains::counted(&wrong) };
    for line in wrong {
        println!("  FAILED churn: {line}");
    }
    Ok(count)
}

/// Kills the daemon again and again, and starts it anew.
fn kill_now_and_then(daemon: &Service, deadline: Instant) -> Result<()> {
    let mut random = Random(11);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20 + random.below(400)));
        daemon.restart()?;
    }
    Ok(())
}

/// The container, with a port of the host that no other has.
fn attachment(container: &Container) -> Attachment {
    let number = container.name().trim_start_matches('c').parse::<u16>().unwrap_or(u16::MAX / 2);
    Attachment {
        host_port: Some(20_000 + number),
        container_id: container.id().to_owned(),
        netns: Some(container.path().to_owned()),
    }
}

struct Worker<'a> {
    caller: &'a Caller<'a>,
    plan: &'a Plan<'a>,
    containers: Vec<&'a Container>,
    ledger: &'a Mutex<Ledger>,
    operations: &'a AtomicUsize,
    random: Random,
}

impl Worker<'_> {
    fn run(mut self, deadline: Instant) -> Result<Attached> {
        let mut attached = Attached::new();
        while Instant::now() < deadline {
            let at = usize::try_from(self.random.below(self.containers.len() as u64))?;
            let container = self.containers[at];
            match attached.remove(container.id()) {
                Some(result) => self.del(container, Some(&result))?,
                None => {
                    if let Some(result) = self.add(container)? {
                        attached.insert(container.id().to_owned(), result);
                    }
                }
            }
        }
        Ok(attached)
    }

    /// ADD; if it fails or is killed, DEL. Gives the result if it is attached.
    fn add(&mut self, container: &Container) -> Result<Option<Value>> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let on = attachment(container);
        let mut injection = self.kill(700);
        let daemon = self.daemon();
        let added = self.caller.add(&on, injection.as_mut())?;
        if let Added { results, failed: None } = &added
            && let Some(result) = results.last()
        {
            let address = result["ips"][0]["address"].as_str().unwrap_or("no address").to_owned();
            let mut ledger = self.ledger.lock().expect("no worker panicked");
            if let Some(holder) = ledger.holders.insert(address.clone(), on.container_id.clone()) {
                ledger.wrong.push(format!(
                    "{address} is given to {}, and {holder} has it",
                    on.container_id
                ));
            }
            return Ok(Some(result.clone()));
        }
        let is_hit = injection.is_some_and(|injection| injection.hit.is_some())
            || self.is_gone_since(daemon);
        if let Some(ended) = added.failed.filter(|_| !is_hit) {
            self.wrong(format!("ADD fails: {}", ended.said()));
        }
        self.del(container, None)?;
        Ok(None)
    }

    /// DEL; if it is killed, again.
    fn del(&mut self, container: &Container, result: Option<&Value>) -> Result<()> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let on = attachment(container);
        // From here on the address may be another's.
        self.ledger
            .lock()
            .expect("no worker panicked")
            .holders
            .retain(|_, holder| *holder != on.container_id);
        let steps = self.caller.world.steps.len();
        if let Some(mut injection) = self.kill(400) {
            self.caller.del(&on, steps, result, Some(&mut injection))?;
        }
        for left in (0..PATIENCE).rev() {
            let daemon = self.daemon();
            let result = result.filter(|_| self.caller.is_peer);
            let failures = self.caller.del(&on, steps, result, None)?;
            if left > 0 && !failures.is_empty() && self.is_gone_since(daemon) {
                // A daemon takes a while to come.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            for ended in &failures {
                self.wrong(format!("DEL fails: {}", ended.said()));
            }
            break;
        }
        Ok(())
    }

    /// How often the daemon has gone and come so far.
    fn daemon(&self) -> Option<usize> {
        self.plan.daemon.map(Service::changes)
    }

    /// Whether there was no daemon at some time since then.
    fn is_gone_since(&self, then: Option<usize>) -> bool {
        then.is_some_and(|then| !then.is_multiple_of(2)) || self.daemon() != then
    }

    fn wrong(&self, what: String) {
        self.ledger.lock().expect("no worker panicked").wrong.push(what);
    }

    /// A kill at one of so many calls, or none.
    fn kill(&mut self, calls: u64) -> Option<Injection> {
        let is_due = self.plan.daemon.is_none() && self.random.below(KILLED) == 0;
        is_due.then(|| Injection::at(self.random.below(calls), Blow::Kill))
    }
}

/// Numbers that are the same in each run (xorshift): only what the workers do to each other is a matter of chance.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
