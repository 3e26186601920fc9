//! One invocation of a plugin.

use std::path::PathBuf;

use rscni::{
    Args, Attachment, CNIResult, Error, NetConf,
    invoke::{Delegate, Exec},
};
use rscni_linux::Background;

use crate::error::Result;
use crate::state::{AttachmentResult, Owner, Stale};

/// A command without a result.
pub(crate) type Command = fn(&Call<'_>) -> Result<()>;

/// One invocation of a plugin.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) args: &'a Args,
    pub(crate) conf: &'a NetConf,
    /// Reaches the other plugins.
    pub(crate) exec: &'a dyn PluginExec,
}

/// The kind of another plugin of this program.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) ipam: Option<IpamOrder>,
}

/// When DEL and GC of an interface plugin call the IPAM plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpamOrder {
    /// After the link was removed: an address is free only when no link has it.
    AfterLink,
    /// Before the link is removed, because the lease is released through it.
    BeforeLink,
}

/// How a call reaches other plugins: those of this program in-process, all others as processes.
pub(crate) trait PluginExec: Exec {
    /// Returns the plugin of this program that would be called in-process for `name`.
    fn linked(&self, name: &str, path: &[PathBuf]) -> Option<Kind>;

    /// Returns the plugin that `name` stands for in configurations, whichever implementation is
    /// installed.
    fn kind(&self, name: &str, path: &[PathBuf]) -> Option<Kind>;

    /// The worker that waits while the kernel frees a link, if DEL does not wait itself.
    fn background(&self) -> Option<Background>;
}

impl<'a> Call<'a> {
    pub(crate) fn new(args: &'a Args, exec: &'a dyn PluginExec) -> Result<Self> {
        Ok(Self { args, conf: args.conf()?, exec })
    }

    /// The attachment as the owner of what it makes.
    pub(crate) fn owner(&self) -> Owner<'a> {
        Owner {
            network: &self.conf.name,
            container_id: &self.args.container_id,
            ifname: &self.args.ifname,
        }
    }

    /// The part of `prevResult` that belongs to this attachment.
    pub(crate) fn prev_result(&self) -> Option<AttachmentResult<'a>> {
        self.conf.prev_result.as_ref().map(|result| self.own(result))
    }

    /// The part of a result that belongs to this attachment.
    pub(crate) fn own<'r>(&self, result: &'r CNIResult) -> AttachmentResult<'r>
    where
        'a: 'r,
    {
        AttachmentResult::new(result, &self.args.ifname, self.args.netns.as_deref())
    }

    /// Returns the result of ADD, which CHECK compares with (spec: "CHECK").
    pub(crate) fn checked_result(&self) -> Result<&'a CNIResult> {
        self.require_prev_result(|| {
            "CHECK needs the prevResult that ADD gave: the runtime must pass it".into()
        })
    }

    /// Returns the result of the plugins before this one, which a chained plugin passes on.
    pub(crate) fn chained_result(&self) -> Result<&'a CNIResult> {
        self.require_prev_result(|| {
            format!(
                "{} needs a prevResult: list it after the plugin that makes the interface",
                self.conf.r#type
            )
        })
    }

    fn require_prev_result(&self, missing: impl FnOnce() -> String) -> Result<&'a CNIResult> {
        let result = self.conf.prev_result.as_ref();
        result.ok_or_else(|| Error::InvalidNetworkConfig(missing()).into())
    }

    /// The attachments that GC spares (spec: "GC"). libcni omits the key if its caller passes no
    /// list, which means that no attachment is valid.
    pub(crate) fn valid_attachments(&self) -> &'a [Attachment] {
        self.conf.valid_attachments.as_deref().unwrap_or_default()
    }

    /// Tells what of this network GC removes.
    pub(crate) fn stale(&self) -> Stale<'a> {
        Stale::new(&self.conf.name, self.valid_attachments())
    }

    /// A call of another plugin with the same arguments.
    pub(crate) fn delegate(&self, plugin: &'a str) -> Delegate<'a> {
        Delegate::new(self.exec, self.args, plugin)
    }

    /// Returns the name of the plugin that `name` stands for, or `name` for other plugins.
    pub(crate) fn kind<'n>(&self, name: &'n str) -> &'n str {
        self.exec.kind(name, &self.args.path).map_or(name, |kind| kind.name)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use serde_json::Value;

    use super::*;

    /// A program without plugins.
    #[derive(Debug)]
    struct Empty;

    impl Exec for Empty {
        fn exec(&self, _: &rscni::invoke::Invocation) -> std::io::Result<rscni::invoke::Outcome> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    impl PluginExec for Empty {
        fn linked(&self, _: &str, _: &[PathBuf]) -> Option<Kind> {
            None
        }

        fn kind(&self, _: &str, _: &[PathBuf]) -> Option<Kind> {
            None
        }

        fn background(&self) -> Option<Background> {
            None
        }
    }

    /// Runs `test` with a call of these arguments and this configuration.
    pub(crate) fn with_call<T>(args: Args, conf: NetConf, test: impl FnOnce(&Call<'_>) -> T) -> T {
        let args = args.with_config(conf);
        test(&Call { args: &args, conf: args.config.as_ref().expect("set above"), exec: &Empty })
    }

    pub(crate) fn with_keys<T>(keys: Value, test: impl FnOnce(&Call<'_>) -> T) -> T {
        let conf = serde_json::from_value(keys).expect("a configuration");
        with_call(Args::default(), conf, test)
    }
}
