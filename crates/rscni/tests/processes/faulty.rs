//! A plugin with faults that its configuration selects, to test the library in a real process.

use std::process::{Command, Stdio};

#[cfg(not(feature = "async"))]
use rscni::Plugin;
#[cfg(feature = "async")]
use rscni::async_cni::{Cni, Plugin};
use rscni::{Args, CNIResult, Error};

#[cfg(not(feature = "async"))]
fn main() {
    let about = "faulty: a plugin with faults";
    let plugin = Plugin::new(act, act, act, rscni::PluginInfo::default(), about);
    // A failed call panics here, after the reply is written.
    plugin.run().expect("the CNI call failed");
}

#[cfg(feature = "async")]
fn main() {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    struct Faulty;

    impl Cni for Faulty {
        async fn add(&self, args: Args) -> Result<CNIResult, Error> {
            act(args)
        }

        async fn del(&self, args: Args) -> Result<(), Error> {
            act(args).map(drop)
        }

        async fn check(&self, args: Args) -> Result<(), Error> {
            act(args).map(drop)
        }
    }

    let plugin = Plugin::default();
    let mut run = pin!(plugin.run(&Faulty));
    // It never waits.
    match run.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome.expect("the CNI call failed"),
        Poll::Pending => unreachable!("the plugin waits for something"),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the signature of a plugin's functions")]
fn act(args: Args) -> Result<CNIResult, Error> {
    eprintln!("faulty was called");
    let conf = args.conf()?;
    match conf.custom.get("fault").and_then(|fault| fault.as_str()) {
        Some("panic") => panic!("told to"),
        Some("print") => print(),
        Some("print and panic") => {
            print();
            panic!("told to");
        }
        Some("leave a child") => {
            let child = Command::new("sleep").arg("3600").stdin(Stdio::null()).spawn()?;
            let mut result = CNIResult::default();
            result.extra.insert("child", child.id());
            return Ok(result);
        }
        Some("return the trace") => {
            let mut result = CNIResult::default();
            result.extra.insert("trace", format!("{:?}", args.trace.map(|trace| trace.parent)));
            return Ok(result);
        }
        Some("error") => {
            return Err(Error::Custom(123, "told to fail".into(), "the disk is on fire".into()));
        }
        _ => {}
    }
    Ok(conf.prev_result.clone().unwrap_or_default())
}

/// Writes to stdout in several ways.
fn print() {
    println!("printed");
    // An absolute path, since the call has no PATH.
    let status = Command::new("/bin/echo").arg("from a child").status();
    assert!(status.is_ok_and(|status| status.success()));
    // Stays in the buffer until the process exits.
    print!("without an end of line");
}
