//! Spans and events of calls, operations and plugins, as a subscriber of `tracing` receives them.

use std::{
    collections::HashMap,
    fmt::Debug,
    io,
    path::PathBuf,
    sync::{LazyLock, Mutex, MutexGuard},
    thread::{self, ThreadId},
};

use rscni::{
    Args, CNIResult, Cni, Error, NetConf, Plugin, Request,
    invoke::{AsyncExec, Delegate, Exec, Invocation, OnThread, Outcome},
    runtime::{AsyncRuntime, AttachmentParams, Cache, NetConfList, Runtime},
};
use serde_json::json;
use tempfile::TempDir;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_core::span::Current;

/// The spans and events that the subscriber of all tests has received.
#[derive(Default)]
struct Recorded {
    /// The spans, each with its name, its fields and those of its parents.
    spans: Vec<(&'static Metadata<'static>, String)>,
    /// The spans that a thread is in, as indices.
    entered: HashMap<ThreadId, Vec<usize>>,
    /// The events, each with its span.
    events: Vec<String>,
}

impl Recorded {
    fn get() -> MutexGuard<'static, Self> {
        static RECORDED: LazyLock<Mutex<Recorded>> = LazyLock::new(Mutex::default);
        RECORDED.lock().unwrap()
    }

    /// The innermost span that this thread is in.
    fn current(&self) -> Option<usize> {
        self.entered.get(&thread::current().id())?.last().copied()
    }
}

struct Recorder;

impl Recorder {
    /// Installs the subscriber for this process, once.
    fn install() {
        static INSTALLED: LazyLock<()> = LazyLock::new(|| {
            tracing::subscriber::set_global_default(Recorder).expect("the first subscriber");
        });
        LazyLock::force(&INSTALLED);
    }

    /// Returns the events in spans whose fields contain `part`.
    fn events(part: &str) -> Vec<String> {
        let recorded = Recorded::get();
        recorded.events.iter().filter(|event| event.contains(part)).cloned().collect()
    }
}

fn index(id: &Id) -> usize {
    usize::try_from(id.into_u64()).unwrap() - 1
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "rscni"
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let mut recorded = Recorded::get();
        let parent = recorded.current().map(|parent| format!("{} > ", recorded.spans[parent].1));
        let name = attributes.metadata().name();
        let path = format!("{}{name}({})", parent.unwrap_or_default(), fields.0.join(" "));
        recorded.spans.push((attributes.metadata(), path));
        Id::from_u64(recorded.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // The duration is in every event and differs between runs.
        let before = fields.0.len();
        fields.0.retain(|field| !field.starts_with("duration_ms="));
        assert_eq!(fields.0.len(), before - 1);
        let mut recorded = Recorded::get();
        let span = recorded.current().map(|span| recorded.spans[span].1.clone());
        let span = span.expect("an event is in a span");
        let level = event.metadata().level();
        recorded.events.push(format!("{span}: {level} {}", fields.0.join(" ")));
    }

    fn enter(&self, id: &Id) {
        Recorded::get().entered.entry(thread::current().id()).or_default().push(index(id));
    }

    fn exit(&self, id: &Id) {
        let left = Recorded::get().entered.entry(thread::current().id()).or_default().pop();
        assert_eq!(left, Some(index(id)));
    }

    fn current_span(&self) -> Current {
        let recorded = Recorded::get();
        recorded.current().map_or_else(Current::none, |current| {
            Current::new(Id::from_u64(current as u64 + 1), recorded.spans[current].0)
        })
    }
}

/// The fields of a span or an event, in order.
#[derive(Default)]
struct Fields(Vec<String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push(format!("{}={value:?}", field.name()));
    }
}

/// A plugin that calls the IPAM plugin of its configuration, if it has one, and fails on request.
struct Mine;

impl Cni for Mine {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        if args.conf()?.custom.contains_key("fail") {
            return Err(Error::TryAgainLater("the daemon is starting".into()));
        }
        match args.conf()?.ipam_type() {
            Some(ipam) => Delegate::new(&Linked, &args, ipam).add(),
            None => Ok(CNIResult::default()),
        }
    }

    fn del(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }
}

/// Calls [`Mine`] in this process, whatever the name of the plugin is.
#[derive(Clone, Copy)]
struct Linked;

impl Exec for Linked {
    fn find(&self, plugin: &str, _: &[PathBuf]) -> Result<PathBuf, Error> {
        Ok(plugin.into())
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        if invocation.plugin == "missing" {
            return Err(io::ErrorKind::NotFound.into());
        }
        // The configuration of an IPAM plugin is that of its caller.
        let mut request = Request::from(invocation);
        if invocation.plugin == "ipam" {
            let mut conf = NetConf::from_json(&request.stdin).unwrap();
            (conf.r#type, conf.ipam) = ("ipam".into(), None);
            request.stdin = serde_json::to_vec(&conf).unwrap();
        }
        Ok(Plugin::default().reply(&Mine, &request).into())
    }
}

/// An [`AsyncExec`] that lets other tasks run before and after the call.
struct Yielding;

impl AsyncExec for Yielding {
    fn find(&self, plugin: &str, _: &[PathBuf]) -> Result<PathBuf, Error> {
        Ok(plugin.into())
    }

    async fn exec(&self, invocation: Invocation) -> io::Result<Outcome> {
        tokio::task::yield_now().await;
        let outcome = Linked.exec(&invocation);
        tokio::task::yield_now().await;
        outcome
    }
}

fn list(name: &str, plugins: &serde_json::Value) -> NetConfList {
    let list = json!({ "cniVersion": "1.1.0", "name": name, "plugins": plugins });
    NetConfList::from_json(list.to_string().as_bytes()).unwrap()
}

fn params(container_id: &str) -> AttachmentParams {
    AttachmentParams::new(container_id, "/nowhere/netns", "eth0")
}

fn cache() -> (TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    (dir, cache)
}

#[test]
fn a_call_is_a_span_that_contains_delegation() {
    Recorder::install();
    let vars = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/nowhere/netns"),
        ("CNI_IFNAME", "eth0"),
        ("TRACEPARENT", "00-a-b-01"),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.into())).into();
    let conf = json!({
        "cniVersion": "1.1.0", "name": "delegating", "type": "mine", "ipam": { "type": "ipam" }
    });
    Plugin::default().reply(&Mine, &Request::new(vars, conf.to_string().into()));

    let attachment = r#"container_id="c1" ifname="eth0""#;
    let (command, trace) = (r#"command="ADD""#, r#"traceparent="00-a-b-01""#);
    let call =
        format!(r#"call({command} network="delegating" plugin="mine" {attachment} {trace})"#);
    let plugin = format!(r#"{call} > plugin(plugin="ipam" {command} {attachment})"#);
    let ipam = format!(
        r#"{plugin} > call({command} network="delegating" plugin="ipam" {attachment} {trace})"#
    );
    let succeeded = [ipam, plugin, call].map(|span| format!("{span}: DEBUG message=succeeded"));
    assert_eq!(Recorder::events("delegating"), succeeded);
}

#[test]
fn an_operation_contains_its_chain_its_failure_and_its_rollback() {
    Recorder::install();
    let (_dir, cache) = cache();
    let runtime = Runtime::new(Linked, [""; 0]).with_cache(cache);
    let network = list("rolled-back", &json!([{ "type": "a" }, { "type": "b", "fail": 1 }]));
    let error = runtime.add(&network, &params("c2")).unwrap_err();

    let attachment = r#"container_id="c2" ifname="eth0""#;
    let operation = format!(r#"operation(command="ADD" network="rolled-back" {attachment})"#);
    let call = |plugin: &str, command: &str| {
        let plugin = format!(r#"plugin="{plugin}""#);
        let command = format!(r#"command="{command}""#);
        let called = format!("{operation} > plugin({plugin} {command} {attachment})");
        let call = format!(r#"call({command} network="rolled-back" {plugin} {attachment})"#);
        [format!("{called} > {call}"), called]
    };
    let ok = |spans: [String; 2]| spans.map(|span| format!("{span}: DEBUG message=succeeded"));
    let failed =
        |span: &String, error: &str| format!("{span}: WARN message=failed code=11 error={error:?}");
    let reason = "try again later: the daemon is starting";
    let mut expected = Vec::from(ok(call("a", "ADD")));
    expected.extend(call("b", "ADD").iter().map(|span| failed(span, reason)));
    expected.extend(["b", "a"].map(|plugin| ok(call(plugin, "DEL"))).concat());
    expected.push(failed(&operation, &error.to_string()));
    assert_eq!(Recorder::events("rolled-back"), expected);
}

#[test]
fn a_plugin_that_cannot_be_started_is_a_failure_with_code_5() {
    Recorder::install();
    let (_dir, cache) = cache();
    let runtime = Runtime::new(Linked, [""; 0]).with_cache(cache);
    runtime.status(&list("not-started", &json!([{ "type": "missing" }]))).unwrap_err();
    let operation = r#"operation(command="STATUS" network="not-started")"#;
    let plugin = format!(r#"{operation} > plugin(plugin="missing" command="STATUS"): WARN"#);
    let [first, last] = Recorder::events("not-started").try_into().unwrap();
    let event = format!(r"{plugin} message=failed code=5 error=");
    assert!(first.starts_with(&event), "{first}");
    assert!(last.starts_with(&format!("{operation}: WARN message=failed code=5")), "{last}");
}

#[tokio::test]
async fn concurrent_operations_have_their_own_spans() {
    Recorder::install();
    let (_dir, cache) = cache();
    let runtime = AsyncRuntime::new(Yielding, [""; 0]).with_cache(cache);
    let network = list("concurrent", &json!([{ "type": "a" }, { "type": "b" }]));
    let (first, second) = (params("first"), params("second"));
    let adds = tokio::join!(runtime.add(&network, &first), runtime.add(&network, &second));
    adds.0.unwrap();
    adds.1.unwrap();
    let events = Recorder::events("concurrent");
    assert_eq!(events.len(), 10, "{events:#?}");
    for event in &events {
        // Three fields, if the event is in a call of a plugin in the operation.
        let depth = event.matches(" > ").count() + 1;
        let own = |id: &str| event.matches(&format!(r#"container_id="{id}""#)).count();
        assert_eq!(own("first").max(own("second")), depth, "{event}");
        assert_eq!(own("first").min(own("second")), 0, "{event}");
    }
    // The operations ran at the same time.
    let is_of = |id: &'static str| move |event: &String| event.contains(id);
    let begin = |id| events.iter().position(is_of(id)).unwrap();
    let end = |id| events.iter().rposition(is_of(id)).unwrap();
    assert!(begin("first") < end("second") && begin("second") < end("first"), "{events:#?}");
}

#[tokio::test]
async fn a_span_continues_on_the_thread_of_a_blocking_plugin() {
    Recorder::install();
    let (_dir, cache) = cache();
    let runtime = AsyncRuntime::new(OnThread(Linked), [""; 0]).with_cache(cache);
    runtime.add(&list("on-thread", &json!([{ "type": "a" }])), &params("c3")).await.unwrap();
    let events = Recorder::events("on-thread");
    assert_eq!(events.len(), 3, "{events:#?}");
    assert!(
        events[0].starts_with("operation(")
            && events[0].contains(" > plugin(")
            && events[0].contains(" > call("),
        "{events:#?}"
    );
}
