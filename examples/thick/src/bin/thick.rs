//! The plugin: a shim that asks the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    rscni::shim::Shim::new(thick::SOCKET).about(thick::ABOUT).main()
}
