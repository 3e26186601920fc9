//! Churn: many containers are attached and detached at once, the plugins (or the daemon of dhcp)
//! are killed at random, and GC runs at the end.
//!
//! A ledger has the owner of each address, from the report of an ADD until the DEL begins. An
//! address that is reported while it has an owner was allocated twice.

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
    injection::{Fault, Injection},
    kinds, leftovers,
    lists::List,
    table::Count,
};

/// One of this many operations is killed.
const KILLED: u64 = 3;
/// Calls of DEL before a runtime gives up.
const ATTEMPTS: usize = 20;

/// Numbers of containers and workers, and the victims.
pub(super) struct Plan<'a> {
    pub(super) containers: usize,
    pub(super) workers: usize,
    /// The daemon that is killed instead of the plugins.
    pub(super) daemon: Option<&'a Service>,
    /// Whether the plugins have GC. Otherwise each container gets one more DEL.
    pub(super) gc: bool,
}

/// Results of the attached containers by id.
type Attached = BTreeMap<String, Value>;

#[derive(Default)]
struct Ledger {
    owners: BTreeMap<String, String>,
    problems: Vec<String>,
}

/// Churns a list for this time. Each operation is a trial.
pub(super) fn run(
    lab: &Lab,
    directory: &Path,
    list: &List,
    seconds: u64,
    plan: &Plan<'_>,
) -> Result<Count> {
    let caller = Caller { directory, list, is_peer: !plan.gc };
    let first = lab.container("first");
    let added = caller.add(&attachment(&first), None)?;
    if let Some(ended) = added.failed {
        bail!("ADD fails without a fault: {}", ended.shown());
    }
    caller.del(&attachment(&first), list.steps.len(), added.results.last(), None)?;
    lab.remove_namespace(&first);
    let baseline = leftovers::baseline(lab);

    let containers: Vec<Container> =
        (0..plan.containers).map(|number| lab.container(&format!("c{number}"))).collect();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (ledger, operations) = (Mutex::new(Ledger::default()), AtomicUsize::new(0));
    let attached = std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for number in 0..plan.workers {
            let worker = Worker {
                caller: &caller,
                plan,
                containers: containers.iter().skip(number).step_by(plan.workers).collect(),
                ledger: &ledger,
                operations: &operations,
                random: Random(number as u64 + 1),
            };
            workers.push(scope.spawn(move || worker.run(deadline)));
        }
        if let Some(daemon) = plan.daemon {
            workers.push(scope.spawn(move || kill_repeatedly(daemon, deadline)));
        }
        let mut attached = Attached::new();
        for worker in workers {
            attached.extend(worker.join().unwrap_or_else(|_| bail!("a worker panicked"))?);
        }
        anyhow::Ok(attached)
    })?;

    // Most containers are attached, some partly. Their namespaces vanish; with GC the runtime has
    // no valid attachment.
    for container in &containers {
        lab.remove_namespace(container);
    }
    let mut problems = ledger.into_inner().expect("no worker panicked").problems;
    let after = if plan.gc {
        problems.extend(caller.gc()?.iter().map(|ended| format!("GC fails: {}", ended.shown())));
        "GC"
    } else {
        for container in &containers {
            let result = attached.get(container.id());
            let failures = caller.del(&attachment(container), list.steps.len(), result, None)?;
            let failures = failures.iter();
            problems.extend(failures.map(|it| format!("the last DEL fails: {}", it.shown())));
        }
        "DEL"
    };
    let left = leftovers::since(lab, &baseline).into_iter();
    problems.extend(left.map(|line| format!("after {after}: {line}")));
    let operations = operations.into_inner();
    println!(
        "  churn: {operations} operations on {} containers by {} workers",
        plan.containers, plan.workers
    );
    // There are no more trials than operations, however many problems.
    let failed = problems.len().min(operations);
    let count = Count { passed: operations - failed, failed, left: kinds::counted(&problems) };
    for line in problems {
        println!("  FAILED churn: {line}");
    }
    Ok(count)
}

/// Kills and restarts the daemon until the deadline.
fn kill_repeatedly(daemon: &Service, deadline: Instant) -> Result<Attached> {
    let mut random = Random(11);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20 + random.below(400)));
        daemon.restart()?;
    }
    Ok(Attached::new())
}

/// An attachment of the container, with its own host port.
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
            let index = usize::try_from(self.random.below(self.containers.len() as u64))?;
            let container = self.containers[index];
            if let Some(result) = attached.remove(container.id()) {
                self.del(container, Some(&result))?;
            } else if let Some(result) = self.add(container)? {
                attached.insert(container.id().to_owned(), result);
            }
        }
        Ok(attached)
    }

    /// Calls ADD, and DEL if it fails or is killed. Returns the result of a complete ADD.
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
            let id = on.container_id;
            if let Some(owner) = ledger.owners.insert(address.clone(), id.clone()) {
                ledger.problems.push(format!("{address} is given to {id}, but {owner} has it"));
            }
            return Ok(Some(result.clone()));
        }
        let is_hit = injection.is_some_and(|injection| injection.hit.is_some())
            || self.is_gone_since(daemon);
        if let Some(ended) = added.failed.filter(|_| !is_hit) {
            self.add_problem(format!("ADD fails: {}", ended.shown()));
        }
        self.del(container, None)?;
        Ok(None)
    }

    /// Calls DEL, and again if it is killed.
    fn del(&mut self, container: &Container, result: Option<&Value>) -> Result<()> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let on = attachment(container);
        // From here on another container may get the address.
        let mut ledger = self.ledger.lock().expect("no worker panicked");
        ledger.owners.retain(|_, owner| *owner != on.container_id);
        drop(ledger);
        let steps = self.caller.list.steps.len();
        if let Some(mut injection) = self.kill(400) {
            self.caller.del(&on, steps, result, Some(&mut injection))?;
        }
        for left in (0..ATTEMPTS).rev() {
            let daemon = self.daemon();
            let result = result.filter(|_| self.caller.is_peer);
            let failures = self.caller.del(&on, steps, result, None)?;
            if left > 0 && !failures.is_empty() && self.is_gone_since(daemon) {
                // Waits for the restarted daemon.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            for ended in &failures {
                self.add_problem(format!("DEL fails: {}", ended.shown()));
            }
            break;
        }
        Ok(())
    }

    /// Starts and ends of the daemon so far.
    fn daemon(&self) -> Option<usize> {
        self.plan.daemon.map(Service::changes)
    }

    /// Whether there was no daemon at some time since then.
    fn is_gone_since(&self, then: Option<usize>) -> bool {
        then.is_some_and(|then| !then.is_multiple_of(2)) || self.daemon() != then
    }

    fn add_problem(&self, problem: String) {
        self.ledger.lock().expect("no worker panicked").problems.push(problem);
    }

    /// A kill at one of this many calls, or none.
    fn kill(&mut self, calls: u64) -> Option<Injection> {
        let is_due = self.plan.daemon.is_none() && self.random.below(KILLED) == 0;
        is_due.then(|| Injection::at(self.random.below(calls), Fault::Kill))
    }
}

/// Pseudorandom numbers (xorshift), the same in each run. Only the interleaving of the workers
/// differs.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
