//! The plugin without a daemon, which does the work in its own process.

use std::process::ExitCode;

use rscni::Plugin;
use rscni_linux::Background;
use thick::{ABOUT, Cable};

fn main() -> ExitCode {
    Plugin::default().msg(ABOUT).main(&Cable(Background::Process))
}
