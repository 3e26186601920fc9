//! A plugin in the function style of `rscni` 0.0.x.

use rscni::compat::{
    error::Error,
    skel::Plugin,
    types::{Args, CNIResult},
    version::PluginInfo,
};

const ABOUT_MSG: &str = "functions: the style of 0.0.x";

fn main() {
    let version_info =
        PluginInfo::new("1.0.0", vec!["0.4.0".to_string(), "1.0.0".to_string(), "1.3.0".to_string()]);
    let mut dispatcher = Plugin::new(add, del, check, version_info, ABOUT_MSG);

    dispatcher.run().expect("Failed to complete the CNI call");
}

fn add(args: Args) -> Result<CNIResult, Error> {
    let conf = args.config.ok_or(Error::InvalidNetworkConfig("no configuration".to_string()))?;
    let flag = conf.custom.get("flag").and_then(|flag| flag.as_str());
    eprintln!("{} {} {:?} {flag:?}", args.container_id, args.ifname, args.netns);
    match conf.prev_result {
        Some(prev) => Ok(prev),
        None => Err(Error::Custom(100, "no result".to_string(), conf.name)),
    }
}

fn del(args: Args) -> Result<CNIResult, Error> {
    if args.netns.is_none() {
        return Err(Error::TryAgainLater("no namespace".to_string()));
    }
    Ok(CNIResult::default())
}

fn check(_: Args) -> Result<CNIResult, Error> {
    Err(Error::NotExist("gone".to_string()))
}
