//! The daemon of the dhcp plugin: start, end, restart, and what is left without it.

mod support;

use std::{
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    process::{Command, Stdio},
};

use rscni_test::{Lab, eventually};
use rstest::rstest;
use serde_json::json;

use support::dhcp::{self, Running, SOCKET, address, kept, leased};

#[test]
fn leases_survive_a_daemon_that_is_killed() {
    rscni_test::run(|lab| {
        let (server, mut daemon) = dhcp::set_up(lab, &["--dhcp-option=option:T1,4"]);
        let network =
            dhcp::network(lab, &json!({ "provide": [{ "option": "60", "value": "kept-too" }] }));
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        daemon.kill();
        assert_eq!(kept(SOCKET).len(), 2);
        // The stale socket of the killed daemon is replaced.
        assert!(Path::new(SOCKET).exists());
        let before = server.log().matches("DHCPACK").count();
        let daemon = dhcp::daemon(lab, &[]);
        daemon.says("2 leases kept");
        a.check().success();
        b.check().success();
        server.says_times("DHCPACK", before + 4);
        // Two messages at the start, and one per renewal.
        assert!(server.log().matches("vendor class: kept-too").count() > 4);
        a.ping(dhcp::SERVER);
        for attached in [&a, &b] {
            attached.del().success();
        }
        eventually("the release", || leased(lab).is_empty().then_some(()));
        assert_eq!(kept(SOCKET), [""; 0].map(Path::new));
    });
}

#[test]
fn a_terminated_daemon_leaves_only_leases() {
    rscni_test::run(|lab| {
        dhcp::lan(lab);
        let _server = dhcp::dnsmasq(lab, &[]);
        let pidfile = lab.dir().join("dhcp.pid");
        let mut daemon = dhcp::daemon(lab, &["-pidfile", pidfile.to_str().unwrap()]);
        eventually("the pid file", || pidfile.exists().then_some(()));
        assert_eq!(std::fs::read_to_string(&pidfile).unwrap(), daemon.id().to_string());
        assert_eq!(std::fs::metadata(SOCKET).unwrap().permissions().mode() & 0o777, 0o600);
        let a = dhcp::network(lab, &json!({})).attach(lab, "a");
        assert!(daemon.end().success(), "{}", daemon.log());
        assert!(!pidfile.exists() && !Path::new(SOCKET).exists());
        assert_eq!((kept(SOCKET).len(), leased(lab)), (1, vec![address(&a)]));
        let _daemon = dhcp::daemon(lab, &[]);
        a.check().success();
        a.del().success();
    });
}

#[test]
fn without_a_daemon_status_and_add_fail_and_del_releases_leases() {
    rscni_test::run(|lab| {
        let (_server, mut daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(lab, &json!({}));
        network.status().success();
        let [a, b, c] = ["a", "b", "c"].map(|name| network.attach(lab, name));
        daemon.end();
        network.status().error(51).mentions("no DHCP daemon listens at /run/cni/dhcp.sock");
        let d = lab.container("d");
        let before = support::snapshot(lab);
        network.add(&d).error(11).mentions("start `dhcp daemon`");
        lab.assert_unchanged_since(&before);
        network.del(&d).success();
        a.del().success();
        network.gc(&[&b]).success();
        eventually("the release", || (leased(lab) == [address(&b)]).then_some(()));
        assert_eq!(kept(SOCKET).len(), 1);
        b.del_without_netns().success();
        c.del().success();
        a.del().success();
        eventually("the release", || leased(lab).is_empty().then_some(()));
        assert_eq!(kept(SOCKET).len(), 0);
    });
}

#[test]
fn leases_of_removed_containers_are_not_kept() {
    rscni_test::run(|lab| {
        let (_server, mut daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(lab, &json!({}));
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        // Its interface goes with its namespace at once, because the daemon keeps nothing open
        // there.
        let port = a.port_name();
        lab.remove_namespace(&a);
        eventually("the end of the link", || {
            lab.host().netlink().find_link(&port).unwrap().is_none().then_some(())
        });
        daemon.says(&format!("net/{}/eth0: the container is gone", a.id()));
        assert_eq!(kept(SOCKET).len(), 1);
        a.check_misses("there is no DHCP lease");
        a.del().success();
        // A new namespace of the same name is not mistaken for it.
        daemon.kill();
        lab.remove_namespace(&b);
        let other = lab.container("b");
        let daemon = dhcp::daemon(lab, &[]);
        daemon.says("the container is gone");
        daemon.says("0 leases kept");
        assert_eq!(kept(SOCKET).len(), 0);
        network.del(&other).success();
    });
}

#[test]
fn the_lease_of_an_interface_that_is_gone_is_not_renewed() {
    rscni_test::run(|lab| {
        let (_server, daemon) = dhcp::set_up(lab, &["--dhcp-option=option:T1,3"]);
        let a = dhcp::network(lab, &json!({})).attach(lab, "a");
        lab.host().netlink().del_link(support::host_link(lab, &a.port_name()).index).unwrap();
        daemon.says("the interface is gone");
        assert_eq!(kept(SOCKET).len(), 0);
        a.del().success();
    });
}

#[test]
fn files_without_leases_of_this_boot_are_ignored() {
    rscni_test::run(|lab| {
        let (_server, mut daemon) = dhcp::set_up(lab, &[]);
        let a = dhcp::network(lab, &json!({})).attach(lab, "a");
        daemon.kill();
        let [file] = &kept(SOCKET)[..] else { panic!("one lease") };
        let text = std::fs::read_to_string(file).unwrap();
        let mut lease: serde_json::Value = serde_json::from_str(&text).unwrap();
        lease["bootId"] = "another".into();
        for (name, text) in [
            ("cut-off.json", &text[..text.len() / 2]),
            ("copy.json", &text),
            ("empty.json", ""),
            ("left.tmp", &text),
            ("00000000000000000000000000000000.json", &lease.to_string()),
        ] {
            std::fs::write(file.with_file_name(name), text).unwrap();
        }
        let daemon = dhcp::daemon(lab, &[]);
        daemon.says("1 leases kept");
        assert_eq!(kept(SOCKET), std::slice::from_ref(file));
        a.check().success();
        a.del().success();
    });
}

#[test]
fn there_is_one_daemon_for_a_socket_and_one_for_each() {
    rscni_test::run(|lab| {
        let (_server, first) = dhcp::set_up(lab, &[]);
        let mut second = dhcp::daemon_in_vain(lab, &[]);
        second.says("another DHCP daemon uses /run/cni/dhcp.sock.leases");
        assert!(!second.wait().success());
        let other = lab.dir().join("other.sock");
        let other = other.to_str().unwrap();
        let _third = dhcp::daemon(lab, &["--socketpath", other]);
        let a = dhcp::network(lab, &json!({ "daemonSocketPath": other })).attach(lab, "a");
        let b = dhcp::network(lab, &json!({})).attach(lab, "b");
        assert_eq!((kept(SOCKET).len(), kept(other).len()), (1, 1));
        a.check().success();
        b.check().success();
        a.del().success();
        b.del().success();
        assert!(first.log().contains(b.id()) && !first.log().contains(a.id()));
    });
}

/// Starts the daemon with an inherited socket, like systemd.
fn activated(lab: &Lab, listener: UnixListener, environment: &str) -> Running {
    if !Path::new("/run/rscni-test/bin/dhcp").exists() {
        support::install(lab);
    }
    let mut command = Command::new("sh");
    let script = format!("{environment} exec /run/rscni-test/bin/dhcp daemon 3<&0 0</dev/null");
    command.arg("-c").arg(script);
    Running::start_with(
        &mut command,
        lab.dir().join("activated.log"),
        OwnedFd::from(listener).into(),
    )
}

#[test]
fn a_socket_that_systemd_hands_over_is_used_and_stays() {
    rscni_test::run(|lab| {
        dhcp::lan(lab);
        let _server = dhcp::dnsmasq(lab, &[]);
        std::fs::create_dir_all("/run/cni").unwrap();
        let listener = UnixListener::bind(SOCKET).unwrap();
        // A plugin that comes before the daemon waits for it.
        let mut early = UnixStream::connect(SOCKET).unwrap();
        early.write_all(b"\"ping\"\n").unwrap();
        let mut daemon =
            activated(lab, listener.try_clone().unwrap(), "LISTEN_PID=$$ LISTEN_FDS=1");
        let mut answer = String::new();
        early.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "\"done\"\n");
        let a = dhcp::network(lab, &json!({})).attach(lab, "a");
        a.ping(dhcp::SERVER);
        assert!(daemon.end().success());
        assert!(Path::new(SOCKET).exists());
        let _next = activated(lab, listener, "LISTEN_PID=$$ LISTEN_FDS=1");
        a.check().success();
        a.del().success();
        eventually("the release", || leased(lab).is_empty().then_some(()));
    });
}

#[rstest]
#[case::more_than_one("LISTEN_PID=$$ LISTEN_FDS=2", "LISTEN_FDS=2: pass exactly one socket")]
#[case::none_at_all("exec <&-; LISTEN_PID=$$ LISTEN_FDS=1", "3 is not a listening Unix socket")]
fn systemd_must_pass_one_socket(#[case] environment: &str, #[case] word: &str) {
    rscni_test::run(|lab| {
        let listener = UnixListener::bind(lab.dir().join("socket")).unwrap();
        let environment = environment.replace("exec <&-;", "exec </dev/null;");
        let mut daemon = activated(lab, listener, &environment);
        daemon.says(word);
        assert!(!daemon.wait().success());
    });
}

#[test]
fn a_socket_for_another_process_is_not_taken() {
    rscni_test::run(|lab| {
        let listener = UnixListener::bind(lab.dir().join("socket")).unwrap();
        let daemon = activated(lab, listener, "LISTEN_PID=1 LISTEN_FDS=1");
        daemon.says("listening at /run/cni/dhcp.sock");
        assert!(Path::new(SOCKET).exists());
    });
}

#[test]
fn a_prefix_stands_before_the_paths_of_sockets_and_namespaces() {
    rscni_test::run(|lab| {
        dhcp::lan(lab);
        let _server = dhcp::dnsmasq(lab, &[]);
        let host = lab.dir().join("host");
        std::fs::create_dir_all(host.join("run/cni")).unwrap();
        std::os::unix::fs::symlink("/run/netns", host.join("run/netns")).unwrap();
        let _daemon = dhcp::daemon(lab, &["-hostprefix", host.to_str().unwrap()]);
        let socket = host.join("run/cni/dhcp.sock");
        let a = dhcp::network(lab, &json!({ "daemonSocketPath": socket })).attach(lab, "a");
        assert_eq!(kept(socket.to_str().unwrap()).len(), 1);
        std::fs::remove_file(host.join("run/netns")).unwrap();
        let b = lab.container("b");
        let network = a.network.clone();
        network.add(&b).error(8).mentions("host/run/netns/b");
        a.del().success();
    });
}

#[test]
fn the_daemons_of_both_plugins_are_distinguished() {
    rscni_test::run(|lab| {
        dhcp::lan(lab);
        support::install(lab);
        let network = dhcp::network(lab, &json!({})).with(&json!({ "cniVersion": "1.0.0" }));
        let mut go = Running::start(
            Command::new("/usr/lib/cni/dhcp").arg("daemon"),
            lab.dir().join("go.log"),
        );
        eventually("the socket", || Path::new(SOCKET).exists().then_some(()));
        let a = lab.container("a");
        network.add(&a).failure().mentions("another DHCP daemon");
        let newest = network.with(&json!({ "cniVersion": "1.1.0" }));
        network.plugin.status(&newest.config).error(51).mentions("another DHCP daemon");
        go.end();
        let _daemon = dhcp::daemon(lab, &[]);
        let theirs = lab.plugin("/usr/lib/cni/dhcp").cni_path(["/usr/lib/cni"]);
        theirs
            .add(&a, "eth0", &network.config)
            .failure()
            .mentions("this is the DHCP daemon of rscni");
    });
}

#[test]
fn invalid_requests_are_rejected() {
    rscni_test::run(|lab| {
        let (_server, _daemon) = dhcp::set_up(lab, &[]);
        let say = |bytes: &[u8]| {
            let mut stream = UnixStream::connect(SOCKET).unwrap();
            // The connection may be closed before all is written.
            let _ = stream.write_all(bytes);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        };
        assert!(say(b"nonsense\n").contains("501"));
        assert!(say(b"\n").contains("501"));
        assert_eq!(say(&vec![b'x'; 3 << 20]), "");
        // A silent client does not block others.
        let _silent = UnixStream::connect(SOCKET).unwrap();
        assert_eq!(say(b"\"ping\"\n"), "\"done\"\n");
        let key = r#"{"network":"../../etc","container_id":"/","ifname":"\u0000"}"#;
        assert_eq!(say(format!("{{\"release\":{{\"key\":{key}}}}}\n").as_bytes()), "\"done\"\n");
        let a = dhcp::network(lab, &json!({})).attach(lab, "a");
        a.del().success();
    });
}

#[test]
fn many_containers_get_their_leases_at_once() {
    rscni_test::run(|lab| {
        let (_server, daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(lab, &json!({}));
        let names: Vec<_> = (0..20).map(|n| format!("c{n}")).collect();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                names.iter().map(|name| scope.spawn(|| network.attach(lab, name))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut addresses: Vec<_> = all.iter().map(address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), names.len());
        // No socket and no namespace of the containers is open.
        let open = || std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count();
        eventually("nothing is open", || (open() < 12).then_some(()));
        std::thread::scope(|scope| {
            for attached in &all {
                scope.spawn(|| attached.del().success());
            }
        });
        eventually("the release", || leased(lab).is_empty().then_some(()));
    });
}

/// A container whose runtime timed out while the server does not answer.
#[test]
fn an_abandoned_add_ends() {
    rscni_test::run(|lab| {
        dhcp::lan(lab);
        let daemon = dhcp::daemon(lab, &[]);
        let network = dhcp::network(lab, &json!({}));
        let a = lab.container("a");
        let mut given_up = Command::new(network.plugin.program())
            .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", a.id()), ("CNI_IFNAME", "eth0")])
            .envs([("CNI_NETNS", a.path()), ("CNI_PATH", Path::new("/run/rscni-test/bin"))])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        given_up.stdin.take().unwrap().write_all(network.config.to_string().as_bytes()).unwrap();
        daemon.says("asking for an address");
        given_up.kill().unwrap();
        given_up.wait().unwrap();
        daemon.says("the plugin has disconnected");
        network.del(&a).success();
        // A DEL comes before the answer.
        std::thread::scope(|scope| {
            let adding = scope.spawn(|| network.add(&a));
            daemon.says_times("asking for an address", 2);
            lab.plugin("/run/rscni-test/bin/dhcp").del(&a, "eth0", &network.config).success();
            adding.join().unwrap().error(11).mentions("DEL");
        });
    });
}
