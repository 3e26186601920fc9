//! A CNI plugin that logs what it is called with to stderr, and changes nothing.
//!
//! Stdout belongs to the protocol: only the result or the error may stand there, and the library writes both.
//! Stderr is free, and container runtimes put it into their logs.

use rscni::{Args, CNIResult, Cni, Error, Plugin};
use serde_json::Value;

struct Logger;

// The trait `Cni` has a method for each command. `add` and `del` are required; the others do nothing unless they are
// written, as here, where every call is to be seen.
impl Cni for Logger {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        log(&args)?;
        // What the plugins earlier in the chain have set up is passed on. If this plugin stands first, the result is
        // empty.
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
    // `args` has the variables as fields, ready for use. Here they are wanted just as the runtime has set them.
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
    Plugin::default().msg("logger: logs what it is called with").run(&Logger)
}
