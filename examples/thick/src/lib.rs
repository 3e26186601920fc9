//! A network of cables: each container has a veth pair to the host.
//!
//! The same type is a plugin of its own (`thick-alone`), and the work of a daemon with threads
//! (`thick-daemon`) or on tokio (`thick-async-daemon`) behind the shim `thick`.

use std::io::Write;

use rscni::{Args, CNIResult, Cni, Error, Interface, IpConfig, IpNet, shim::stderr};
use rscni_linux::{AddressFlags, Background, LinkChange, Netlink, Netns, Veth};
use serde::Deserialize;

/// The unix socket of the daemons.
pub const SOCKET: &str = "/run/thick.sock";

/// The text about the plugin.
pub const ABOUT: &str = "thick: a veth pair for each container";

/// The plugin's own keys of the network configuration.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    host_address: IpNet,
    container_address: IpNet,
}

/// The plugin. DEL returns as soon as the interface is gone, and leaves the kernel's remaining work
/// to a thread of the daemon, or to a child process of the plugin.
#[derive(Clone, Copy, Debug)]
pub struct Cable(pub Background);

impl Cni for Cable {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        let conf: Conf = args.conf()?.custom_as()?;
        // In a daemon this is a path to the descriptor that the shim passed.
        let netns = Netns::open(args.require_netns()?).map_err(failed)?;
        let mut host = Netlink::open().map_err(failed)?;
        let veth = Veth {
            alias: Some(owner(&args)?),
            up: true,
            peer_netns: Some(&netns),
            ..Veth::new(host_name(&args)?, &args.ifname)
        };
        let link = host.add_veth(&veth).map_err(failed)?;
        configure(&mut host, link.index, &netns, &args.ifname, &conf).map_err(|error| {
            // The error of the ADD is the one to report.
            let _ = host.del_link(link.index);
            failed(error)
        })?;
        // `eprintln!` would write to the log of the daemon.
        let _ = writeln!(stderr(), "thick: {} leads to {}", link.name, args.container_id);
        let sandbox = args.netns.as_ref().map(|path| path.display().to_string());
        Ok(CNIResult {
            interfaces: vec![
                Interface { name: link.name, ..Interface::default() },
                Interface { name: args.ifname.clone(), sandbox, ..Interface::default() },
            ],
            ips: vec![IpConfig {
                interface: Some(1),
                gateway: Some(conf.host_address.addr()),
                ..IpConfig::new(conf.container_address)
            }],
            ..CNIResult::default()
        })
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        let mut host = Netlink::open().map_err(failed)?;
        let link = host.find_link(&host_name(&args)?).map_err(failed)?;
        let indexes: Vec<_> = link.into_iter().map(|link| link.index).collect();
        host.del_links(&indexes, Some(self.0)).map_err(failed)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        let mut host = Netlink::open().map_err(failed)?;
        host.link_by_name(&host_name(&args)?).map(drop).map_err(failed)
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        let conf = args.conf()?;
        let valid: Vec<_> = conf
            .valid_attachments
            .iter()
            .flatten()
            .map(|valid| tag(&conf.name, &valid.container_id, &valid.ifname))
            .collect();
        let network = format!("thick/{}/", conf.name);
        let mut host = Netlink::open().map_err(failed)?;
        for link in host.links().map_err(failed)? {
            let owner = link.alias.unwrap_or_default();
            if owner.starts_with(&network) && !valid.contains(&owner) {
                host.del_link(link.index).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Sets the addresses and brings up the container interface.
fn configure(
    host: &mut Netlink,
    index: u32,
    netns: &Netns,
    ifname: &str,
    conf: &Conf,
) -> rscni_linux::Result<()> {
    host.add_address(index, conf.host_address, AddressFlags::default())?;
    let mut inside = Netlink::open_in(netns)?;
    let index = inside.link_by_name(ifname)?.index;
    inside.add_address(index, conf.container_address, AddressFlags::default())?;
    inside.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })
}

/// The owner tag of an attachment.
fn owner(args: &Args) -> Result<String, Error> {
    Ok(tag(&args.conf()?.name, &args.container_id, &args.ifname))
}

fn tag(network: &str, container_id: &str, ifname: &str) -> String {
    format!("thick/{network}/{container_id}/{ifname}")
}

/// The name of the host interface: DEL derives it from its own arguments.
fn host_name(args: &Args) -> Result<String, Error> {
    // FNV-1a, which is the same in every release.
    let hash = owner(args)?.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok(format!("th{:012x}", hash >> 16))
}

fn failed(error: rscni_linux::Error) -> Error {
    Error::IOFailure(error.to_string())
}
