//! A CNI plugin that does nothing, and does it in every version of the spec.
//!
//! It is the least that a plugin can be, and a place holder for tests of runtimes and chains.

use rscni::{Args, CNIResult, Cni, Error, Plugin};

struct Noop;

impl Cni for Noop {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        // In a chain, the result so far is passed on. If this plugin stands first, the result is empty.
        Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
    }

    fn del(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }

    // CHECK, GC and STATUS succeed unless a plugin says otherwise.
}

fn main() -> Result<(), Error> {
    Plugin::default().msg("noop: does nothing").run(&Noop)
}
