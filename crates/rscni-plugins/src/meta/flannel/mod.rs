//! `flannel`: hands an attachment to another plugin, `bridge` as a rule, with the subnet that the flannel daemon has
//! leased for this host.
//!
//! The other plugin's configuration is made at ADD and kept on disk, where Go's plugin of this name keeps it too: the
//! subnet may be another one by the time of DEL.
//!
//! | module | has |
//! |---|---|
//! | `config` | the keys, and the other plugin's configuration made of them |
//! | `subnet` | the daemon's file |
//! | `saved` | the configurations on disk |

mod config;
mod saved;
pub(crate) mod subnet;

use rscni::{Args, CNIResult, Error, NetConf, invoke::Delegate};

use self::{
    config::Config,
    saved::{Content, Saved},
    subnet::Subnet,
};
use crate::{
    attach::host,
    attach::sandbox::Sandbox,
    linked::Linked,
    plugin::commands::Commands,
    plugin::failure::{AsFarAsPossible, Result, differs},
    registry::alias,
    state::undo::Undo,
};

pub(crate) use self::{config::DATA_DIR, saved::about};

/// The flannel plugin.
pub(crate) const FLANNEL: Commands = Commands { add, del, check, gc, status };

fn add(args: &Args) -> Result<CNIResult> {
    let conf = args.conf()?;
    let config = Config::new(conf)?;
    config.validate(&args.path)?;
    let delegated =
        config.delegated(conf, &args.path, Some(&Subnet::read(&config.subnet_file)?))?;
    // The other plugin would refuse it too; but then it is told to DEL, and that would be what is there already.
    Sandbox::open(args)?.refuse_taken(&args.ifname)?;
    let saved = Saved::to_write(&config.data_dir, args, &conf.name)?;
    let earlier = saved.bytes()?;
    let mut undo = Undo::default();
    // Before the step itself: it may end half way.
    undo.push(|| saved.restore(earlier));
    saved.write(&delegated, &args.ifname)?;
    let result = delegate(args, &delegated)?.add()?;
    undo.commit();
    Ok(result)
}

/// The other plugin, ready to be called.
fn delegate<'a>(args: &'a Args, delegated: &'a NetConf) -> Result<Delegate<'a>> {
    let config = serde_json::to_vec(delegated).map_err(Error::from)?;
    Ok(Delegate::new(&Linked, args, &delegated.r#type).with_config(config))
}

fn del(args: &Args) -> Result<()> {
    let conf = args.conf()?;
    let config = Config::for_removal(conf);
    let (saved, content) = Saved::find(&config.data_dir, args, &conf.name)?;
    let delegated = match &content {
        Content::Ours(delegated) => of_call(delegated, conf),
        // A second DEL, an ADD that got nowhere, or one of Go's second interfaces, which share a file. What is known
        // without it is enough for our own plugins, told to look for everything; others may want the subnet.
        Content::Missing | Content::Broken | Content::OfAnother => {
            let delegated = config.delegated(conf, &args.path, None)?;
            // ADD refuses flannel itself.
            if is_flannel(&delegated, args) || !Linked::has(&delegated.r#type, &args.path) {
                return if matches!(content, Content::Broken) { saved.remove() } else { Ok(()) };
            }
            NetConf { ip_masq: Some(true), ..of_call(&delegated, conf) }
        }
    };
    delegate(args, &delegated)?.del()?;
    match content {
        Content::Ours(_) | Content::Broken => saved.remove(),
        Content::Missing | Content::OfAnother => Ok(()),
    }
}

/// Whether the other plugin is flannel itself, under any name.
fn is_flannel(delegated: &NetConf, args: &Args) -> bool {
    alias::kind(&delegated.r#type, &args.path) == config::FLANNEL
}

/// The configuration as it was at ADD, with what belongs to the call: the version may have gone up since.
fn of_call(delegated: &NetConf, conf: &NetConf) -> NetConf {
    NetConf {
        cni_version: conf.cni_version,
        prev_result: conf.prev_result.clone(),
        valid_attachments: conf.valid_attachments.clone(),
        ..delegated.clone()
    }
}

fn check(args: &Args) -> Result<()> {
    let conf = args.conf()?;
    let config = Config::new(conf)?;
    config.validate(&args.path)?;
    host::require_prev_result(conf)?;
    let (_, Content::Ours(delegated)) = Saved::find(&config.data_dir, args, &conf.name)? else {
        let dir = &config.data_dir;
        return Err(differs(format!(
            "the file with the configuration of the ADD is missing in {dir}"
        )));
    };
    delegate(args, &of_call(&delegated, conf))?.check().map_err(Into::into)
}

/// GC of the other plugin: with today's configuration, and with those of attachments that are no longer valid, where
/// they were made with another.
fn gc(args: &Args) -> Result<()> {
    let conf = args.conf()?;
    let valid = host::valid_attachments(conf);
    // A file that does not say which interface it is about stays as long as the container has any.
    let is_valid = |saved: &Saved, ifname: Option<&str>| {
        let mut of_container =
            valid.iter().filter(|attachment| attachment.container_id == saved.container_id());
        of_container.any(|attachment| ifname.is_none_or(|ifname| ifname == attachment.ifname))
    };
    let config = Config::new(conf)?;
    let for_gc = |delegated: &NetConf| {
        let delegated = of_call(delegated, conf);
        NetConf { runtime_config: serde_json::Map::new(), ..delegated }
    };
    let mut all = AsFarAsPossible::default();
    let mut groups: Vec<(NetConf, Vec<Saved>)> = Vec::new();
    match config.delegated(conf, &args.path, Subnet::read(&config.subnet_file).ok().as_ref()) {
        // ADD refuses it.
        Ok(today) if is_flannel(&today, args) => {}
        Ok(today) => groups.push((for_gc(&today), Vec::new())),
        Err(failure) => all.step(Err(failure)),
    }
    for saved in saved::list(&config.data_dir)? {
        match saved.read(&conf.name, &args.path) {
            Ok((_, ifname)) if is_valid(&saved, ifname.as_deref()) => {}
            Ok((Content::Ours(delegated), _)) => {
                let delegated = for_gc(&delegated);
                match groups.iter_mut().find(|(other, _)| *other == delegated) {
                    Some((_, of_it)) => of_it.push(saved),
                    None => groups.push((delegated, vec![saved])),
                }
            }
            outcome => all.step(outcome.map(drop)),
        }
    }
    for (delegated, stale) in groups {
        match delegate(args, &delegated).and_then(|delegate| Ok(delegate.gc()?)) {
            Ok(()) => stale.iter().for_each(|saved| all.step(saved.remove())),
            // What is saved is what the next GC does it with.
            failed => all.step(failed),
        }
    }
    all.finish()
}

fn status(args: &Args) -> Result<()> {
    let conf = args.conf()?;
    let config = Config::new(conf)?;
    config.validate(&args.path)?;
    let subnet = Subnet::read(&config.subnet_file)
        .map_err(|failure| Error::PluginNotAvailable(Error::from(failure).details().to_owned()))?;
    let delegated = config.delegated(conf, &args.path, Some(&subnet))?;
    Ok(delegate(args, &delegated)?.status()?)
}
