//! A CNI plugin that writes each call to a file and changes nothing.
//!
//! It consists of three functions, one per command that concerns a container.

use std::{fs, path::PathBuf};

use rscni::{Args, CNIResult, Error, Plugin, PluginInfo};
use serde::Deserialize;
use serde_json::Value;

const ABOUT: &str = "rscni-debug: writes its calls to files";

/// The plugin's own keys of the network configuration. The library reads all others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DebugConf {
    /// The directory of the output files.
    cni_output: PathBuf,
}

fn main() -> Result<(), Error> {
    // `PluginInfo::default()` supports all versions of the spec: the library converts
    // configurations and results. If the call fails, `run` has already written the error reply to
    // stdout; the returned error only sets the exit status.
    Plugin::new(add, del, check, PluginInfo::default(), ABOUT).run()
}

fn add(args: Args) -> Result<CNIResult, Error> {
    write_call("Add", &args)?;
    // `prevResult` is the result of the previous plugins in the chain. A plugin that changes
    // nothing passes it on. The first plugin of a chain has none.
    Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
}

// DEL and CHECK have no result: the library does not print what they return.

fn del(args: Args) -> Result<CNIResult, Error> {
    write_call("Del", &args)?;
    Ok(CNIResult::default())
}

fn check(args: Args) -> Result<CNIResult, Error> {
    write_call("Check", &args)?;
    Ok(CNIResult::default())
}

/// Writes a call to `<cniOutput>/<container id>-<command>`.
fn write_call(command: &str, args: &Args) -> Result<(), Error> {
    // Fails with code 7 if `cniOutput` is missing.
    let conf: DebugConf = args.conf()?.custom_as()?;
    // The path cannot leave the directory: the library has validated the container id.
    let file = conf.cni_output.join(format!("{}-{command}", args.container_id));
    let text = describe(command, args)?;
    fs::create_dir_all(&conf.cni_output)
        .and_then(|()| fs::write(&file, text))
        .map_err(|error| Error::IOFailure(format!("cannot write {}: {error}", file.display())))
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
