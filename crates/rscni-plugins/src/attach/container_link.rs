//! The interface plugins whose attachment is one link in the container, with nothing on the host:
//! macvlan, ipvlan, vlan, dummy and tap. Each implements [`ContainerLink`].
//!
//! ADD creates the link before it calls the IPAM plugin, and DEL removes it afterwards, because a
//! DHCP server is reached through the link.

use std::str::FromStr;

use rscni::{CNIResult, Interface, NetConf, SpecVersion};
use rscni_linux::{Link, LinkChange, Netlink, Netns, announce, sysctl};

use crate::{
    attach::{Ipam, Master, Reach, Sandbox, ipam::override_dns, link},
    plugin::{
        Call, Commands, Context, Facts, Failure, KernelFeature, Plugin, Result, best_effort,
        differs,
    },
    state::Undo,
};

/// A validated configuration of a plugin that gives the container one link.
pub(crate) trait ContainerLink: Sized {
    const NAME: &'static str;
    /// One line on what the plugin does.
    const ABOUT: &'static str;
    const FEATURE: KernelFeature;
    /// The kind of the link, as the kernel names it.
    const KIND: &'static str = Self::NAME;
    /// The source of its addresses.
    const ADDRESSES: Addresses;

    /// Reads and validates the configuration of a call.
    fn new(call: &Call<'_>) -> Result<Self>;

    /// Creates the link in the container, down and without addresses. Leaves nothing behind if it
    /// fails.
    fn make(&self, sandbox: &mut Sandbox, ifname: &str) -> Result<Link>;

    /// Whether a link is of this kind. DEL removes no other.
    fn is_this_kind(link: &Link) -> bool {
        link.kind.as_deref() == Some(Self::KIND)
    }

    /// Compares the link with the configuration for CHECK, except its state, kind, MAC address and
    /// MTU.
    fn check(&self, sandbox: &mut Sandbox, link: &Link) -> Result<()>;

    /// The parent interface, for kinds that have one.
    fn parent(&self) -> Option<&Master> {
        None
    }

    /// The requested MTU.
    fn mtu(&self) -> Option<u32> {
        self.parent()?.mtu
    }

    /// Whether machines unknown to this host are on the same segment. One of them may use an
    /// address of the container, or have it in its neighbour cache.
    fn is_on_shared_segment(&self) -> bool {
        true
    }

    /// Fails STATUS if something that the link needs is missing.
    fn status(&self) -> Result<()> {
        self.parent().map_or(Ok(()), Master::status)
    }
}

/// The source of a link's addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// The IPAM plugin, which is required.
    Ipam,
    /// The IPAM plugin. Without one the link is only brought up.
    IpamOrNone,
    /// The IPAM plugin, or else the previous plugin in the list.
    IpamOrPrevious,
}

impl Addresses {
    /// Returns the IPAM plugin, or the result to start from if there is none.
    fn source<'a>(self, call: &Call<'a>) -> Result<(Option<Ipam<'a>>, CNIResult)> {
        let previous = call.conf.prev_result.as_ref().filter(|result| !result.ips.is_empty());
        match (self, Ipam::of(call), previous) {
            (_, Some(ipam), _) => Ok((Some(ipam), CNIResult::default())),
            (Self::IpamOrNone, None, _) => Ok((None, CNIResult::default())),
            (Self::IpamOrPrevious, None, Some(previous)) => Ok((None, previous.clone())),
            _ => Ok((Some(Ipam::required(call)?), CNIResult::default())),
        }
    }
}

pub(crate) const fn plugin<L: ContainerLink>() -> Plugin {
    Plugin {
        name: L::NAME,
        about: L::ABOUT,
        commands: Commands {
            add: add::<L>,
            del: |call| del(call, L::is_this_kind),
            check: check::<L>,
            gc,
            status: status::<L>,
        },
        facts: Facts { kernel: |_| vec![L::FEATURE], ..Facts::NONE },
    }
}

/// Reads the key `mode`, unless it is empty.
pub(crate) fn mode<M>(conf: &NetConf, text: &str) -> Result<Option<M>>
where
    M: FromStr<Err: Into<Failure>>,
{
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).context(format_args!("{}: mode: {text:?}", conf.r#type))
}

/// The index of the link in the result's interfaces.
const CONTAINER: u32 = 0;

fn add<L: ContainerLink>(call: &Call<'_>) -> Result<CNIResult> {
    let config = L::new(call)?;
    let (ipam, mut result) = L::ADDRESSES.source(call)?;
    let mut sandbox = Sandbox::open(call)?;
    sandbox.refuse_taken(&call.args.ifname)?;
    let mut undo = Undo::default();

    let (path, args) = (sandbox.path.clone(), call.args);
    undo.push_removal(move || {
        let mut netlink = Netlink::open_in(&Netns::open(path)?)?;
        let link = netlink.link_by_name(&args.ifname)?;
        netlink.del_link(link.index)
    });
    let made = config.make(&mut sandbox, &call.args.ifname);
    if made.is_err() {
        undo.cancel_last();
        // Another call was faster.
        sandbox.refuse_taken(&call.args.ifname)?;
    }
    let link = made?;
    let index = link.index;
    let alias = Some(call.owner().alias());
    sandbox.netlink.set_link(index, &LinkChange { alias, ..LinkChange::default() })?;

    match &ipam {
        Some(ipam) => result = ipam.add(&mut undo, CONTAINER)?,
        None => result.ips.iter_mut().for_each(|ip| ip.interface = Some(CONTAINER)),
    }
    configure(&mut sandbox, &link, &result, config.is_on_shared_segment())?;

    let inner = Interface { sandbox: Some(sandbox.path), ..link::interface(&link) };
    result.interfaces = vec![inner];
    override_dns(&mut result, call.conf);
    undo.commit();
    Ok(result)
}

/// Brings up the link, adds the addresses and routes of the result, and announces the addresses.
fn configure(
    sandbox: &mut Sandbox,
    link: &Link,
    result: &CNIResult,
    among_strangers: bool,
) -> Result<()> {
    if !result.ips.is_empty() {
        // From now on the kernel announces the addresses whenever the link comes up. It may lack
        // one of the families.
        let [v4, v6] = ["ipv4/conf/NAME/arp_notify", "ipv6/conf/NAME/ndisc_notify"]
            .map(|key| format!("net/{}", key.replace("NAME", &link.name)));
        let _ = sysctl::set_all_in(&sandbox.netns, &[(&v4, "1"), (&v6, "1")]);
    }
    sandbox.configure(link, result, Reach::Link, among_strangers)?;
    if among_strangers {
        let addresses: Vec<_> = result.ips.iter().map(|ip| ip.address.addr()).collect();
        // Nothing depends on it, and the segment may be down.
        if let Err(error) = announce(&sandbox.netns, link, &addresses) {
            eprintln!("{error}");
        }
    }
    Ok(())
}

fn del(call: &Call<'_>, is_this_kind: fn(&Link) -> bool) -> Result<()> {
    let released = Ipam::of(call).map_or(Ok(()), |ipam| ipam.del());
    best_effort([released, del_links(call, is_this_kind)])
}

/// Removes the links of an attachment, whichever implementation created it: by name and kind, or by
/// our alias.
fn del_links(call: &Call<'_>, is_this_kind: fn(&Link) -> bool) -> Result<()> {
    let Some(mut sandbox) = Sandbox::open_if_there(call)? else { return Ok(()) };
    let owner = call.owner();
    let alias = owner.alias();
    let links = sandbox.netlink.links()?;
    let own = links.iter().filter(|link| {
        let is_ours = link.alias.as_ref() == Some(&alias);
        let is_named =
            link.name == call.args.ifname && !owner.is_contradicted_by(link.alias.as_deref());
        is_this_kind(link) && (is_ours || is_named)
    });
    link::del_links(call, sandbox.netlink, own)
}

fn check<L: ContainerLink>(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = L::new(call)?;
    let result = call.checked_result()?;
    if let (Some(ipam), _) = L::ADDRESSES.source(call)? {
        ipam.check()?;
    }
    let mut sandbox = Sandbox::open(call)?;
    let link = sandbox.check_link(&call.args.ifname, L::KIND, result)?;
    if !L::is_this_kind(&link) {
        return Err(differs(format!(
            "interface {} in {} is not a {}",
            link.name, sandbox.path, conf.r#type
        )));
    }
    // A later plugin may have changed it and reported that, which results below 1.1.0 cannot
    // express.
    if let Some(configured) = config.mtu().filter(|_| conf.cni_version >= SpecVersion::V1_1_0) {
        let wanted = sandbox.interface_in(result, &call.args.ifname)?.mtu.unwrap_or(configured);
        if link.mtu != wanted {
            return Err(differs(format!(
                "interface {} has the MTU {}, ADD left {wanted}",
                link.name, link.mtu
            )));
        }
    }
    config.check(&mut sandbox, &link)?;
    sandbox.check_addresses_and_routes(&link, result, conf.cni_version)
}

/// The link is removed with the namespace, so only addresses can be stale.
fn gc(call: &Call<'_>) -> Result<()> {
    Ipam::of(call).map_or(Ok(()), |ipam| ipam.gc())
}

fn status<L: ContainerLink>(call: &Call<'_>) -> Result<()> {
    L::new(call)?.status()?;
    match Ipam::of(call) {
        Some(ipam) => ipam.status(),
        None if L::ADDRESSES == Addresses::Ipam => Ipam::required(call).map(drop),
        None => Ok(()),
    }
}
