//! A plugin in the style of a BGP CNI: a daemon that announces a host route for each container,
//! with its shim in the same process. The router installs the routes that are announced.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Output},
    sync::{Mutex, mpsc},
    thread,
};

use rscni::{
    Args, CNIResult, Cni, Error, Interface, IpConfig, IpNet, Request,
    shim::{Shim, listen, serve_blocking},
};
use rscni_linux::{AddressFlags, LinkChange, Netlink, Netns, Route, Veth, sysctl};
use rscni_test::{Container, Lab, Plugin, run};
use serde_json::{Value, json};

/// The gateway of all containers, on every host interface.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A message of the daemon to the router.
enum Update {
    Announce(IpNet),
    Withdraw(IpNet),
}

/// The work of the daemon.
struct Bgp {
    /// The addresses of the attachments.
    routes: Mutex<BTreeMap<(String, String), IpNet>>,
    session: mpsc::Sender<Update>,
}

fn key(args: &Args) -> (String, String) {
    (args.container_id.clone(), args.ifname.clone())
}

fn host_name(args: &Args) -> String {
    format!("bgp-{}", &args.container_id[..args.container_id.len().min(10)])
}

fn up() -> LinkChange<'static> {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

impl Bgp {
    fn update(&self, update: Update) -> Result<(), Error> {
        let down = |_| Error::PluginNotAvailable("the session with the router is down".into());
        self.session.send(update).map_err(down)
    }

    fn allocate(&self, args: &Args) -> Result<IpNet, Error> {
        let mut routes = self.routes.lock().unwrap();
        let is_free = |address: &IpNet| !routes.values().any(|taken| taken == address);
        let address = (1..255)
            .map(|host| IpNet::from(IpAddr::from([10, 7, 0, host])))
            .find(is_free)
            .ok_or_else(|| {
                Error::TryAgainLater("all addresses of 10.7.0.0/24 are in use".into())
            })?;
        routes.insert(key(args), address);
        Ok(address)
    }

    fn connect(args: &Args, address: IpNet) -> rscni_linux::Result<()> {
        let netns = Netns::open(args.netns.as_ref().expect("ADD has a namespace"))?;
        let (mut host, mut inside) = (Netlink::open()?, Netlink::open_in(&netns)?);
        let veth = Veth { peer_netns: Some(&netns), ..Veth::new(host_name(args), &args.ifname) };
        let link = host.add_veth(&veth)?;
        host.add_address(link.index, IpAddr::from(GATEWAY).into(), AddressFlags::default())?;
        host.set_link(link.index, &up())?;
        host.add_route(&Route { oif: Some(link.index), ..Route::new(address) })?;

        let eth0 = inside.link_by_name(&args.ifname)?.index;
        inside.add_address(eth0, address, AddressFlags::default())?;
        inside.set_link(eth0, &up())?;
        inside.add_route(&Route { oif: Some(eth0), ..Route::new(IpAddr::from(GATEWAY)) })?;
        inside.add_route(&Route::default_via(GATEWAY.into()))
    }
}

impl Cni for Bgp {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        let address = self.allocate(&args)?;
        let connected = Self::connect(&args, address).map_err(Error::other);
        if let Err(error) = connected.and_then(|()| self.update(Update::Announce(address))) {
            self.del(args)?;
            return Err(error);
        }
        let sandbox = args.netns.as_ref().map(|path| path.display().to_string());
        Ok(CNIResult {
            interfaces: vec![Interface { name: args.ifname, sandbox, ..Interface::default() }],
            ips: vec![IpConfig {
                interface: Some(0),
                gateway: Some(GATEWAY.into()),
                ..IpConfig::new(address)
            }],
            ..CNIResult::default()
        })
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        let mut host = Netlink::open().map_err(Error::other)?;
        if let Some(link) = host.find_link(&host_name(&args)).map_err(Error::other)? {
            host.del_link(link.index).map_err(Error::other)?;
        }
        match self.routes.lock().unwrap().remove(&key(&args)) {
            Some(address) => self.update(Update::Withdraw(address)),
            None => Ok(()),
        }
    }
}

/// Returns the shim of a daemon in this process.
fn shim(socket: std::path::PathBuf) -> Plugin {
    Plugin::linked("bgp", move |call| {
        let vars = call.environment.iter();
        let vars = vars.map(|(name, value)| (name.to_str().unwrap().to_owned(), value.clone()));
        let request = Request::new(vars.collect(), call.stdin.to_vec());
        let reply = Shim::new(&socket).reply(&request);
        let status = ExitStatus::from_raw(i32::from(reply.exit_code()) << 8);
        Output { status, stdout: reply.stdout, stderr: reply.stderr.into_bytes() }
    })
}

/// Connects the router to the host.
fn connect_router(lab: &Lab) -> Container {
    let router = lab.container("router");
    let netns = Netns::open(router.path()).unwrap();
    let (mut host, mut inside) = (Netlink::open().unwrap(), Netlink::open_in(&netns).unwrap());
    host.add_veth(&Veth { peer_netns: Some(&netns), ..Veth::new("uplink", "eth0") }).unwrap();
    for (netlink, name, address) in
        [(&mut host, "uplink", "192.0.2.1/24"), (&mut inside, "eth0", "192.0.2.2/24")]
    {
        let index = netlink.link_by_name(name).unwrap().index;
        netlink.add_address(index, address.parse().unwrap(), AddressFlags::default()).unwrap();
        netlink.set_link(index, &up()).unwrap();
    }
    sysctl::set("net/ipv4/ip_forward", "1").unwrap();
    router
}

/// Installs the routes that the daemon announces, until the session ends.
fn follow(updates: mpsc::Receiver<Update>, router: &Container) {
    let mut netlink = Netlink::open_in(&Netns::open(router.path()).unwrap()).unwrap();
    let via = |dst| Route { gateway: Some([192, 0, 2, 1].into()), ..Route::new(dst) };
    for update in updates {
        match update {
            Update::Announce(dst) => netlink.add_route(&via(dst)).unwrap(),
            Update::Withdraw(dst) => netlink.del_route(&via(dst)).unwrap(),
        }
    }
}

fn config() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "routed", "type": "bgp" })
}

#[test]
fn the_router_reaches_announced_containers() {
    run(|lab| {
        let router = connect_router(lab);
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bgp.sock");
        let listener = listen(&socket).unwrap();
        let plugin = shim(socket);
        let (stop, stopped) = std::os::unix::net::UnixStream::pair().unwrap();
        let (session, updates) = mpsc::channel();
        thread::scope(|scope| {
            let daemon = serve_blocking(listener, Bgp { routes: Mutex::default(), session });
            scope.spawn(move || daemon.run_until(stopped).unwrap());
            let peer = &router;
            scope.spawn(move || follow(updates, peer));

            let [a, b] = ["a", "b"].map(|name| lab.container(name));
            let before = lab.snapshot();
            let [first, second] = [&a, &b].map(|container| {
                plugin.add(container, "eth0", &config()).success().ips()[0].addr()
            });
            assert_ne!(first, second);
            router.ping(first);
            router.ping(second);
            a.ping(second);

            plugin.del(&a, "eth0", &config()).success();
            plugin.del(&a, "eth0", &config()).success();
            router.cannot_ping(first);
            router.ping(second);
            plugin.del(&b, "eth0", &config()).success();
            rscni_test::eventually("the router to withdraw the routes", || {
                let mut netlink = Netlink::open_in(&Netns::open(router.path()).unwrap()).unwrap();
                netlink.route_to(second).unwrap().is_none().then_some(())
            });
            lab.assert_unchanged_since(&before);
            drop(stop);
        });
    });
}
