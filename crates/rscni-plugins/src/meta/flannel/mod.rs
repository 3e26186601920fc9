//! `flannel`: delegates to another plugin, usually `bridge`, with the subnet that the flannel
//! daemon has leased for this host.
//!
//! ADD saves the configuration of the delegate where the Go plugin saves it too, because the subnet
//! can change before DEL.

mod config;
mod saved_config;
pub(crate) mod subnet;

use rscni::{CNIResult, Error, NetConf, invoke::Delegate};

use self::{
    config::Config,
    saved_config::{Content, SavedConfig},
    subnet::Subnet,
};
use crate::{
    attach::Sandbox,
    plugin::{BestEffort, Call, Commands, Facts, Plugin, Result, StateFiles, differs},
    state::Undo,
};

pub(crate) const FLANNEL: Plugin = Plugin {
    name: "flannel",
    about: "delegates to another plugin with the subnet of the flannel daemon",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        owns_on_host: true,
        files: Some(StateFiles {
            key: Some("dataDir"),
            default: config::DATA_DIR,
            list: saved_config::inventory,
        }),
        routes: |_| true,
        delegates: |keys| Some(config::delegates(keys)),
        ..Facts::NONE
    },
};

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    config.validate(call)?;
    let delegated = config.delegated(call, Some(&Subnet::read(&config.subnet_file)?))?;
    // The delegate would fail too, but flannel would then call its DEL, which removes the existing
    // interface.
    Sandbox::open(call)?.refuse_taken(&call.args.ifname)?;
    let saved = SavedConfig::to_write(&config.data_dir, call)?;
    let earlier = saved.bytes()?;
    let mut undo = Undo::default();
    undo.push(|| saved.restore(earlier));
    saved.write(&delegated, &call.args.ifname)?;
    let result = delegate(call, &delegated)?.add()?;
    undo.commit();
    Ok(result)
}

fn delegate<'a>(call: &Call<'a>, delegated: &'a NetConf) -> Result<Delegate<'a>> {
    let config = serde_json::to_vec(delegated).map_err(Error::from)?;
    Ok(call.delegate(&delegated.r#type).with_config(config))
}

fn del(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::for_removal(conf);
    let (saved, content) = SavedConfig::find(&config.data_dir, call)?;
    let delegated = match &content {
        Content::Ours(delegated) => of_call(delegated, conf),
        // A second DEL, an ADD that failed early, or a second interface of the Go plugin, which
        // shares a file. Our own plugins can remove everything without the file; others may need
        // the subnet.
        Content::Missing | Content::Broken | Content::OfAnother => {
            let delegated = config.delegated(call, None)?;
            // ADD rejects flannel itself.
            if is_flannel(&delegated, call)
                || call.exec.linked(&delegated.r#type, &call.args.path).is_none()
            {
                return if matches!(content, Content::Broken) { saved.remove() } else { Ok(()) };
            }
            NetConf { ip_masq: Some(true), ..of_call(&delegated, conf) }
        }
    };
    delegate(call, &delegated)?.del()?;
    match content {
        Content::Ours(_) | Content::Broken => saved.remove(),
        Content::Missing | Content::OfAnother => Ok(()),
    }
}

/// Whether the delegate is flannel itself, under any name.
fn is_flannel(delegated: &NetConf, call: &Call<'_>) -> bool {
    call.kind(&delegated.r#type) == config::FLANNEL
}

/// Returns the configuration of the ADD, with the keys of this call. The version may have increased
/// since.
fn of_call(delegated: &NetConf, conf: &NetConf) -> NetConf {
    NetConf {
        cni_version: conf.cni_version,
        prev_result: conf.prev_result.clone(),
        valid_attachments: conf.valid_attachments.clone(),
        ..delegated.clone()
    }
}

fn check(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    config.validate(call)?;
    call.checked_result()?;
    let (_, Content::Ours(delegated)) = SavedConfig::find(&config.data_dir, call)? else {
        let dir = &config.data_dir;
        return Err(differs(format!(
            "the file with the configuration of the ADD is missing in {dir}"
        )));
    };
    delegate(call, &of_call(&delegated, conf))?.check().map_err(Into::into)
}

/// Calls GC of the delegate: with the current configuration, and with each saved one of attachments
/// that are no longer valid.
fn gc(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let stale = call.stale();
    let config = Config::new(conf)?;
    let for_gc = |delegated: &NetConf| {
        let delegated = of_call(delegated, conf);
        NetConf { runtime_config: serde_json::Map::new(), ..delegated }
    };
    let mut all = BestEffort::default();
    let mut groups: Vec<(NetConf, Vec<SavedConfig>)> = Vec::new();
    match config.delegated(call, Subnet::read(&config.subnet_file).ok().as_ref()) {
        // ADD rejects it.
        Ok(today) if is_flannel(&today, call) => {}
        Ok(today) => groups.push((for_gc(&today), Vec::new())),
        Err(failure) => all.step(Err(failure)),
    }
    for saved in saved_config::list(&config.data_dir)? {
        match saved.read(call) {
            Ok((Content::Ours(delegated), ifname)) => {
                if !stale.has(&saved.owner(&conf.name, ifname)) {
                    continue;
                }
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
        match delegate(call, &delegated).and_then(|delegate| Ok(delegate.gc()?)) {
            Ok(()) => stale.iter().for_each(|saved| all.step(saved.remove())),
            // The next GC needs the saved configuration.
            failed => all.step(failed),
        }
    }
    all.finish()
}

fn status(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    config.validate(call)?;
    let subnet = Subnet::read(&config.subnet_file)
        .map_err(|failure| Error::PluginNotAvailable(Error::from(failure).details().to_owned()))?;
    let delegated = config.delegated(call, Some(&subnet))?;
    Ok(delegate(call, &delegated)?.status()?)
}
