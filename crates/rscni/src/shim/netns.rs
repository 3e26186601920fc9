//! The network namespace of a call in the daemon.
//!
//! In the daemon the path of the runtime may not exist, or lead elsewhere. The plugin therefore
//! gets a path to the descriptor. Everything that leaves the daemon has the path of the runtime
//! again, since the runtime and other plugins compare it.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use rustix::{
    fs::OFlags,
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};
use serde_json::{Map, Value};

use crate::{Args, CNIResult, Error};

/// Opens the namespace that a runtime passed.
pub(super) fn open(path: &Path) -> std::io::Result<OwnedFd> {
    // `NONBLOCK`: opening a named pipe would wait for a writer.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        fs::File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    Ok(file.into())
}

/// A network namespace, open as long as this value.
#[derive(Debug)]
pub(super) struct Netns {
    _fd: OwnedFd,
    /// The path that the runtime passed.
    outside: String,
    /// The path in the daemon.
    inside: String,
}

impl Netns {
    /// Checks that `fd` is a network namespace.
    ///
    /// # Errors
    /// [`Error::InvalidNetns`] if it is not.
    pub(super) fn new(fd: OwnedFd, outside: String) -> Result<Self, Error> {
        if !is_network_namespace(&fd)? {
            return Err(Error::InvalidNetns(format!(
                "CNI_NETNS={outside} is not a network namespace"
            )));
        }
        // Valid in all threads and child processes. `/proc` may count processes in another PID
        // namespace than this process does, so its own link is read.
        let process = fs::read_link("/proc/self")
            .map_err(|error| Error::IOFailure(format!("cannot read /proc/self: {error}")))?;
        let inside = format!("/proc/{}/fd/{}", process.display(), fd.as_raw_fd());
        Ok(Self { _fd: fd, outside, inside })
    }

    pub(super) fn inside(&self) -> &str {
        &self.inside
    }

    /// Replaces the path in `prevResult` of the arguments.
    pub(super) fn enter(&self, args: &mut Args) {
        let prev_result = args.config.as_mut().and_then(|conf| conf.prev_result.as_mut());
        if prev_result.is_some_and(|result| replace(result, &self.outside, &self.inside))
            && let Some(stdin) = rewritten(&args.stdin, &self.outside, &self.inside)
        {
            args.stdin = stdin;
        }
    }

    /// Replaces the path in the outcome of a call.
    pub(super) fn leave(
        &self,
        outcome: Result<Option<CNIResult>, Error>,
    ) -> Result<Option<CNIResult>, Error> {
        match outcome {
            Ok(Some(mut result)) => {
                replace(&mut result, &self.inside, &self.outside);
                Ok(Some(result))
            }
            Err(error) if error.details().contains(&self.inside) => {
                let details = self.leave_text(error.details());
                Err(error.with_details(details))
            }
            other => other,
        }
    }

    /// Replaces the path in text for the user.
    pub(super) fn leave_text(&self, text: &str) -> String {
        let mut parts = text.split(&self.inside);
        let mut replaced = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // `/proc/1/fd/2` is not the beginning of `/proc/1/fd/23`.
            let is_whole = !part.starts_with(|next: char| next.is_ascii_digit());
            replaced += if is_whole { &self.outside } else { &self.inside };
            replaced += part;
        }
        replaced
    }
}

/// Asks the kernel for the id of the network namespace (`linux/net_namespace.h`), which it rejects
/// for other files. No thread has to enter the namespace.
fn is_network_namespace(fd: &OwnedFd) -> Result<bool, Error> {
    match netns_id(fd) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(Error::TryAgainLater(format!(
            "cannot examine the network namespace of the call: {errno}"
        ))),
    }
}

fn netns_id(fd: &OwnedFd) -> Result<(), Errno> {
    const NLMSG_ERROR: [u8; 2] = 2_u16.to_ne_bytes();
    const NLM_F_REQUEST: u16 = 1;
    const RTM_GETNSID: u16 = 90;
    const NETNSA_FD: u16 = 3;

    let request = [
        // The header of the message, with its length, and the family.
        &28_u32.to_ne_bytes()[..],
        &RTM_GETNSID.to_ne_bytes(),
        &NLM_F_REQUEST.to_ne_bytes(),
        &[0; 8],
        &[0; 4],
        // The attribute, with its length.
        &8_u16.to_ne_bytes(),
        &NETNSA_FD.to_ne_bytes(),
        &fd.as_raw_fd().to_ne_bytes(),
    ]
    .concat();
    // Without a protocol, which is `NETLINK_ROUTE`.
    let netlink = AddressFamily::NETLINK;
    let socket = socket_with(netlink, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &request, SendFlags::empty())?;
    let mut reply = [0; 256];
    recv(&socket, &mut reply, RecvFlags::empty())?;
    let [_, _, _, _, kind @ .., _, _] = reply.first_chunk::<8>().expect("it is longer");
    if *kind != NLMSG_ERROR {
        return Ok(());
    }
    let error = reply[16..].first_chunk().expect("it is longer");
    Err(Errno::from_raw_os_error(-i32::from_ne_bytes(*error)))
}

/// Replaces a sandbox; returns whether there was one.
fn replace(result: &mut CNIResult, from: &str, to: &str) -> bool {
    let mut is_changed = false;
    for interface in &mut result.interfaces {
        if interface.sandbox.as_deref() == Some(from) {
            interface.sandbox = Some(to.to_owned());
            is_changed = true;
        }
    }
    is_changed
}

/// Replaces a sandbox in `prevResult` of a configuration.
fn rewritten(stdin: &[u8], from: &str, to: &str) -> Option<Vec<u8>> {
    let mut conf: Map<String, Value> = serde_json::from_slice(stdin).ok()?;
    let interfaces = values(&mut conf, "prevResult")
        .filter_map(Value::as_object_mut)
        .flat_map(|result| values(result, "interfaces"))
        .filter_map(Value::as_array_mut)
        .flatten()
        .filter_map(Value::as_object_mut);
    for sandbox in interfaces.flat_map(|interface| values(interface, "sandbox")) {
        if sandbox.as_str() == Some(from) {
            *sandbox = to.into();
        }
    }
    serde_json::to_vec(&conf).ok()
}

/// The values of a key, which may be spelt in any case.
fn values<'a>(map: &'a mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'a mut Value> {
    map.iter_mut().filter(move |(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Interface, NetConf};

    const PATH: &str = "/run/netns/a";

    fn netns() -> Netns {
        Netns::new(open("/proc/thread-self/ns/net".as_ref()).unwrap(), PATH.into()).unwrap()
    }

    fn interface(sandbox: &str) -> Interface {
        Interface { name: "eth0".into(), sandbox: Some(sandbox.into()), ..Interface::default() }
    }

    #[test]
    fn a_network_namespace_is_told_from_other_files() {
        let netns = netns();
        let same = |path: &str| {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(path).unwrap().ino()
        };
        assert_eq!(same(netns.inside()), same("/proc/thread-self/ns/net"));
        for path in ["/proc/self/ns/mnt", "/proc/self/ns/user", "/dev/null", "/proc/self/status"] {
            let error = Netns::new(open(path.as_ref()).unwrap(), PATH.into()).unwrap_err();
            assert_eq!(error.code(), 8, "{path}");
            assert_eq!(error.details(), "CNI_NETNS=/run/netns/a is not a network namespace");
        }
    }

    #[test]
    fn the_check_leaves_the_thread_in_its_namespace() {
        let own = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = own();
        drop(netns());
        assert_eq!(own(), before);
    }

    #[test]
    fn the_path_is_replaced_in_the_configuration_and_in_the_result() {
        let netns = netns();
        let stdin = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "x", "keep": [1.50, "é"],
            "PrevResult": { "interfaces": [
                { "name": "eth0", "Sandbox": PATH },
                { "name": "eth1", "sandbox": "/run/netns/b" },
                { "name": "cni0" },
            ] },
        });
        let stdin = stdin.to_string().into_bytes();
        let config = Some(NetConf::from_json(&stdin).unwrap());
        let mut args = Args { config, stdin, ..Args::default() };
        netns.enter(&mut args);
        let stdin: Value = serde_json::from_slice(&args.stdin).unwrap();
        assert_eq!(stdin["PrevResult"]["interfaces"][0]["Sandbox"], netns.inside());
        assert_eq!(stdin["PrevResult"]["interfaces"][1]["sandbox"], "/run/netns/b");
        assert_eq!(stdin["keep"], json!([1.50, "é"]));
        let result = args.config.unwrap().prev_result.unwrap();
        assert_eq!(result.interfaces[0].sandbox.as_deref(), Some(netns.inside()));

        let result = netns.leave(Ok(Some(result))).unwrap().unwrap();
        let sandboxes: Vec<_> = result.interfaces.iter().map(|i| i.sandbox.as_deref()).collect();
        assert_eq!(sandboxes, [Some(PATH), Some("/run/netns/b"), None]);
    }

    #[test]
    fn a_configuration_without_the_path_is_unchanged() {
        let stdin = br#"{ "cniVersion" : "1.1.0", "name":"n", "type":"x", "prevResult": {} }"#;
        let config = Some(NetConf::from_json(stdin).unwrap());
        let args = Args { config, stdin: stdin.to_vec(), ..Args::default() };
        let mut entered = args.clone();
        netns().enter(&mut entered);
        assert_eq!(entered, args);
    }

    #[test]
    fn errors_and_text_have_the_path_of_the_runtime() {
        let netns = netns();
        let inside = netns.inside();
        let text = netns.leave_text(&format!("{inside}: no, {inside}9: no, {inside}"));
        assert_eq!(text, format!("{PATH}: no, {inside}9: no, {PATH}"));
        let error = Error::IOFailure(format!("{inside} is full"));
        let outside = Error::IOFailure(format!("{PATH} is full"));
        assert_eq!(netns.leave(Err(error)), Err(outside));
    }

    #[test]
    fn a_result_keeps_the_sandbox_of_other_containers() {
        let result = CNIResult { interfaces: vec![interface("/x")], ..CNIResult::default() };
        assert_eq!(netns().leave(Ok(Some(result.clone()))), Ok(Some(result)));
    }
}
