//! `rscni ls`.

use serde_json::json;

use crate::world::{Ran, World, on_terminal};

/// An attachment whose namespace is there, one whose is gone, and one to another network.
fn attached() -> World {
    let world = World::new();
    world.network("20-b.conf", &json!({ "cniVersion": "1.0.0", "name": "b", "type": "first" }));
    world.rscni("add", "mynet", &["--container-id", "gone"]).succeeded();
    world.call(&["add", "mynet", "/proc/self/ns/net", "--container-id", "there"]).succeeded();
    world
        .call(&["add", "b", "/proc/self/ns/net", "--container-id", "there", "--ifname", "net1"])
        .succeeded();
    world
}

/// The rows of a table, without the column of ages.
fn rows(text: &str) -> Vec<String> {
    let begin = text.lines().next().unwrap().find("AGE").unwrap();
    let end = text.lines().next().unwrap().find("NAMESPACE").unwrap();
    text.lines().map(|line| format!("{}{}", &line[..begin], &line[end..])).collect()
}

#[test]
fn there_is_a_row_for_each_attachment() {
    let world = attached();
    let gone = world.path("netns");
    let text = world.call(&["ls"]).succeeded().stdout;
    assert_eq!(
        rows(&text),
        [
            "NETWORK  CONTAINER  POD  INTERFACE  ADDRESSES    NAMESPACE".to_owned(),
            "b        there      -    net1       10.0.0.2/24  /proc/self/ns/net".to_owned(),
            format!("mynet    gone       -    eth0       10.0.0.3/24  {} (gone)", gone.display()),
            "mynet    there      -    eth0       10.0.0.3/24  /proc/self/ns/net".to_owned(),
        ]
    );
    let column = text.find("AGE").unwrap();
    for line in text.lines().skip(1) {
        let age = line[column..].split(' ').next().unwrap();
        assert!(age[..age.len() - 1].parse::<u32>().is_ok() && age.ends_with(['s', 'm']), "{line}");
    }
    let shown = on_terminal(&mut world.calling(&["ls"])).succeeded().stdout;
    assert!(
        shown.starts_with("\x1b[1mNETWORK  CONTAINER ") && shown.lines().count() == 4,
        "{shown}"
    );
}

#[test]
fn options_leave_rows_out() {
    let world = attached();
    let count = |options: &[&str]| {
        world.call(&[&["ls"], options].concat()).succeeded().stdout.lines().count() - 1
    };
    assert_eq!(count(&["--network", "mynet"]), 2);
    assert_eq!(count(&["--container", "there"]), 2);
    assert_eq!(count(&["--container", "there", "--network", "b"]), 1);
    assert_eq!(count(&["--network", "my"]), 0);
    assert_eq!(count(&["there"]), 2);
    assert_eq!(world.call(&["ls", "--container", "../there"]).status, 2);
}

#[test]
fn json_has_all_of_it() {
    let world = attached();
    let listed = world.call(&["ls", "-o", "json", "--network", "mynet"]).succeeded().json();
    let mut first = listed["attachments"][0].clone();
    assert!(first["modified"].take().is_u64());
    assert_eq!(
        first,
        json!({
            "network": "mynet", "containerID": "gone", "pod": null, "ifname": "eth0",
            "addresses": ["10.0.0.3/24"],
            "modified": null, "netns": world.path("netns"), "netnsExists": false,
        })
    );
    assert_eq!(
        (&listed["attachments"][1]["netnsExists"], &listed["broken"]),
        (&json!(true), &json!([]))
    );
}

#[test]
fn a_damaged_entry_is_named_below_the_others() {
    let world = attached();
    let results = world.path("cache/results");
    let whole = std::fs::read(results.join("mynet-gone-eth0")).unwrap();
    std::fs::write(results.join("mynet-half-eth0"), &whole[..whole.len() / 2]).unwrap();
    let text = world.call(&["ls"]).succeeded().stdout;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[4]), (6, ""), "{text}");
    assert!(
        lines[5].starts_with("cannot be read: ") && lines[5].contains("mynet-half-eth0: EOF while"),
        "{text}"
    );
    assert!(!world.call(&["ls", "--network", "b"]).succeeded().stdout.contains("cannot be read"));
    let listed = world.call(&["ls", "-o", "json"]).succeeded().json();
    assert_eq!(listed["broken"][0]["file"], json!(results.join("mynet-half-eth0")));
}

#[test]
fn where_nothing_was_ever_attached_there_is_a_header() {
    let ran = World::new().call(&["ls"]).succeeded();
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (1, ""), "{}", ran.stdout);
}

/// The id of a container as runtimes make them, with these digits at its begin and its end.
fn long(begin: &str, end: &str) -> String {
    format!("{begin}{}{end}", "0".repeat(64 - begin.len() - end.len()))
}

/// Attaches a pod's sandbox as kubelet has containerd do it: the loopback interface, then the
/// network.
fn add_pod(world: &World, id: &str, pod: &str, netns: &str) {
    let (namespace, name) = pod.split_once('/').unwrap();
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
    for (network, ifname) in [("cni-loopback", "lo"), ("mynet", "eth0")] {
        let options = ["--container-id", id, "--ifname", ifname, "--args", &args];
        world.call(&[&["add", network, netns], &options[..]].concat()).succeeded();
    }
}

/// Two sandboxes of the pod `default/web`, of which one has ended, and one of `kube-system/dns`.
fn pods() -> (World, [String; 3]) {
    let world = World::new();
    let loopback = json!({ "cniVersion": "1.0.0", "name": "cni-loopback", "type": "first" });
    world.network("20-lo.conf", &loopback);
    let ids = [long("aaaaaaaaaaaa", "1"), long("aaaaaaaaaaaa", "2"), long("bbbbbbbbbbbb", "")];
    add_pod(&world, &ids[0], "default/web", world.path("netns").to_str().unwrap());
    add_pod(&world, &ids[1], "default/web", "/proc/self/ns/net");
    add_pod(&world, &ids[2], "kube-system/dns", "/proc/self/ns/net");
    // The file of the network belongs to the runtime.
    std::fs::remove_file(world.path("net.d/20-lo.conf")).unwrap();
    (world, ids)
}

fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn pods_have_their_names_and_short_ids() {
    let (world, ids) = pods();
    let text = world.call(&["ls"]).succeeded().stdout;
    let rows = words(&text);
    assert_eq!(rows.len(), 3, "{text}");
    let heads: Vec<_> = rows.iter().map(|row| row[..4].join(" ")).collect();
    assert_eq!(
        heads,
        [
            "mynet aaaaaaaaaaaa default/web eth0",
            "mynet aaaaaaaaaaaa default/web eth0",
            "mynet bbbbbbbbbbbb kube-system/dns eth0",
        ]
    );
    let all = world.call(&["ls", "--all"]).succeeded().stdout;
    assert_eq!(all.matches("cni-loopback").count(), 3, "{all}");
    assert_eq!(all.lines().count(), 7);
    for options in [&["--no-trunc"][..], &["-o", "wide"]] {
        let text = world.call(&[&["ls"], options].concat()).succeeded().stdout;
        assert!(ids.iter().all(|id| text.contains(id)), "{text}");
    }
    let listed = world.call(&["ls", "-o", "json", "kube-system/dns"]).succeeded().json();
    assert_eq!(listed["attachments"].as_array().unwrap().len(), 1);
    assert_eq!(listed["attachments"][0]["containerID"], json!(ids[2]));
    let pod = json!({ "namespace": "kube-system", "name": "dns" });
    assert_eq!(listed["attachments"][0]["pod"], pod);
}

#[test]
fn names_are_what_gc_takes() {
    let (world, ids) = pods();
    let names = world.call(&["ls", "-o", "name"]).succeeded().stdout;
    assert_eq!(names, ids.map(|id| format!("{id}/eth0\n")).concat());
    let names: Vec<_> = names.lines().collect();
    let before = world.order().len();
    world.call(&[&["gc", "mynet", "--valid"], &names[..]].concat()).succeeded();
    assert_eq!(world.order().len(), before, "{:?}", world.order());
}

#[test]
fn a_wide_table_has_the_interfaces() {
    let world = World::new();
    world.plugin(
        "second",
        r#"[ "$CNI_COMMAND" = ADD ] && echo '{ "cniVersion": "1.0.0", "interfaces": [
            { "name": "veth1", "mac": "00:00:00:00:00:01" }, { "name": "br0" },
            { "name": "eth0", "mac": "00:00:00:00:00:02", "sandbox": "/x" }
        ], "ips": [{ "address": "10.0.0.3/24" }] }'; :"#,
    );
    world.rscni("add", "mynet", &["--container-id", "a"]).succeeded();
    let text = world.call(&["ls", "-o", "wide"]).succeeded().stdout;
    let (header, row) = text.trim_end().split_once('\n').unwrap();
    assert_eq!(
        header.split_whitespace().collect::<Vec<_>>().join(" "),
        "NETWORK CONTAINER POD INTERFACE MAC ADDRESSES HOST AGE NAMESPACE"
    );
    let row = row.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(row.starts_with("mynet a - eth0 00:00:00:00:00:02 10.0.0.3/24 veth1 br0 "), "{row}");
}

#[test]
fn a_container_is_found_by_its_pod_or_twelve_digits() {
    let (world, ids) = pods();
    let listed = |container: &str| words(&world.call(&["ls", container]).stdout).len();
    assert_eq!(listed("default/web"), 2);
    assert_eq!(listed("aaaaaaaaaaaa"), 2);
    assert_eq!(listed("bbbbbbbbbbbb"), 1);
    assert_eq!(listed(&ids[0]), 1);
    assert_eq!(listed("bbbbbbbbbbb"), 0);
    assert_eq!(listed("default/other"), 0);

    // CHECK gets what ADD got, without a path.
    world.call(&["check", "mynet", "--container-id", "kube-system/dns"]).succeeded();
    let told = world.vars("CHECK-first");
    assert!(told.starts_with(&format!("{} /proc/self/ns/net eth0 ", ids[2])), "{told}");
    assert!(told.ends_with("K8S_POD_NAME=dns"), "{told}");
    world.call(&["check", "mynet", "--container-id", "bbbbbbbbbbbb"]).succeeded();

    let ambiguous = |container: &str| -> Ran {
        let calls = world.order().len();
        let ran = world.call(&["del", "mynet", "--container-id", container]);
        assert_eq!((ran.status, world.order().len()), (1, calls), "{ran:?}");
        ran
    };
    for container in ["default/web", "aaaaaaaaaaaa"] {
        let said = ambiguous(container).stderr;
        let both = format!("{} (gone), {}", ids[0], ids[1]);
        assert!(said.contains("several containers") && said.contains(&both), "{said}");
    }
    let said = ambiguous("default/other").stderr;
    assert!(
        said.contains("no attachment of pod default/other") && said.contains("(code 3)"),
        "{said}"
    );
    let said = ambiguous("cccccccccccc").stderr;
    assert!(said.contains("no namespace of container cccccccccccc is remembered"), "{said}");

    world.call(&["del", "mynet", "--container-id", &ids[0]]).succeeded();
    world.call(&["del", "mynet", "--container-id", "default/web"]).succeeded();
    assert!(world.vars("DEL-first").starts_with(&ids[1]));
    assert_eq!(listed("default/web"), 0);
    assert_eq!(listed("kube-system/dns"), 1);
}

#[test]
fn an_id_is_never_taken_for_the_beginning_of_a_name() {
    let world = World::new();
    for id in ["web", "web2", "0123456789ab", "0123456789abc"] {
        world.rscni("add", "mynet", &["--container-id", id]).succeeded();
    }
    for id in ["web", "0123456789ab"] {
        for _ in 0..2 {
            world.rscni("del", "mynet", &["--container-id", id]).succeeded();
        }
    }
    let left = world.call(&["ls", "-o", "name"]).succeeded().stdout;
    assert_eq!(left, "0123456789abc/eth0\nweb2/eth0\n");
}

#[test]
fn gc_keeps_every_container_that_may_be_meant() {
    let (world, ids) = pods();
    let left = || world.call(&["ls", "-o", "name", "--network", "mynet"]).succeeded().stdout;
    let unknown = ["default/web/eth0", "default/other/eth0"];
    let ran = world.call(&[&["gc", "mynet", "--valid"], &unknown[..]].concat());
    assert!(ran.status == 1 && ran.stderr.contains("nothing was removed"), "{ran:?}");
    assert_eq!(left().lines().count(), 3);
    world.call(&["gc", "mynet", "--valid", "default/web/eth0"]).succeeded();
    assert_eq!(left(), format!("{}/eth0\n{}/eth0\n", ids[0], ids[1]));
    world.call(&["gc", "mynet", "--valid", "aaaaaaaaaaaa/eth0"]).succeeded();
    assert_eq!(left().lines().count(), 2);
    world.call(&["gc", "mynet", "--valid", &format!("{}/eth0", ids[1])]).succeeded();
    assert_eq!(left(), format!("{}/eth0\n", ids[1]));
}

#[test]
fn what_others_wrote_into_cni_args_reaches_no_terminal() {
    let world = World::new();
    let hostile = "K8S_POD_NAMESPACE=\u{1b}[2J;K8S_POD_NAME=web\nroot";
    let options = ["--container-id", "a", "--args", hostile];
    world.rscni("add", "mynet", &options).succeeded();
    for format in ["text", "wide", "name"] {
        let ran = world.call(&["ls", "-o", format]).succeeded();
        assert_eq!(ran.stdout.lines().count(), if format == "name" { 1 } else { 2 }, "{ran:?}");
        assert!(!ran.stdout.contains('\u{1b}') && !ran.stdout.contains("root"), "{ran:?}");
    }
    let listed = world.call(&["ls", "-o", "json"]).succeeded().json();
    assert_eq!(listed["attachments"][0]["pod"], json!(null));
}
