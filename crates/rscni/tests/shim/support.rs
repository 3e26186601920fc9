//! A plugin whose behaviour the configuration decides, and daemons that serve it.

use std::{
    collections::BTreeMap,
    io::Write,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, ThreadId},
};

use rscni::{
    Args, CNIResult, Cni, Error, Interface, Reply, Request, async_cni,
    shim::{Shim, listen, serve, serve_blocking, stderr},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

/// The kinds of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Blocking,
    Async,
}

/// A plugin that records its calls. It does what the key `act` says.
#[derive(Clone, Default)]
pub(crate) struct Actor(Arc<Shared>);

#[derive(Default)]
struct Shared {
    events: Mutex<Vec<String>>,
    changed: Condvar,
    opened: Mutex<Vec<String>>,
    last: Mutex<Option<Args>>,
    thread: Mutex<Option<(ThreadId, PathBuf)>>,
}

impl Actor {
    fn record(&self, event: String) {
        self.0.events.lock().unwrap().push(event);
        self.0.changed.notify_all();
    }

    /// Waits until an event has happened.
    pub(crate) fn wait_for(&self, event: &str) {
        let events = self.0.events.lock().unwrap();
        drop(self.0.changed.wait_while(events, |all| !all.iter().any(|e| e == event)).unwrap());
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.0.events.lock().unwrap().clone()
    }

    /// Lets the calls with this container id end that `wait`.
    pub(crate) fn open(&self, gate: &str) {
        self.0.opened.lock().unwrap().push(gate.to_owned());
        self.0.changed.notify_all();
    }

    fn is_open(&self, gate: &str) -> bool {
        self.0.opened.lock().unwrap().iter().any(|open| open == gate)
    }

    /// The arguments of the last call.
    pub(crate) fn last(&self) -> Args {
        self.0.last.lock().unwrap().clone().expect("there was a call")
    }

    /// The thread of the last call, and its network namespace at the beginning.
    pub(crate) fn thread(&self) -> (ThreadId, PathBuf) {
        self.0.thread.lock().unwrap().clone().expect("there was a call")
    }

    fn begin(&self, command: &str, args: &Args) -> (String, String) {
        *self.0.last.lock().unwrap() = Some(args.clone());
        let act = args.conf().unwrap().to_json().get("act").cloned().unwrap_or_default();
        let call = format!("{command} {}", args.container_id);
        *self.0.thread.lock().unwrap() = Some(thread());
        self.record(format!("{call} begins"));
        (call, act.as_str().unwrap_or_default().to_owned())
    }

    fn end(&self, call: &str, act: &str, args: &Args) -> Result<CNIResult, Error> {
        let _ = writeln!(stderr(), "log of {call}");
        self.record(format!("{call} ends"));
        match act {
            "enter" => {
                let netns = std::fs::File::open(args.require_netns()?)?;
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(netns.as_fd(), kind).unwrap();
                Ok(CNIResult::default())
            }
            "panic" => panic!("as configured"),
            "fail" => Err(Error::Custom(123, "own".into(), format!("cannot use {:?}", args.netns))),
            "flood" => {
                stderr().write_all(&vec![b'x'; 3 << 20]).unwrap();
                Ok(CNIResult::default())
            }
            _ => Ok(args.conf()?.prev_result.clone().unwrap_or_else(|| CNIResult {
                interfaces: vec![Interface {
                    name: args.ifname.clone(),
                    sandbox: args.netns.as_ref().map(|path| path.display().to_string()),
                    ..Interface::default()
                }],
                ..CNIResult::default()
            })),
        }
    }

    fn block(&self, command: &str, args: &Args) -> Result<CNIResult, Error> {
        let (call, act) = self.begin(command, args);
        if act == "wait" {
            let events = self.0.events.lock().unwrap();
            let gate = &args.container_id;
            drop(self.0.changed.wait_while(events, |_| !self.is_open(gate)).unwrap());
        }
        self.end(&call, &act, args)
    }

    async fn yielding(&self, command: &str, args: &Args) -> Result<CNIResult, Error> {
        let (call, act) = self.begin(command, args);
        while act == "wait" && !self.is_open(&args.container_id) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        self.end(&call, &act, args)
    }
}

fn thread() -> (ThreadId, PathBuf) {
    let netns = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    (std::thread::current().id(), netns)
}

impl Cni for Actor {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        self.block("ADD", &args)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        self.block("DEL", &args).map(drop)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        self.block("CHECK", &args).map(drop)
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        self.block("GC", &args).map(drop)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        self.block("STATUS", &args).map(drop)
    }
}

/// The plugin with async functions.
pub(crate) struct AsyncActor(Actor);

impl async_cni::Cni for AsyncActor {
    async fn add(&self, args: Args) -> Result<CNIResult, Error> {
        self.0.yielding("ADD", &args).await
    }

    async fn del(&self, args: Args) -> Result<(), Error> {
        self.0.yielding("DEL", &args).await.map(drop)
    }

    async fn check(&self, args: Args) -> Result<(), Error> {
        self.0.yielding("CHECK", &args).await.map(drop)
    }

    async fn gc(&self, args: Args) -> Result<(), Error> {
        self.0.yielding("GC", &args).await.map(drop)
    }

    async fn status(&self, args: Args) -> Result<(), Error> {
        self.0.yielding("STATUS", &args).await.map(drop)
    }
}

/// A daemon in this process, stopped on drop.
pub(crate) struct Daemon {
    pub(crate) actor: Actor,
    pub(crate) socket: PathBuf,
    stop: Option<UnixStream>,
    server: Option<JoinHandle<()>>,
    has_ended: Arc<AtomicBool>,
    _dir: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("daemon.sock");
        let listener = listen(&socket).unwrap();
        let actor = Actor::default();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let has_ended = Arc::new(AtomicBool::new(false));
        let (plugin, ended) = (actor.clone(), Arc::clone(&has_ended));
        let server = std::thread::spawn(move || {
            match kind {
                Kind::Blocking => {
                    let server = serve_blocking(listener, plugin).request_limit(8 << 20);
                    server.run_until(stopped).unwrap();
                }
                Kind::Async => tokio::runtime::Runtime::new().unwrap().block_on(async {
                    stopped.set_nonblocking(true).unwrap();
                    let stopped = tokio::net::UnixStream::from_std(stopped).unwrap();
                    let server = serve(listener, AsyncActor(plugin)).request_limit(8 << 20);
                    let signal = async move { stopped.readable().await.unwrap() };
                    server.with_graceful_shutdown(signal).await.unwrap();
                }),
            }
            ended.store(true, Ordering::SeqCst);
        });
        let (stop, server) = (Some(stop), Some(server));
        Self { actor, socket, stop, server, has_ended, _dir: dir }
    }

    pub(crate) fn shim(&self) -> Shim {
        Shim::new(&self.socket)
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&mut self) {
        self.stop = None;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if let Some(server) = self.server.take()
            && !std::thread::panicking()
        {
            server.join().unwrap();
        }
    }
}

/// A call of container `id`.
pub(crate) fn call(command: &str, id: &str, act: &str) -> Request {
    let config = json!({ "cniVersion": "1.1.0", "name": "net", "type": "my", "act": act });
    request(command, id, None, &config)
}

pub(crate) fn request(command: &str, id: &str, netns: Option<&Path>, config: &Value) -> Request {
    let vars = [
        ("CNI_COMMAND", command.into()),
        ("CNI_CONTAINERID", id.into()),
        ("CNI_IFNAME", "eth0".into()),
        ("CNI_PATH", "/opt/cni/bin".into()),
    ];
    let mut vars: BTreeMap<_, _> = vars.map(|(name, value)| (name.to_owned(), value)).into();
    vars.extend(netns.map(|path| ("CNI_NETNS".to_owned(), path.into())));
    Request::new(vars, config.to_string().into_bytes())
}

/// The code of a failed reply.
#[track_caller]
pub(crate) fn code(reply: &Reply) -> u32 {
    let error = reply.error.as_ref().expect("the call fails");
    let json: Value = serde_json::from_slice(&reply.stdout).expect("an error reply");
    assert_eq!(json["code"], error.code());
    assert_eq!(json["cniVersion"], "1.1.0");
    error.code()
}

/// The details of a failed reply.
#[track_caller]
pub(crate) fn details(reply: &Reply) -> String {
    reply.error.as_ref().expect("the call fails").details().to_owned()
}
