//! A CNI plugin that logs its calls to stderr and changes nothing.
//!
//! Stdout is reserved for the result or the error, and the library writes both. Container runtimes
//! copy stderr to their logs.

use rscni::{Args, CNIResult, Cni, Error, Plugin};
use serde_json::Value;

struct Logger;

// The trait `Cni` has a method per command. `add` and `del` are required; the others do nothing by
// default.
impl Cni for Logger {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        log(&args)?;
        // Passes on the result of the previous plugins; that of the first plugin is empty.
        Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        log(&args)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        log(&args)
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        log(&args)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        log(&args)
    }
}

fn log(args: &Args) -> Result<(), Error> {
    // `args` contains the parsed variables; this logs them as the runtime has set them.
    let mut variables: Vec<_> = std::env::vars_os().collect();
    variables.sort();
    for (name, value) in variables {
        let name = name.to_string_lossy();
        if name.starts_with("CNI_") {
            eprintln!("{name}={}", value.to_string_lossy());
        }
    }
    let config: Value = serde_json::from_slice(&args.stdin)?;
    eprintln!("{config:#}");
    Ok(())
}

fn main() -> Result<(), Error> {
    Plugin::default().msg("logger: logs its calls").run(&Logger)
}
