//! The host side of the container's veth pair, where traffic to the container leaves and traffic
//! from it arrives.

use rscni::{CNIResult, Error, NetConf};
use rscni_linux::{Link, Netlink};

use crate::{
    attach::{Sandbox, veth::peer_of},
    plugin::{Call, Result},
};

/// Returns the host side for ADD. The result must list it.
pub(super) fn require(host: &mut Netlink, call: &Call<'_>, result: &CNIResult) -> Result<Link> {
    let mut sandbox = Sandbox::open(call)?;
    let inner = sandbox.netlink.link_by_name(&call.args.ifname)?;
    let peer = peer_of(host, &inner)?.filter(|peer| is_named(result, &peer.name));
    peer.ok_or_else(|| {
        Error::InvalidNetworkConfig(format!(
            "bandwidth: prevResult names no host's end of a veth whose other end is {} in {}; \
             bandwidth limits what plugins such as bridge and ptp attach",
            inner.name, sandbox.path
        ))
        .into()
    })
}

/// Returns the host side for DEL, if it exists and no alias names another owner.
pub(super) fn find(host: &mut Netlink, call: &Call<'_>, conf: &NetConf) -> Result<Option<Link>> {
    let owner = call.owner();
    let is_possible = |link: &Link| {
        link.kind.as_deref() == Some("veth") && !owner.is_contradicted_by(link.alias.as_deref())
    };
    if let Some(link) = host.find_link(&owner.veth_name())?.filter(is_possible) {
        return Ok(Some(link));
    }
    // That of the Go plugins has a random name.
    let result = conf.prev_result.as_ref();
    if let Some(mut sandbox) = Sandbox::open_if_there(call)?
        && let Some(inner) = sandbox.netlink.find_link(&call.args.ifname)?
    {
        let peer = peer_of(host, &inner)?.filter(is_possible);
        return Ok(peer.filter(|peer| result.is_none_or(|result| is_named(result, &peer.name))));
    }
    let interfaces = result.into_iter().flat_map(|result| &result.interfaces);
    for name in
        interfaces.filter(|interface| interface.sandbox.is_none()).map(|interface| &interface.name)
    {
        if let Some(link) = host.find_link(name)?.filter(is_possible) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Whether the result has an interface of that name on the host. Results of the first versions have
/// no interfaces.
fn is_named(result: &CNIResult, name: &str) -> bool {
    let mut interfaces = result.interfaces.iter();
    result.interfaces.is_empty()
        || interfaces.any(|interface| interface.name == name && interface.sandbox.is_none())
}
