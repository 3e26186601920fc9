//! The daemon with a thread for each call.

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::SignalFd,
};
use rscni::shim;
use rscni_linux::Background;
use thick::{Cable, SOCKET};

fn main() -> std::io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let listener = shim::listen(SOCKET)?;
    // Running calls are finished.
    shim::serve_blocking(listener, Cable(Background::Thread)).run_until(SignalFd::new(&signals)?)
}
