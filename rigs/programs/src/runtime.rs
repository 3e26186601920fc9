//! A container runtime as far as networks go: it lives long, and attaches and detaches containers as it is told to.
//!
//! ```text
//! runtime LIST CACHE_DIRECTORY [PLUGIN_DIRECTORY]
//! ```
//!
//! Without a directory of plugins, those that are linked in are called in this process; with one, the programs in
//! there are started. Each line of stdin is `add ID NETNS` or `del ID NETNS`; each is answered with the nanoseconds that
//! it took.

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
        _ => bail!("give a list, a directory for the cache, and one of plugins"),
    }
}

fn serve<E: Exec>(list: &str, cache: &str, runtime: Runtime<E>) -> Result<()> {
    let list = NetConfList::from_json(list.as_bytes())?;
    let runtime = runtime.with_cache(Cache::new(cache));
    for line in stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[command, id, netns] = words.as_slice() else { bail!("unknown words: {line}") };
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
