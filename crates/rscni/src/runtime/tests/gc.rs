//! GC: what is detached, and what plugins are told.

use super::*;

#[test]
fn gc_detaches_what_is_not_valid_and_tells_the_plugins_what_is() {
    let (net, script) =
        (Net::new("1.1.0", &json!([{ "type": "a" }, { "type": "b" }])), Script::default());
    let runtime = net.runtime(&script);
    let mut elsewhere = net.list.clone();
    elsewhere.name = "elsewhere".into();
    runtime.add(&net.list, &net.params).unwrap();
    runtime.add(&net.list, &other("stale")).unwrap();
    runtime.add(&elsewhere, &other("stale")).unwrap();
    script.calls.take();
    runtime.gc(&net.list, &[valid(&net.params)]).unwrap();
    let calls = script.calls.borrow().clone();
    assert_eq!(
        script.calls(),
        ["DEL b 10.0.0.3/24", "DEL a 10.0.0.3/24", "GC a none", "GC b none"]
    );
    assert_eq!(
        (&calls[0].vars["CNI_CONTAINERID"], &calls[0].vars["CNI_NETNS"]),
        (&"stale".into(), &"/run/netns/stale".into())
    );
    let config: Value = serde_json::from_slice(&calls[3].stdin).unwrap();
    let told = json!([{ "containerID": "box", "ifname": "eth0" }]);
    assert_eq!(
        (&config["cni.dev/valid-attachments"], &config["cni.dev/attachments"]),
        (&told, &told)
    );
    assert_eq!(calls[3].vars.keys().collect::<Vec<_>>(), ["CNI_COMMAND", "CNI_PATH"]);
    assert!(net.is_cached());
    let left = net.cache.list().unwrap().entries;
    assert_eq!(
        left.iter().map(|entry| entry.network.as_str()).collect::<Vec<_>>(),
        ["elsewhere", "net"]
    );
}

#[test]
fn gc_can_work_out_what_is_valid_while_nothing_else_runs() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    let runtime = net.runtime(&script);
    runtime.add(&net.list, &net.params).unwrap();
    runtime.add(&net.list, &other("stale")).unwrap();
    script.calls.take();
    let refused = runtime
        .gc_by(&net.list, |_| Err(Error::FailedToDecode("who is there?".into())))
        .unwrap_err();
    assert_eq!(refused.iter().map(Error::details).collect::<Vec<_>>(), ["who is there?"]);
    assert_eq!(script.calls(), [] as [&str; 0], "nothing is removed where the set is not known");
    let keep_box = |listing: &CacheListing| {
        let all = listing.entries.iter().map(CacheEntry::attachment);
        Ok(all.filter(|attachment| attachment.container_id == "box").collect())
    };
    runtime.gc_by(&net.list, keep_box).unwrap();
    assert_eq!(script.calls(), ["DEL a 10.0.0.1/24", "GC a none"]);
    assert!(net.is_cached());
}

#[test]
fn what_a_killed_add_had_begun_to_write_goes_with_del_and_with_gc_but_not_under_its_writers_hands()
{
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    let runtime = net.runtime(&script);
    let draft = net.dir.path().join("results/.net-box-eth0");
    std::fs::create_dir(net.dir.path().join("results")).unwrap();
    std::fs::write(&draft, "half").unwrap();
    runtime.del(&net.list, &net.params).unwrap();
    assert!(!draft.exists());

    std::fs::write(&draft, "half").unwrap();
    let lock = net.cache.attachment_lock("net", &net.params).unwrap();
    let held = crate::runtime::lock::Lock::try_take(&lock, crate::runtime::lock::Mode::Alone)
        .unwrap()
        .unwrap();
    runtime.gc(&net.list, &[]).unwrap();
    assert!(draft.exists());
    drop(held);
    runtime.gc(&net.list, &[]).unwrap();
    assert!(!draft.exists());

    std::fs::write(&draft, "half").unwrap();
    runtime.add(&net.list, &net.params).unwrap();
    assert!(net.is_cached() && !draft.exists());
}

#[test]
fn gc_goes_on_past_failures_and_tells_all() {
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
    let texts: Vec<_> = failures.iter().map(Error::details).collect();
    assert_eq!(
        texts,
        [
            "box: network net: DEL of b (plugin 2 of 2): b cannot",
            "other: network net: DEL of b (plugin 2 of 2): b cannot",
            "network net: GC of a (plugin 1 of 2): a cannot",
        ]
    );
}

#[test]
fn gc_of_a_version_without_it_only_detaches() {
    let (net, script) = (Net::of_three(), Script::default());
    net.add();
    net.runtime(&script).gc(&net.list, &[]).unwrap();
    assert_eq!(script.calls(), ["DEL c 10.0.0.2/24", "DEL b 10.0.0.2/24", "DEL a 10.0.0.2/24"]);
    assert!(!net.is_cached());
}

#[test]
fn gc_does_nothing_where_the_network_disables_it() {
    let (mut net, script) = (Net::of_three(), Script::default());
    net.add();
    net.list.disable_gc = true;
    net.runtime(&script).gc(&net.list, &[]).unwrap();
    assert!(script.calls().is_empty() && net.is_cached());
}

#[test]
fn gc_detaches_through_the_plugins_of_the_add() {
    let (mut net, script) = (Net::of_three(), Script::default());
    net.add();
    net.list = Net::new("1.1.0", &json!([{ "type": "new" }])).list;
    net.runtime(&script).gc(&net.list, &[]).unwrap();
    let calls = ["DEL c 10.0.0.2/24", "DEL b 10.0.0.2/24", "DEL a 10.0.0.2/24", "GC new none"];
    assert_eq!(script.calls(), calls);
}

#[test]
fn gc_still_reaches_the_plugins_where_the_cache_cannot_be_read() {
    let (net, script) = (Net::new("1.1.0", &json!([{ "type": "a" }])), Script::default());
    std::fs::write(net.dir.path().join("results"), "a file, not a directory").unwrap();
    let failures = net.runtime(&script).gc(&net.list, &[]).unwrap_err();
    assert_eq!(failures.iter().map(Error::code).collect::<Vec<_>>(), [5]);
    assert_eq!(script.calls(), ["GC a none"]);
}
