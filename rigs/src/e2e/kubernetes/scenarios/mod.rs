//! The scenarios. Each one starts with no pods, and at its end no node has anything of a pod.

mod churn;
mod daemon;
mod dns;
mod flannel;
mod garbage;
mod hosts;
mod kills;
mod nodes;
mod outside;
mod pods;
mod ports;
mod privileges;
mod random;
mod reboot;
mod services;
mod tutorial;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use rscni_test::Container;
use xtask::tally::Tally;

pub(super) use self::{
    dns::serve_names,
    pods::{deployment, wait_for},
    tutorial::uses_network,
};
use super::{cluster::Cluster, leaks, pods as objects, report};

/// A scenario, in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Scenario {
    /// the debug plugins in a node, as their README shows
    Tutorial,
    /// pods on one node and on two
    Pods,
    /// Services, and a pod that reaches itself through its Service
    Services,
    /// node ports and host ports
    Ports,
    /// packets to the world and to other nodes
    Outside,
    /// bandwidth annotations
    Bandwidth,
    /// pods in the network namespace of their node
    HostNetwork,
    /// names of Services through `CoreDNS`
    Dns,
    /// hosts whose policy drops forwarded packets
    Policy,
    /// hosts with a strict `rp_filter`
    RpFilter,
    /// hosts whose bridged packets skip netfilter
    BrNetfilter,
    /// the daemon killed while packets pass
    Daemon,
    /// objects of the daemon that other programs remove
    Restored,
    /// an API server that is not available
    ApiServer,
    /// false Nodes
    Invalid,
    /// a Node that is deleted and comes back
    Returning,
    /// the daemon without one of its privileges
    Privileges,
    /// a network list that is replaced while a pod runs
    Garbage,
    /// files of pods that seem decades old, or new
    Clock,
    /// pods deleted by force while kubelet does not run
    Drained,
    /// a network namespace that is gone before DEL
    LostNamespace,
    /// the garbage collection next to the Go plugins
    GoPlugins,
    /// a hundred pods at once on one node
    Hundred,
    /// a node that loses power
    Reboot,
    /// containerd and kubelet killed while pods come and go
    Kills,
    /// nodes that change from flannel to rscnid and back while their pods run
    Flannel,
    /// containerd and the garbage collection killed while sandboxes come and go
    Churn,
}

impl Scenario {
    fn headline(self) -> &'static str {
        match self {
            Self::Tutorial => "the debug plugins write the calls of kubelet to files",
            Self::Pods => "pods reach each other on one node and across nodes",
            Self::Services => "pods reach Services, and themselves through one",
            Self::Ports => "node ports and host ports lead to pods",
            Self::Outside => "packets to the world are masqueraded, others keep their source",
            Self::Bandwidth => "bandwidth annotations limit both directions",
            Self::HostNetwork => "pods in the network of their node reach others",
            Self::Dns => "pods resolve names of Services",
            Self::Policy => "pods are reached if the host drops forwarded packets",
            Self::RpFilter => "pods reach each other with a strict rp_filter",
            Self::BrNetfilter => "pods reach Services without br_netfilter",
            Self::Daemon => "no packet is lost while rscnid is killed and starts again",
            Self::Restored => "routes, devices and rules that are removed come back",
            Self::ApiServer => "pods keep their network without the API server",
            Self::Invalid => "false Nodes change no route and are reported",
            Self::Returning => "a deleted Node is forgotten, and reached once it is back",
            Self::Privileges => "each privilege of the daemon is needed",
            Self::Garbage => "what a pod leaves of a replaced network is collected",
            Self::Clock => "the garbage collection does not depend on the clock",
            Self::Drained => "pods deleted by force keep their network until they stop",
            Self::LostNamespace => "a pod without network namespace leaves nothing",
            Self::GoPlugins => "rscni-gc.yaml collects what the Go plugins left",
            Self::Hundred => "a hundred pods start at once on one node",
            Self::Reboot => "pods of a node that lost power get a new network",
            Self::Kills => "killed containerd and kubelet leave nothing behind",
            Self::Flannel => "pods keep running while their nodes change to rscnid and back",
            Self::Churn => "the garbage collection removes what is stale, and nothing else",
        }
    }

    fn run(self, cluster: &mut Cluster, selection: &Selection) -> Result<()> {
        match self {
            Self::Tutorial => tutorial::run(cluster),
            Self::Pods => pods::on_nodes(cluster),
            Self::Services => services::run(cluster),
            Self::Ports => ports::run(cluster),
            Self::Outside => outside::run(cluster),
            Self::Bandwidth => outside::bandwidth(cluster),
            Self::HostNetwork => pods::of_the_host(cluster),
            Self::Dns => dns::run(cluster),
            Self::Policy => hosts::dropping(cluster),
            Self::RpFilter => hosts::strict(cluster),
            Self::BrNetfilter => hosts::unfiltered(cluster),
            Self::Daemon => daemon::killed(cluster),
            Self::Restored => daemon::restored(cluster),
            Self::ApiServer => daemon::without_api_server(cluster),
            Self::Invalid => nodes::invalid(cluster),
            Self::Returning => nodes::returning(cluster),
            Self::Privileges => privileges::run(cluster),
            Self::Garbage => garbage::replaced_list(cluster),
            Self::Clock => garbage::set_clock(cluster),
            Self::Drained => garbage::drained(cluster),
            Self::LostNamespace => garbage::lost_namespace(cluster),
            Self::GoPlugins => garbage::of_go_plugins(cluster),
            Self::Hundred => pods::hundred(cluster),
            Self::Reboot => reboot::run(cluster),
            Self::Kills => kills::run(cluster),
            Self::Flannel => flannel::run(cluster),
            Self::Churn => churn::run(cluster, selection.churn),
        }
    }
}

/// The scenarios that run.
#[derive(clap::Args)]
pub(super) struct Selection {
    /// Run only this scenario; can be given several times [default: all].
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<Scenario>,
    /// Number of sandboxes of the scenario `churn`.
    #[arg(long, default_value_t = 200, value_name = "SANDBOXES")]
    churn: u32,
}

impl Selection {
    /// Whether a scenario runs.
    pub(super) fn includes(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }

    /// The arguments that make this selection.
    pub(super) fn arguments(&self) -> Vec<String> {
        let names = self.only.iter().filter_map(ValueEnum::to_possible_value);
        let only = names.flat_map(|name| ["--only".to_owned(), name.get_name().to_owned()]);
        only.chain(["--churn".to_owned(), self.churn.to_string()]).collect()
    }
}

/// Runs the scenarios.
pub(super) fn run(cluster: &mut Cluster, selection: &Selection, tally: &mut Tally) {
    for scenario in Scenario::value_variants() {
        if !selection.includes(*scenario) {
            continue;
        }
        // Containers of the test harness panic.
        let outcome = catch_unwind(AssertUnwindSafe(|| scenario.run(cluster, selection)))
            .unwrap_or_else(|_| Err(anyhow!("it panicked, as printed above")));
        let cleared = objects::delete_all().and_then(|()| {
            cluster.nodes().try_for_each(leaks::none).context("after all pods were deleted")
        });
        let outcome =
            outcome.and(cleared).map_err(|error| anyhow!("{error:#}\n{}", cluster.logs()));
        report(tally, scenario.headline(), outcome);
    }
}

/// The world outside of the cluster.
fn world() -> Container {
    Container::at("world", "/proc/self/ns/net")
}
