//! A plugin in the trait style of `rscni-plugin` 0.4 and 0.5.

use rscni::compat::{
    cni::{Cni, Plugin},
    error::Error,
    types::{Args, CNIResult, ContainerId},
    version::SpecVersion,
};

struct MyCniPlugin;

fn id(args: &Args) -> Result<&ContainerId, Error> {
    args.container_id().ok_or_else(|| Error::missing_env(&["CNI_CONTAINERID"]))
}

impl Cni for MyCniPlugin {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        let conf = args.config();
        let netns = args.netns().map(|netns| netns.display().to_string());
        eprintln!("{} {:?} {netns:?} {:?}", id(&args)?, args.ifname(), args.path());
        eprintln!("{} {:?}", conf.version()?, args.args());
        conf.validate_name()?;
        conf.prev_result.clone().ok_or_else(|| Error::InvalidNetNS("no result".to_string()))
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        id(&args).map(drop)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        id(&args).map(drop)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        match args.container_id() {
            None => Err(Error::PluginNotAvailable("down".to_string())),
            Some(id) => Err(Error::InvalidEnvValue(id.to_string())),
        }
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        let valid = args.config().valid_attachments.as_deref().unwrap_or_default();
        eprintln!("{:?}", valid.iter().map(|it| it.container_id.as_str()).collect::<Vec<_>>());
        Ok(())
    }
}

fn main() {
    let my_cni = MyCniPlugin;
    let plugin = Plugin::new(
        SpecVersion::CURRENT,
        vec![SpecVersion::new(0, 4, 0), SpecVersion::new(1, 0, 0), SpecVersion::new(1, 1, 0)],
    )
    .msg("My CNI Plugin v0.1.0");

    plugin.run(&my_cni).expect("Failed to execute CNI command");
}
