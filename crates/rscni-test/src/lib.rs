//! A private network for tests of CNI plugins. Needs no root, and no tool but util-linux's `unshare`.
//!
//! A test calls [`run`] with a closure. The closure runs in user, network and mount namespaces of its own, where it
//! is root, whoever you are; nothing that it does can be seen outside, and all of it is gone at the end. So tests run
//! in parallel, as an ordinary user, on your own machine.
//!
//! In there is a [`Lab`]: a host, to which you add [`Container`]s, and [`Plugin`]s, which are called as a container
//! runtime calls them. What a plugin answers is an [`Outcome`], to be held against the specification with
//! [`success`](Outcome::success) or [`error`](Outcome::error). Packets are sent with [`ping`](Namespace::ping),
//! [`tcp`](Namespace::tcp) and [`udp`](Namespace::udp). And since the hard part of a plugin is to leave
//! nothing behind, a [`Snapshot`] lists everything that is there, so that two can be compared.
//!
//! # A test to paste
//!
//! Into `tests/` of the crate of your plugin; `env!("CARGO_BIN_EXE_my-plugin")` is where cargo has put its program.
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
//! Were the second half of the plugin's DEL missing, the test would end like this:
//!
//! ```text
//! not everything is as it was (+ came, - went, ~ changed):
//!   + a: link eth0 (veth up mtu 1500 qlen 1000 62:5e:22:0c:39:a1)
//!   + host: link my-ctr-a (veth up mtu 1500 qlen 1000 fa:42:4e:4c:fa:8b)
//! ```
//!
//! # What else there is
//!
//! - every version of the specification, in a line: [`Versions`]
//! - plugins that touch no network: [`Plugin::at`] calls them where the test is
//! - errors: `plugin.add(..).error(7).mentions("cniOutput")` asserts the code, the exit status, and that there is
//!   exactly one JSON object with `cniVersion`, `code` and `msg`
//! - what a runtime should not do: [`Plugin::call`] puts a call together variable by variable, with any stdin;
//!   [`Lab::remove_namespace`] takes the namespace away before DEL
//! - several plugins: they find each other in the directory of the one that is called, and by the names that
//!   [`Lab::install`] gives them
//! - what was translated on the way: [`Namespace::serve_tcp`] answers with whom it [saw](Answer::seen_as)
//! - a look from inside: [`Namespace::run`] runs a closure, and what programs that starts, in a container
//! - what happens in the background: [`eventually`] waits for it
//! - programs that are no tests: [`enter_private_network`]
//!
//! A plugin that takes longer than two minutes is killed, and an assertion that fails shows the whole call. A test
//! that cannot have its namespaces fails and says what to enable; it never counts as passed.

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
mod snapshot;
mod versions;
mod wait;

pub use enter::{EnterError, enter_private_network};
pub use exchange::{Answer, Server};
pub use lab::Lab;
pub use namespace::{Container, Namespace, Unreachable};
pub use outcome::{ErrorReply, Outcome, Reply};
pub use plugin::{Call, Plugin};
pub use run::{Verdict, run};
pub use snapshot::Snapshot;
pub use versions::{VERSIONS, Versions, result_in};
pub use wait::eventually;
