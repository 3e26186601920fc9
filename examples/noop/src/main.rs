//! A CNI plugin that does nothing, in all versions of the spec: a minimal plugin, and a placeholder
//! in tests of runtimes and chains.

use rscni::{Args, CNIResult, Cni, Error, Plugin};

struct Noop;

impl Cni for Noop {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        // Passes on the result of the previous plugins; that of the first plugin is empty.
        Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
    }

    fn del(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }

    // CHECK, GC and STATUS succeed by default.
}

fn main() -> Result<(), Error> {
    Plugin::default().msg("noop: does nothing").run(&Noop)
}
