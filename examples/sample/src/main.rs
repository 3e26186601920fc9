//! A template for a chained CNI plugin: copy it, rename it, and replace the marked line.
//!
//! A chained plugin follows another plugin in a network's list. The previous one has created the
//! container interface; this one reads its result from `prevResult`, does its work, and passes the
//! result on.

use rscni::{Args, CNIResult, Cni, Error, Plugin};
use serde::Deserialize;
use serde_json::{Map, Value};

const ABOUT: &str = "sample: a template for a chained plugin";

/// The plugin's own keys of the network configuration.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SampleConf {
    /// A key with a default.
    #[serde(default)]
    my_awesome_flag: bool,
    /// A required key: without it, `custom_as` fails with code 7.
    another_awesome_arg: String,
}

impl SampleConf {
    fn read(args: &Args) -> Result<Self, Error> {
        let conf: Self = args.conf()?.custom_as()?;
        if conf.another_awesome_arg.is_empty() {
            return Err(Error::InvalidNetworkConfig("anotherAwesomeArg must not be empty".into()));
        }
        Ok(conf)
    }
}

struct Sample;

impl Cni for Sample {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        let conf = SampleConf::read(&args)?;
        let result = prev_result(&args)?;

        // The addresses of the container: a result may also contain those of host interfaces.
        let addresses: Vec<_> =
            result.container_ips(&args.ifname).map(|ip| ip.address.to_string()).collect();
        if addresses.is_empty() {
            return Err(Error::InvalidNetworkConfig(
                "the previous plugins assigned no address to the container".into(),
            ));
        }
        // The runtime passes this if the configuration sets `"capabilities": { "sample": true }`.
        // The well-known capabilities, such as `mac`, are typed fields.
        let runtime: Map<String, Value> = args.runtime_config()?.custom;
        let sample = runtime.get("sample").unwrap_or(&Value::Null);

        // Replace this line by your own work. Do not print to stdout, which is reserved for the
        // result.
        eprintln!(
            "sample: {addresses:?}, flag {}, arg {:?}, runtimeConfig.sample {sample}",
            conf.my_awesome_flag, conf.another_awesome_arg
        );

        // Pass on the result, changed or unchanged.
        Ok(result.clone())
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        SampleConf::read(&args)?;
        // Undo `add`. DEL may be called twice, after a failed ADD, without `prevResult`, and after
        // the container is gone, so anything may already be absent.
        Ok(())
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        SampleConf::read(&args)?;
        // Return an error if something that `add` made is missing.
        prev_result(&args).map(drop)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        // Return an error if ADD cannot succeed, such as `Error::PluginNotAvailable` if a daemon
        // that the plugin needs is down.
        SampleConf::read(&args).map(drop)
    }

    // The default `gc` is sufficient: this plugin makes nothing that could be left behind.
}

fn prev_result(args: &Args) -> Result<&CNIResult, Error> {
    args.conf()?.prev_result.as_ref().ok_or_else(|| {
        Error::InvalidNetworkConfig("sample must be called as a chained plugin".into())
    })
}

fn main() -> Result<(), Error> {
    Plugin::default().msg(ABOUT).run(&Sample)
}
