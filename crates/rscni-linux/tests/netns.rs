//! Creating, binding and entering namespaces.

mod support;

use rscni_linux::{Error, Netlink, Netns};
use support::{ip, private_network, run};

#[test]
fn thread_returns_from_a_namespace() {
    private_network(|| {
        let before = Netns::current().unwrap();
        let netns = Netns::create().unwrap();
        assert!(!netns.is_same(&before).unwrap());
        let inside = netns.enter(Netns::current).unwrap().unwrap();
        assert!(inside.is_same(&netns).unwrap());
        assert!(Netns::current().unwrap().is_same(&before).unwrap());
    });
}

#[test]
fn thread_returns_from_a_namespace_after_a_panic() {
    private_network(|| {
        let before = Netns::current().unwrap();
        let netns = Netns::create().unwrap();
        let panicked = std::panic::catch_unwind(|| netns.enter(|| panic!("inside")));
        assert!(panicked.is_err());
        assert!(Netns::current().unwrap().is_same(&before).unwrap());
    });
}

/// Root of a nested user namespace may enter network namespaces that it creates, but not its
/// original one.
#[test]
fn thread_that_could_not_return_does_not_enter() {
    const NESTED: &str = "RSCNI_LINUX_TEST_NESTED";
    if std::env::var_os(NESTED).is_some() {
        let before = Netns::current().unwrap();
        assert!(before.enter(|| ()).is_err(), "this test needs a namespace that it may not enter");
        let netns = Netns::create().unwrap();
        let inside = netns.enter(Netns::current).unwrap().unwrap();
        assert!(inside.is_same(&netns).unwrap());
        assert!(Netns::current().unwrap().is_same(&before).unwrap());
        return;
    }
    private_network(|| {
        let output = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user"])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "thread_that_could_not_return_does_not_enter",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(NESTED, "1")
            .output()
            .unwrap();
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
    });
}

#[test]
fn unnamed_namespace_can_be_opened_by_its_path() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        let again = Netns::open(netns.path()).unwrap();
        assert!(again.is_same(&netns).unwrap());
        let path = netns.path();
        let list = run("nsenter", &format!("--net={} ip -br link", path.display()));
        assert!(list.starts_with("lo ") && list.lines().count() == 1, "{list}");
    });
}

#[test]
fn namespace_is_bound_and_unbound() {
    private_network(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let netns = Netns::create().unwrap();
        netns.bind(&path).unwrap();
        assert!(Netns::open(&path).unwrap().is_same(&netns).unwrap());
        assert!(netns.bind(&path).unwrap_err().is_exists());
        Netns::unbind(&path).unwrap();
        let gone = Netns::open(&path).unwrap_err();
        assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
    });
}

#[test]
fn socket_stays_in_the_namespace_it_was_opened_in() {
    private_network(|| {
        ip("link add only-here type bridge");
        let netns = Netns::create().unwrap();
        let mut here = Netlink::open().unwrap();
        let mut there = Netlink::open_in(&netns).unwrap();
        assert!(here.find_link("only-here").unwrap().is_some());
        assert!(there.find_link("only-here").unwrap().is_none());
    });
}

#[test]
fn other_kinds_of_namespaces_cannot_be_entered() {
    private_network(|| {
        let other = Netns::open("/proc/self/ns/uts").unwrap();
        assert!(other.enter(|| ()).is_err());
    });
}
