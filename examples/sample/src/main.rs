//! A template for a chained CNI plugin: copy it, give it a name, and put your own work where it says so.
//!
//! A chained plugin stands behind another one in a network's list of plugins. The one before has made the container's
//! interface; this one finds the result in `prevResult`, does its part, and passes the result on.

use rscni::{Args, CNIResult, Cni, Error, Plugin};
use serde::Deserialize;
use serde_json::{Map, Value};

const ABOUT: &str = "sample: a template for a chained plugin";

/// The keys of the network configuration that are this plugin's own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SampleConf {
    /// A key with a default.
    #[serde(default)]
    my_awesome_flag: bool,
    /// A required key: without it, `custom_as` gives the error reply with code 7.
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

        // The result may hold addresses of the host's side, a bridge's for instance. These are the container's.
        let addresses: Vec<_> =
            result.container_ips(&args.ifname).map(|ip| ip.address.to_string()).collect();
        if addresses.is_empty() {
            return Err(Error::InvalidNetworkConfig(
                "the plugins before gave the container no address".into(),
            ));
        }
        // What the runtime passes in for this container: `"capabilities": { "sample": true }` in the configuration
        // asks for it. The capabilities that the spec's conventions know have fields of their own, such as `mac`.
        let runtime: Map<String, Value> = args.runtime_config()?.custom;
        let sample = runtime.get("sample").unwrap_or(&Value::Null);

        // Your own work goes here, instead of this line. Mind that stdout belongs to the protocol.
        eprintln!(
            "sample: {addresses:?}, flag {}, arg {:?}, runtimeConfig.sample {sample}",
            conf.my_awesome_flag, conf.another_awesome_arg
        );

        // Changed or not, the result is passed on to the next plugin.
        Ok(result.clone())
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        SampleConf::read(&args)?;
        // Undo what `add` did. It may be called twice, after an ADD that failed half way, without `prevResult`, and
        // when the container is gone: what is not there any more is no error.
        Ok(())
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        SampleConf::read(&args)?;
        // Look whether what `add` did is still in place, and return an error if it is not.
        prev_result(&args).map(drop)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        // Say whether an ADD could succeed: `Error::PluginNotAvailable` if, say, a daemon that you need is down.
        SampleConf::read(&args).map(drop)
    }

    // `gc` is left as it is: this plugin owns nothing that could be left behind.
}

fn prev_result(args: &Args) -> Result<&CNIResult, Error> {
    let chained = args.conf()?.prev_result.as_ref();
    chained.ok_or_else(|| {
        Error::InvalidNetworkConfig("sample must be called as a chained plugin".into())
    })
}

fn main() -> Result<(), Error> {
    Plugin::default().msg(ABOUT).run(&Sample)
}
