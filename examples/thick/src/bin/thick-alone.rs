//! The plugin without a daemon, which does the work in its own process.

use rscni::{Error, Plugin};
use thick::{ABOUT, Cable};

fn main() -> Result<(), Error> {
    Plugin::default().msg(ABOUT).run(&Cable)
}
