//! `rscni ls`.

use serde_json::json;

use crate::fixture::{CommandOutput, Fixture, on_terminal};

/// Creates two attachments, one without its namespace, and a third one to another network.
fn attached() -> Fixture {
    let fixture = Fixture::new();
    fixture.network("20-b.conf", &json!({ "cniVersion": "1.0.0", "name": "b", "type": "first" }));
    fixture.rscni("add", "mynet", &["--container-id", "gone"]).succeeded();
    fixture.call(&["add", "mynet", "/proc/self/ns/net", "--container-id", "there"]).succeeded();
    fixture
        .call(&["add", "b", "/proc/self/ns/net", "--container-id", "there", "--ifname", "net1"])
        .succeeded();
    fixture
}

/// Returns the rows of a table without the column AGE.
fn rows(text: &str) -> Vec<String> {
    let begin = text.lines().next().unwrap().find("AGE").unwrap();
    let end = text.lines().next().unwrap().find("NAMESPACE").unwrap();
    text.lines().map(|line| format!("{}{}", &line[..begin], &line[end..])).collect()
}

#[test]
fn every_attachment_has_a_row() {
    let fixture = attached();
    let gone = fixture.path("netns");
    let text = fixture.call(&["ls"]).succeeded().stdout;
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
    let shown = on_terminal(&mut fixture.call_command(&["ls"])).succeeded().stdout;
    assert!(
        shown.starts_with("\x1b[1mNETWORK  CONTAINER ") && shown.lines().count() == 4,
        "{shown}"
    );
}

#[test]
fn options_filter_rows() {
    let fixture = attached();
    let count = |options: &[&str]| {
        fixture.call(&[&["ls"], options].concat()).succeeded().stdout.lines().count() - 1
    };
    assert_eq!(count(&["--network", "mynet"]), 2);
    assert_eq!(count(&["--container", "there"]), 2);
    assert_eq!(count(&["--container", "there", "--network", "b"]), 1);
    assert_eq!(count(&["--network", "my"]), 0);
    assert_eq!(count(&["there"]), 2);
    assert_eq!(fixture.call(&["ls", "--container", "../there"]).status, 2);
}

#[test]
fn json_has_every_field() {
    let fixture = attached();
    let listed = fixture.call(&["ls", "-o", "json", "--network", "mynet"]).succeeded().json();
    let mut first = listed["attachments"][0].clone();
    assert!(first["modified"].take().is_u64());
    assert_eq!(
        first,
        json!({
            "network": "mynet", "containerID": "gone", "pod": null, "ifname": "eth0",
            "addresses": ["10.0.0.3/24"],
            "modified": null, "netns": fixture.path("netns"), "netnsExists": false,
        })
    );
    assert_eq!(
        (&listed["attachments"][1]["netnsExists"], &listed["broken"]),
        (&json!(true), &json!([]))
    );
}

#[test]
fn unreadable_cache_files_are_listed_below_the_table() {
    let fixture = attached();
    let results = fixture.path("cache/results");
    let whole = std::fs::read(results.join("mynet-gone-eth0")).unwrap();
    std::fs::write(results.join("mynet-half-eth0"), &whole[..whole.len() / 2]).unwrap();
    let text = fixture.call(&["ls"]).succeeded().stdout;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[4]), (6, ""), "{text}");
    assert!(
        lines[5].starts_with("cannot be read: ") && lines[5].contains("mynet-half-eth0: EOF while"),
        "{text}"
    );
    assert!(!fixture.call(&["ls", "--network", "b"]).succeeded().stdout.contains("cannot be read"));
    let listed = fixture.call(&["ls", "-o", "json"]).succeeded().json();
    assert_eq!(listed["broken"][0]["file"], json!(results.join("mynet-half-eth0")));
}

#[test]
fn header_is_printed_without_attachments() {
    let out = Fixture::new().call(&["ls"]).succeeded();
    assert_eq!((out.stdout.lines().count(), out.stderr.as_str()), (1, ""), "{}", out.stdout);
}

/// Returns a container id of 64 digits that begins and ends with these.
fn long(begin: &str, end: &str) -> String {
    format!("{begin}{}{end}", "0".repeat(64 - begin.len() - end.len()))
}

/// Attaches a pod sandbox like containerd for kubelet: first the loopback interface, then the
/// network.
fn add_pod(fixture: &Fixture, id: &str, pod: &str, netns: &str) {
    let (namespace, name) = pod.split_once('/').unwrap();
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
    for (network, ifname) in [("cni-loopback", "lo"), ("mynet", "eth0")] {
        let options = ["--container-id", id, "--ifname", ifname, "--args", &args];
        fixture.call(&[&["add", network, netns], &options[..]].concat()).succeeded();
    }
}

/// Attaches a running and an ended sandbox of pod `default/web`, and one of `kube-system/dns`.
fn pods() -> (Fixture, [String; 3]) {
    let fixture = Fixture::new();
    let loopback = json!({ "cniVersion": "1.0.0", "name": "cni-loopback", "type": "first" });
    fixture.network("20-lo.conf", &loopback);
    let ids = [long("aaaaaaaaaaaa", "1"), long("aaaaaaaaaaaa", "2"), long("bbbbbbbbbbbb", "")];
    add_pod(&fixture, &ids[0], "default/web", fixture.path("netns").to_str().unwrap());
    add_pod(&fixture, &ids[1], "default/web", "/proc/self/ns/net");
    add_pod(&fixture, &ids[2], "kube-system/dns", "/proc/self/ns/net");
    // Runtimes define this network without a file.
    std::fs::remove_file(fixture.path("net.d/20-lo.conf")).unwrap();
    (fixture, ids)
}

fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn pods_are_listed_with_short_ids() {
    let (fixture, ids) = pods();
    let text = fixture.call(&["ls"]).succeeded().stdout;
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
    let all = fixture.call(&["ls", "--all"]).succeeded().stdout;
    assert_eq!(all.matches("cni-loopback").count(), 3, "{all}");
    assert_eq!(all.lines().count(), 7);
    for options in [&["--no-trunc"][..], &["-o", "wide"]] {
        let text = fixture.call(&[&["ls"], options].concat()).succeeded().stdout;
        assert!(ids.iter().all(|id| text.contains(id)), "{text}");
    }
    let listed = fixture.call(&["ls", "-o", "json", "kube-system/dns"]).succeeded().json();
    assert_eq!(listed["attachments"].as_array().unwrap().len(), 1);
    assert_eq!(listed["attachments"][0]["containerID"], json!(ids[2]));
    let pod = json!({ "namespace": "kube-system", "name": "dns" });
    assert_eq!(listed["attachments"][0]["pod"], pod);
}

#[test]
fn gc_accepts_listed_names() {
    let (fixture, ids) = pods();
    let names = fixture.call(&["ls", "-o", "name"]).succeeded().stdout;
    assert_eq!(names, ids.map(|id| format!("{id}/eth0\n")).concat());
    let names: Vec<_> = names.lines().collect();
    let before = fixture.order().len();
    fixture.call(&[&["gc", "mynet", "--valid"], &names[..]].concat()).succeeded();
    assert_eq!(fixture.order().len(), before, "{:?}", fixture.order());
}

#[test]
fn wide_table_has_mac_and_host_interfaces() {
    let fixture = Fixture::new();
    fixture.plugin(
        "second",
        r#"[ "$CNI_COMMAND" = ADD ] && echo '{ "cniVersion": "1.0.0", "interfaces": [
            { "name": "veth1", "mac": "00:00:00:00:00:01" }, { "name": "br0" },
            { "name": "eth0", "mac": "00:00:00:00:00:02", "sandbox": "/x" }
        ], "ips": [{ "address": "10.0.0.3/24" }] }'; :"#,
    );
    fixture.rscni("add", "mynet", &["--container-id", "a"]).succeeded();
    let text = fixture.call(&["ls", "-o", "wide"]).succeeded().stdout;
    let (header, row) = text.trim_end().split_once('\n').unwrap();
    assert_eq!(
        header.split_whitespace().collect::<Vec<_>>().join(" "),
        "NETWORK CONTAINER POD INTERFACE MAC ADDRESSES HOST AGE NAMESPACE"
    );
    let row = row.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(row.starts_with("mynet a - eth0 00:00:00:00:00:02 10.0.0.3/24 veth1 br0 "), "{row}");
}

#[test]
fn containers_are_selected_by_pod_or_twelve_digits() {
    let (fixture, ids) = pods();
    let listed = |container: &str| words(&fixture.call(&["ls", container]).stdout).len();
    assert_eq!(listed("default/web"), 2);
    assert_eq!(listed("aaaaaaaaaaaa"), 2);
    assert_eq!(listed("bbbbbbbbbbbb"), 1);
    assert_eq!(listed(&ids[0]), 1);
    assert_eq!(listed("bbbbbbbbbbb"), 0);
    assert_eq!(listed("default/other"), 0);

    // CHECK gets the namespace and arguments of ADD.
    fixture.call(&["check", "mynet", "--container-id", "kube-system/dns"]).succeeded();
    let told = fixture.vars("CHECK-first");
    assert!(told.starts_with(&format!("{} /proc/self/ns/net eth0 ", ids[2])), "{told}");
    assert!(told.ends_with("K8S_POD_NAME=dns"), "{told}");
    fixture.call(&["check", "mynet", "--container-id", "bbbbbbbbbbbb"]).succeeded();

    let ambiguous = |container: &str| -> CommandOutput {
        let calls = fixture.order().len();
        let out = fixture.call(&["del", "mynet", "--container-id", container]);
        assert_eq!((out.status, fixture.order().len()), (1, calls), "{out:?}");
        out
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
    assert!(said.contains("no namespace of container cccccccccccc"), "{said}");

    fixture.call(&["del", "mynet", "--container-id", &ids[0]]).succeeded();
    fixture.call(&["del", "mynet", "--container-id", "default/web"]).succeeded();
    assert!(fixture.vars("DEL-first").starts_with(&ids[1]));
    assert_eq!(listed("default/web"), 0);
    assert_eq!(listed("kube-system/dns"), 1);
}

#[test]
fn short_ids_match_exactly() {
    let fixture = Fixture::new();
    for id in ["web", "web2", "0123456789ab", "0123456789abc"] {
        fixture.rscni("add", "mynet", &["--container-id", id]).succeeded();
    }
    for id in ["web", "0123456789ab"] {
        for _ in 0..2 {
            fixture.rscni("del", "mynet", &["--container-id", id]).succeeded();
        }
    }
    let left = fixture.call(&["ls", "-o", "name"]).succeeded().stdout;
    assert_eq!(left, "0123456789abc/eth0\nweb2/eth0\n");
}

#[test]
fn gc_keeps_every_matching_container() {
    let (fixture, ids) = pods();
    let left = || fixture.call(&["ls", "-o", "name", "--network", "mynet"]).succeeded().stdout;
    let unknown = ["default/web/eth0", "default/other/eth0"];
    let out = fixture.call(&[&["gc", "mynet", "--valid"], &unknown[..]].concat());
    assert!(out.status == 1 && out.stderr.contains("nothing was removed"), "{out:?}");
    assert_eq!(left().lines().count(), 3);
    fixture.call(&["gc", "mynet", "--valid", "default/web/eth0"]).succeeded();
    assert_eq!(left(), format!("{}/eth0\n{}/eth0\n", ids[0], ids[1]));
    fixture.call(&["gc", "mynet", "--valid", "aaaaaaaaaaaa/eth0"]).succeeded();
    assert_eq!(left().lines().count(), 2);
    fixture.call(&["gc", "mynet", "--valid", &format!("{}/eth0", ids[1])]).succeeded();
    assert_eq!(left(), format!("{}/eth0\n", ids[1]));
}

#[test]
fn control_characters_in_cni_args_are_not_printed() {
    let fixture = Fixture::new();
    let hostile = "K8S_POD_NAMESPACE=\u{1b}[2J;K8S_POD_NAME=web\nroot";
    let options = ["--container-id", "a", "--args", hostile];
    fixture.rscni("add", "mynet", &options).succeeded();
    for format in ["text", "wide", "name"] {
        let out = fixture.call(&["ls", "-o", format]).succeeded();
        assert_eq!(out.stdout.lines().count(), if format == "name" { 1 } else { 2 }, "{out:?}");
        assert!(!out.stdout.contains('\u{1b}') && !out.stdout.contains("root"), "{out:?}");
    }
    let listed = fixture.call(&["ls", "-o", "json"]).succeeded().json();
    assert_eq!(listed["attachments"][0]["pod"], json!(null));
}
