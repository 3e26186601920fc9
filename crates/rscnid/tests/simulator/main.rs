//! Runs the cores of several nodes against a model of the API server and of the kernel, in random
//! steps that a seed determines, and checks the invariants of the pod network after every step.
//!
//! `RSCNID_STEPS` and `RSCNID_SEED` set the number of steps and the seed.

mod api;
mod host;

use api::{Api, Random, SPARE, real, variants};
use host::Host;

/// The number of nodes that run the daemon.
const HOSTS: usize = 6;

struct World {
    random: Random,
    api: Api,
    hosts: Vec<Host>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut api = Api::default();
        (0..HOSTS).for_each(|number| api.set(real(number)));
        let hosts = (0..HOSTS).map(|number| Host::boot(number, &api)).collect();
        Self { random: Random(seed), api, hosts }
    }

    fn step(&mut self) {
        let number = self.random.below(HOSTS);
        let host = &mut self.hosts[number];
        match self.random.below(20) {
            0 => self.api.set(self.random.choose(&variants(SPARE))),
            1 => self.api.remove(&real(HOSTS + self.random.below(SPARE)).name),
            // A real node leaves the cluster for a moment, or publishes what is wrong.
            2 => self.api.remove(&real(number).name),
            3 => self.api.set(real(number)),
            4 => host.partitioned = !host.partitioned,
            5 => host.list(&self.api, self.random.below(30)),
            6 => host.restart(&self.api, self.random.below(30)),
            7 if self.random.below(10) == 0 => host.reboot(&self.api),
            7 => host.change_uplink(self.random.below(3)),
            8 => host.lose_object(&mut self.random),
            9 => host.notice_lost_objects(),
            10 => host.publish(&mut self.api),
            11 => host.deliver_again(&self.api),
            _ => drop(host.deliver(&self.api)),
        }
        self.hosts[number].check(&self.api);
    }

    /// Ends all disturbances.
    fn settle(&mut self) {
        (0..SPARE).for_each(|number| self.api.remove(&real(HOSTS + number).name));
        (0..HOSTS).for_each(|number| self.api.set(real(number)));
        for _ in 0..3 {
            for host in &mut self.hosts {
                host.partitioned = false;
                host.change_uplink(0);
                host.publish(&mut self.api);
                host.notice_lost_objects();
                while host.deliver(&self.api) {}
                host.check(&self.api);
            }
        }
    }

    fn check_settled(&self) {
        for host in &self.hosts {
            for peer in (0..HOSTS).filter(|peer| *peer != host.number) {
                host.assert_reaches(&real(peer));
            }
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn invariants_hold_after_every_step_and_the_state_converges() {
    let (steps, seed) = (setting("RSCNID_STEPS", 6_000), setting("RSCNID_SEED", 1));
    let mut world = World::new(seed);
    for step in 1..=steps {
        world.step();
        if step % 500 == 0 {
            world.settle();
            world.check_settled();
        }
    }
}

#[test]
fn same_seed_gives_the_same_states() {
    let run = || {
        let mut world = World::new(7);
        (0..2_000).for_each(|_| world.step());
        world.hosts.into_iter().map(|host| host.kernel).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
