//! A long-lived container runtime that attaches and detaches containers on request.
//!
//! ```text
//! runtime LIST CACHE_DIRECTORY [PLUGIN_DIRECTORY]
//! ```
//!
//! Without a plugin directory it calls the linked plugins in this process; with one, it starts the
//! programs in it. Each line of stdin is `add ID NETNS` or `del ID NETNS`; the answer is the time
//! in nanoseconds.

use std::{
    io::{Write, stdin, stdout},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use rscni::{
    invoke::{Exec, Process},
    runtime::{AttachmentParams, Cache, NetConfList, Runtime},
};
use rscni_plugins::Linked;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        [list, cache] => serve(list, cache, Runtime::new(Linked, Vec::<String>::new())),
        [list, cache, plugins] => serve(list, cache, Runtime::new(Process, [plugins])),
        _ => bail!("usage: runtime LIST CACHE_DIRECTORY [PLUGIN_DIRECTORY]"),
    }
}

fn serve<E: Exec>(list: &str, cache: &str, runtime: Runtime<E>) -> Result<()> {
    let list = NetConfList::from_json(list.as_bytes())?;
    let runtime = runtime.with_cache(Cache::new(cache));
    for line in stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[command, id, netns] = words.as_slice() else { bail!("unknown command: {line}") };
        let params = AttachmentParams::new(id, netns, "eth0");
        let start = Instant::now();
        match command {
            "add" => drop(runtime.add(&list, &params).with_context(|| line.clone())?),
            "del" => runtime.del(&list, &params).with_context(|| line.clone())?,
            _ => bail!("unknown command: {line}"),
        }
        writeln!(stdout(), "{}", start.elapsed().as_nanos())?;
    }
    Ok(())
}
