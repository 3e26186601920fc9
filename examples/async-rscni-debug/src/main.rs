//! A CNI plugin that writes each call to a file and changes nothing.
//!
//! It is `rscni-debug` with async functions on tokio. Any other executor works too.

use std::path::PathBuf;

use rscni::{Args, CNIResult, Error, PluginInfo, async_cni::Plugin};
use serde::Deserialize;
use serde_json::Value;
use tokio::fs;

const ABOUT: &str = "async-rscni-debug: writes its calls to files";

/// The plugin's own keys of the network configuration. The library reads all others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DebugConf {
    /// The directory of the output files.
    cni_output: PathBuf,
}

// A plugin serves one call, so one thread is enough and starts faster.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    Plugin::new(add, del, check, PluginInfo::default(), ABOUT).run().await
}

async fn add(args: Args) -> Result<CNIResult, Error> {
    write_call("Add", &args).await?;
    Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
}

async fn del(args: Args) -> Result<CNIResult, Error> {
    write_call("Del", &args).await?;
    Ok(CNIResult::default())
}

async fn check(args: Args) -> Result<CNIResult, Error> {
    write_call("Check", &args).await?;
    Ok(CNIResult::default())
}

/// Writes a call to `<cniOutput>/<container id>-<command>`.
async fn write_call(command: &str, args: &Args) -> Result<(), Error> {
    let conf: DebugConf = args.conf()?.custom_as()?;
    let file = conf.cni_output.join(format!("{}-{command}", args.container_id));
    let text = describe(command, args)?;
    let failed = |error| Error::IOFailure(format!("cannot write {}: {error}", file.display()));
    fs::create_dir_all(&conf.cni_output).await.map_err(failed)?;
    fs::write(&file, text).await.map_err(failed)
}

/// Describes a call.
fn describe(command: &str, args: &Args) -> Result<String, Error> {
    let netns = args.netns.as_ref().map(|netns| netns.display().to_string()).unwrap_or_default();
    let path: Vec<_> = args.path.iter().map(|dir| dir.display().to_string()).collect();
    // Parsing and printing puts the configuration on one line.
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
