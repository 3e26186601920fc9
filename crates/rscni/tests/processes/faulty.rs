//! A plugin that misbehaves as its configuration says, for the tests of how the library behaves in a real process.

use rscni::{Args, CNIResult, Error, Plugin, PluginInfo};

fn main() {
    let plugin = Plugin::new(act, act, act, PluginInfo::default(), "faulty: misbehaves as it is told");
    // This ends a failed call with a panic, after the answer has been given.
    plugin.run().expect("the CNI call failed");
}

#[expect(clippy::needless_pass_by_value, reason = "it is the signature of a plugin's functions")]
fn act(args: Args) -> Result<CNIResult, Error> {
    eprintln!("faulty was called");
    let conf = args.conf()?;
    match conf.custom.get("fault").and_then(|fault| fault.as_str()) {
        Some("panic") => panic!("told to"),
        Some("error") => Err(Error::Custom(123, "told to fail".into(), "the disk is on fire".into())),
        _ => Ok(conf.prev_result.clone().unwrap_or_default()),
    }
}
