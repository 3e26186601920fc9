//! A private network for tests of CNI plugins. Needs no root, and no tool but util-linux's
//! `unshare`.
//!
//! A test calls [`run`] with a closure. The closure runs as root in user, network and mount
//! namespaces of its own. Its changes cannot be seen outside, and they are gone at the end. So
//! tests run in parallel, as an ordinary user, on your own machine.
//!
//! The closure gets a [`Lab`]: a host, to which you add [`Container`]s, and [`Plugin`]s, which you
//! call as a container runtime does. The answer of a plugin is an [`Outcome`]; assert it with
//! [`success`](Outcome::success) or [`error`](Outcome::error). Send packets with
//! [`ping`](Namespace::ping), [`tcp`](Namespace::tcp) and [`udp`](Namespace::udp). Compare two
//! [`Snapshot`]s to find what a plugin has left behind.
//!
//! # A test to paste
//!
//! Put it into `tests/` of your plugin's crate. `env!("CARGO_BIN_EXE_my-plugin")` is the path of
//! its program.
//!
//! ```standalone_crate
//! # // This program is the plugin too: it joins the container and the host with a cable.
//! # fn plugin(command: &str) {
//! #     use rscni_linux::{AddressFlags, LinkChange, Netlink, Netns, Veth};
//! #     let mut host = Netlink::open().unwrap();
//! #     let up = LinkChange { up: Some(true), ..LinkChange::default() };
//! #     let name = format!("my-{}", std::env::var("CNI_CONTAINERID").unwrap());
//! #     if command == "ADD" {
//! #         let netns = Netns::open(std::env::var("CNI_NETNS").unwrap()).unwrap();
//! #         let veth = Veth::new(&name, std::env::var("CNI_IFNAME").unwrap());
//! #         host.add_veth(&Veth { peer_netns: Some(&netns), ..veth }).unwrap();
//! #         let mut inside = Netlink::open_in(&netns).unwrap();
//! #         for (netlink, name, address) in
//! #             [(&mut host, name.as_str(), "10.1.0.1/24"), (&mut inside, "eth0", "10.1.0.2/24")]
//! #         {
//! #             let index = netlink.link_by_name(name).unwrap().index;
//! #             netlink.set_link(index, &up).unwrap();
//! #             netlink.add_address(index, address.parse().unwrap(), AddressFlags::default()).unwrap();
//! #         }
//! #         println!(r#"{{"cniVersion":"1.1.0","ips":[{{"address":"10.1.0.2/24","gateway":"10.1.0.1"}}]}}"#);
//! #     } else if let Some(link) = host.find_link(&name).unwrap() {
//! #         host.del_link(link.index).unwrap();
//! #     }
//! # }
//! # macro_rules! env { ($name:literal) => { std::env::current_exe().unwrap() } }
//! use serde_json::json;
//!
//! # /*
//! #[test]
//! # */
//! fn a_container_reaches_its_gateway_and_leaves_nothing() {
//!     rscni_test::run(|lab| {
//!         let plugin = lab.plugin(env!("CARGO_BIN_EXE_my-plugin"));
//!         let a = lab.container("a");
//!         let before = lab.snapshot();
//!
//!         let config = json!({ "cniVersion": "1.1.0", "name": "net", "type": "my-plugin" });
//!         let reply = plugin.add(&a, "eth0", &config).success();
//!         assert_eq!(reply.ips().len(), 1);
//!
//!         a.ping(reply.gateways()[0]);
//!         lab.tcp(lab.host(), &a, reply.ips()[0].addr(), 8080);
//!
//!         let config = reply.follow(&config); // with `prevResult`
//!         plugin.check(&a, "eth0", &config).success();
//!         plugin.del(&a, "eth0", &config).success();
//!         plugin.del(&a, "eth0", &config).success(); // once more: it must not mind
//!
//!         lab.assert_unchanged_since(&before);
//!     });
//! }
//! # fn main() {
//! #     match std::env::var("CNI_COMMAND").as_deref() {
//! #         Ok("CHECK") => {}
//! #         Ok(command) => plugin(command),
//! #         Err(_) => a_container_reaches_its_gateway_and_leaves_nothing(),
//! #     }
//! # }
//! ```
//!
//! If the plugin's DEL left the link behind, the test would fail like this:
//!
//! ```text
//! the network has changed (+ added, - removed, ~ changed):
//!   + a: link eth0 (veth up mtu 1500 qlen 1000 62:5e:22:0c:39:a1)
//!   + host: link my-ctr-a (veth up mtu 1500 qlen 1000 fa:42:4e:4c:fa:8b)
//! ```
//!
//! # More
//!
//! - [`Chain`] is a list of plugins with capabilities, attached and detached in a line each.
//! - [`Versions`] tests every version of the specification in a line, or those that the plugin
//!   supports.
//! - [`Plugin::linked`] is a plugin in the test's own process, such as a shim with its daemon.
//! - [`Plugin::at`] calls plugins that do not change a network, without a lab.
//! - `plugin.add(..).error(7).mentions("cniOutput")` asserts the code, the exit status, and that
//!   stdout has exactly one JSON object with `cniVersion`, `code` and `msg`.
//! - [`Plugin::call`] makes calls that a runtime should not make, with any variables and stdin.
//!   [`Call::run_with`] lets you wrap or trace the process.
//! - [`Lab::remove_namespace`] removes the namespace before DEL.
//! - [`Lab::install`] installs plugins by name, so that they find each other.
//! - [`Namespace::serve_tcp`] shows translated addresses: the server tells which address it
//!   [saw](Answer::seen_as).
//! - [`Namespace::run`] runs a closure, and the programs that it starts, in a container.
//! - [`eventually`] waits for something in the background.
//! - [`enter_private_network`] is for programs other than tests.
//!
//! A plugin that takes longer than two minutes is killed. A failed assertion shows the whole call.
//! A test that cannot create its namespaces fails and says what to enable.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod chain;
mod changes;
mod enter;
mod exchange;
mod inventory;
mod lab;
mod namespace;
mod netlink;
mod outcome;
mod ping;
mod plugin;
mod ruleset;
mod run;
mod settings;
mod shape;
mod snapshot;
mod versions;
mod wait;

pub use chain::{Attachment, Chain};
pub use enter::{EnterError, enter_private_network};
pub use exchange::{Answer, Server};
pub use lab::Lab;
pub use namespace::{Container, Namespace, Unreachable};
pub use outcome::{ErrorReply, Outcome, Reply};
pub use plugin::{Call, Plugin, Process};
pub use run::{Verdict, run};
pub use shape::result_faults;
pub use snapshot::Snapshot;
pub use versions::{VERSIONS, Versions, result_in};
pub use wait::eventually;
