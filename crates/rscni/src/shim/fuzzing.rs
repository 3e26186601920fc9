//! The fuzz target of messages between shim and daemon.

use super::{blocking, client::Shim, netns, server, wire};
use crate::{Cni, Command, PluginInfo, Reply, Request};

/// A connection of any bytes, in parts as long as the first byte says: the daemon reads a call, the
/// shim an answer.
pub(crate) fn messages(
    data: &[u8],
    plugin: impl Cni + Sync,
    check: impl Fn(&Request, &PluginInfo, &Reply),
) {
    let Some((step, bytes)) = data.split_first() else { return };
    let mut frame = wire::Frame::new(1 << 20);
    let is_complete = bytes
        .chunks(usize::from(*step) + 1)
        .try_fold(false, |is_complete, part| if is_complete { Ok(true) } else { frame.push(part) });
    let mut whole = wire::Frame::new(1 << 20);
    assert_eq!(is_complete.is_ok(), whole.push(bytes).is_ok());
    if !matches!(is_complete, Ok(true)) {
        return;
    }
    assert_eq!(frame.body(), whole.body());

    for command in [Command::Add, Command::Del, Command::Status] {
        let reply = Shim::new("/nowhere").read(command, frame.body());
        if let Ok(reply) = reply {
            assert_eq!(reply.error.is_some(), reply.exit_code() != 0);
        }
    }
    let Ok(call) = server::read(frame.body()) else { return };
    let mut again = wire::Frame::new(usize::MAX);
    assert!(matches!(again.push(&wire::encode(&call)), Ok(true)));
    assert_eq!(server::read(again.body()).ok().as_ref(), Some(&call), "unchanged");

    let vars = call.vars.iter().map(|(name, value)| (name.clone(), value.into())).collect();
    let stdin = call.stdin.clone().into_bytes();
    let request = Request { vars, stdin, ..Request::default() };
    let fd = netns::open("/proc/thread-self/ns/net".as_ref()).expect("open the own namespace");
    let reply = blocking::reply(plugin, call, Some(fd)).expect("the shim is not gone");
    check(&request, &PluginInfo::default(), &reply);
}
