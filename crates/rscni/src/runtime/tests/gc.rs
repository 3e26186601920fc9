//! GC: which attachments are removed, and what the plugins get.

use super::*;

#[test]
fn gc_removes_stale_attachments_and_passes_the_valid_ones_to_the_plugins() {
    let (net, script) =
        (Net::new("1.1.0", &json!([{ "type": "a" }, { "type": "b" }])), Script::default());
    let runtime = net.runtime(&script);
    let mut elsewhere = net.list.clone();
    elsewhere.name = "elsewhere".into();
    runtime.add(&net.list, &net.params).unwrap();
    runtime.add(&net.list, &other("stale")).unwrap();
    runtime.add(&elsewhere, &other("stale")).unwrap();
    script.calls();
    runtime.gc(&net.list, &[valid(&net.params)]).unwrap();
    let calls = script.calls.lock().unwrap().clone();
    assert_eq!(
        script.calls(),
        ["DEL b 10.0.0.3/24", "DEL a 10.0.0.3/24", "GC a none", "GC b none"]
    );
    assert_eq!(
        (&calls[0].vars["CNI_CONTAINERID"], &calls[0].vars["CNI_NETNS"]),
        (&"stale".into(), &"/run/netns/stale".into())
    );
    let config: Value = serde_json::from_slice(&calls[3].stdin).unwrap();
    let valid = json!([{ "containerID": "box", "ifname": "eth0" }]);
    assert_eq!(config["cni.dev/valid-attachments"], valid);
    assert_eq!(config["cni.dev/attachments"], valid);
    assert_eq!(calls[3].vars.keys().collect::<Vec<_>>(), ["CNI_COMMAND", "CNI_PATH"]);
    assert!(net.is_cached());
    let left = net.cache.list().unwrap().entries;
    assert_eq!(
        left.iter().map(|entry| entry.network.as_str()).collect::<Vec<_>>(),
        ["elsewhere", "net"]
    );
}

#[test]
fn gc_by_selects_valid_attachments_and_does_nothing_if_that_fails() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    let runtime = net.runtime(&script);
    runtime.add(&net.list, &net.params).unwrap();
    runtime.add(&net.list, &other("stale")).unwrap();
    script.calls();
    let unknown = |_: &CacheListing| Err(Error::FailedToDecode("no list of containers".into()));
    let failures = runtime.gc_by(&net.list, unknown).unwrap_err();
    assert_eq!(failures.iter().map(Error::details).collect::<Vec<_>>(), ["no list of containers"]);
    assert!(script.calls().is_empty());
    let keep_box = |listing: &CacheListing| {
        let all = listing.entries.iter().map(CacheEntry::attachment);
        Ok(all.filter(|attachment| attachment.container_id == "box").collect())
    };
    runtime.gc_by(&net.list, keep_box).unwrap();
    assert_eq!(script.calls(), ["DEL a 10.0.0.1/24", "GC a none"]);
    assert!(net.is_cached());
}

#[test]
fn del_and_gc_remove_the_draft_of_a_killed_add_but_not_of_a_running_one() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    let runtime = net.runtime(&script);
    let draft = net.dir.path().join("results/.net-box-eth0");
    std::fs::create_dir(net.dir.path().join("results")).unwrap();
    std::fs::write(&draft, "half").unwrap();
    runtime.del(&net.list, &net.params).unwrap();
    assert!(!draft.exists());

    std::fs::write(&draft, "half").unwrap();
    let lock = net.cache.attachment_lock("net", &net.params).unwrap();
    let lock = Lock::try_take(&lock, Mode::Exclusive).unwrap().unwrap();
    runtime.gc(&net.list, &[]).unwrap();
    assert!(draft.exists());
    drop(lock);
    runtime.gc(&net.list, &[]).unwrap();
    assert!(!draft.exists());

    std::fs::write(&draft, "half").unwrap();
    runtime.add(&net.list, &net.params).unwrap();
    assert!(net.is_cached() && !draft.exists());
}

#[test]
fn gc_continues_past_failures_and_reports_all() {
    let plugins = json!([{ "type": "a" }, { "type": "b" }]);
    let (net, script) =
        (Net::new("1.1.0", &plugins), Script::failing(&[("DEL", "b"), ("GC", "a")]));
    net.add();
    net.runtime(&Script::default()).add(&net.list, &other("other")).unwrap();
    let failures = net.runtime(&script).gc(&net.list, &[]).unwrap_err();
    assert_eq!(
        script.calls(),
        [
            "DEL b 10.0.0.1/24",
            "DEL a 10.0.0.1/24",
            "DEL b 10.0.0.1/24",
            "DEL a 10.0.0.1/24",
            "GC a none",
            "GC b none"
        ]
    );
    let expected = [
        "box: network net: DEL of b (plugin 2 of 2): b cannot",
        "other: network net: DEL of b (plugin 2 of 2): b cannot",
        "network net: GC of a (plugin 1 of 2): a cannot",
    ];
    assert_eq!(failures.iter().map(Error::details).collect::<Vec<_>>(), expected);
}

#[test]
fn gc_in_a_version_without_gc_only_removes_stale_attachments() {
    let (net, script) = (Net::of_three(), Script::default());
    net.add();
    net.runtime(&script).gc(&net.list, &[]).unwrap();
    assert_eq!(script.calls(), ["DEL c 10.0.0.2/24", "DEL b 10.0.0.2/24", "DEL a 10.0.0.2/24"]);
    assert!(!net.is_cached());
}

#[test]
fn gc_does_nothing_with_disable_gc() {
    let (mut net, script) = (Net::of_three(), Script::default());
    net.add();
    net.list.disable_gc = true;
    net.runtime(&script).gc(&net.list, &[]).unwrap();
    assert!(script.calls().is_empty() && net.is_cached());
}

#[test]
fn gc_removes_stale_attachments_with_the_plugins_of_their_add() {
    let (mut net, script) = (Net::of_three(), Script::default());
    net.add();
    net.list = Net::new("1.1.0", &json!([{ "type": "new" }])).list;
    net.runtime(&script).gc(&net.list, &[]).unwrap();
    let calls = ["DEL c 10.0.0.2/24", "DEL b 10.0.0.2/24", "DEL a 10.0.0.2/24", "GC new none"];
    assert_eq!(script.calls(), calls);
}

#[test]
fn gc_calls_the_plugins_if_the_cache_cannot_be_read() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    std::fs::write(net.dir.path().join("results"), "a file, not a directory").unwrap();
    let failures = net.runtime(&script).gc(&net.list, &[]).unwrap_err();
    assert_eq!(failures.iter().map(Error::code).collect::<Vec<_>>(), [5]);
    assert_eq!(script.calls(), ["GC a none"]);
}

#[test]
fn del_if_asks_with_the_cached_entry_and_calls_only_the_plugins_of_that_attachment() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    let runtime = net.runtime(&script);
    runtime.add(&net.list, &net.params).unwrap();
    runtime.add(&net.list, &other("other")).unwrap();
    script.calls();
    let is_box = |entry: Option<&CacheEntry>| entry.unwrap().params.container_id == "box";
    assert_eq!(runtime.del_if(&net.list, &net.params, |entry| !is_box(entry)), Ok(false));
    assert!(script.calls().is_empty() && net.is_cached());
    assert_eq!(runtime.del_if(&net.list, &net.params, is_box), Ok(true));
    assert_eq!(script.calls(), ["DEL a 10.0.0.0/24"]);
    assert!(!net.is_cached() && net.cache.list().unwrap().entries.len() == 1);
    assert_eq!(runtime.del_if(&net.list, &net.params, |entry| entry.is_none()), Ok(true));
}

#[test]
fn del_if_calls_no_plugin_while_another_operation_is_in_progress_or_the_entry_is_damaged() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    let runtime = net.runtime(&script);
    runtime.add(&net.list, &net.params).unwrap();
    script.calls();
    let locks = [
        net.cache.attachment_lock("net", &net.params).unwrap(),
        net.cache.network_lock("net").unwrap(),
        net.cache.gate("net").unwrap(),
    ];
    for lock in locks {
        let held = Lock::try_take(&lock, Mode::Exclusive).unwrap().unwrap();
        assert_eq!(runtime.del_if(&net.list, &net.params, |_| true), Ok(false), "{lock:?}");
        drop(held);
    }
    std::fs::write(net.cache.file("net", &net.params).unwrap(), "half").unwrap();
    assert!(runtime.del_if(&net.list, &net.params, |_| true).is_err());
    assert!(script.calls().is_empty());
}
