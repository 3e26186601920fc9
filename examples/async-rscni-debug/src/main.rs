//! A CNI plugin that writes down what it is called with, and changes nothing.
//!
//! It is `rscni-debug` with `async` before the functions, on tokio. Any other executor does as well.

use std::path::PathBuf;

use rscni::{Args, CNIResult, Error, PluginInfo, async_cni::Plugin};
use serde::Deserialize;
use serde_json::Value;
use tokio::fs;

const ABOUT: &str = "async-rscni-debug: writes down what it is called with";

/// The keys of the network configuration that are this plugin's own. The library takes care of all others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DebugConf {
    /// The directory of the output files.
    cni_output: PathBuf,
}

// A plugin serves one call and ends, so one thread is enough, and it starts faster.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // `PluginInfo::default()` stands for every version of the spec: the library converts configurations and results.
    // If the call fails, `run` has told the runtime so on stdout; the error returned here only sets the exit status.
    Plugin::new(add, del, check, PluginInfo::default(), ABOUT).run().await
}

async fn add(args: Args) -> Result<CNIResult, Error> {
    write_down("Add", &args).await?;
    // `prevResult` is what the plugins earlier in the chain have set up. A plugin that has nothing to add to it
    // passes it on. There is none if this plugin stands first.
    Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
}

// DEL and CHECK have no result: what is returned here tells success, and is not printed.

async fn del(args: Args) -> Result<CNIResult, Error> {
    write_down("Del", &args).await?;
    Ok(CNIResult::default())
}

async fn check(args: Args) -> Result<CNIResult, Error> {
    write_down("Check", &args).await?;
    Ok(CNIResult::default())
}

/// Writes one call to `<cniOutput>/<container id>-<command>`.
async fn write_down(command: &str, args: &Args) -> Result<(), Error> {
    // If `cniOutput` is missing, this is the error reply with code 7.
    let conf: DebugConf = args.conf()?.custom_as()?;
    // The library has checked that the container id is a plain name, so this path cannot lead out of the directory.
    let file = conf.cni_output.join(format!("{}-{command}", args.container_id));
    let text = describe(command, args)?;
    let failed = |error| Error::IOFailure(format!("write {}: {error}", file.display()));
    fs::create_dir_all(&conf.cni_output).await.map_err(failed)?;
    fs::write(&file, text).await.map_err(failed)
}

fn describe(command: &str, args: &Args) -> Result<String, Error> {
    let netns = args.netns.as_ref().map(|netns| netns.display().to_string()).unwrap_or_default();
    let path: Vec<_> = args.path.iter().map(|dir| dir.display().to_string()).collect();
    // Parsed and printed again, the configuration takes one line however it was sent.
    let stdin: Value = serde_json::from_slice(&args.stdin)?;
    let lines = [
        format!("CNI_COMMAND: {command}"),
        format!("CNI_CONTAINERID: {}", args.container_id),
        format!("CNI_IFNAME: {}", args.ifname),
        format!("CNI_NETNS: {netns}"),
        format!("CNI_PATH: {}", path.join(":")),
        format!("CNI_ARGS: {}", args.args.as_deref().unwrap_or_default()),
        format!("STDIN_DATA: {stdin}"),
        "-".repeat(20),
    ];
    Ok(lines.join("\n") + "\n")
}
