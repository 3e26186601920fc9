//! The parameters of an attachment (spec: "Attachment Parameters").

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::NetConfList;
use crate::{
    Args, Error,
    name::{check_container_id, check_interface_name},
    request::Command,
    span::Traced,
};

/// The parameters of an attachment, which should be the same for its ADD, CHECK and DEL.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct AttachmentParams {
    /// The container (`CNI_CONTAINERID`).
    pub container_id: String,
    /// Its network namespace (`CNI_NETNS`); `None` only for the DEL of a container that is gone.
    pub netns: Option<PathBuf>,
    /// The container interface (`CNI_IFNAME`).
    pub ifname: String,
    /// Arguments for all plugins, as key and value (`CNI_ARGS`).
    pub args: Vec<(String, String)>,
    /// Capability arguments (`runtimeConfig`); each plugin gets those that it declares.
    pub capability_args: Map<String, Value>,
    /// Whether to allow the plugins' own network namespace (`CNI_NETNS_OVERRIDE`).
    pub netns_override: bool,
}

impl AttachmentParams {
    /// An attachment without arguments.
    pub fn new(
        container_id: impl Into<String>,
        netns: impl Into<PathBuf>,
        ifname: impl Into<String>,
    ) -> Self {
        let (container_id, ifname) = (container_id.into(), ifname.into());
        Self { container_id, netns: Some(netns.into()), ifname, ..Self::default() }
    }

    /// Validates the parameters for `command`.
    pub(super) fn check(&self, command: Command) -> Result<(), Error> {
        check_container_id(&self.container_id)?;
        check_interface_name(&self.ifname)?;
        if self.netns.is_none() && command.required_variables().contains(&"CNI_NETNS") {
            return Err(Error::InvalidEnvValue(format!(
                "{command} requires the container's network namespace"
            )));
        }
        for (key, value) in &self.args {
            if key.is_empty() || key.contains(['=', ';']) || value.contains(';') {
                return Err(Error::InvalidEnvValue(format!(
                    "argument {key:?}={value:?} is invalid in CNI_ARGS: \
                     remove ';', and '=' from the key"
                )));
            }
        }
        Ok(())
    }

    /// Creates the span of an operation on this attachment.
    pub(super) fn span(&self, command: Command, list: &NetConfList) -> Traced {
        Traced::operation(command, &list.name, Some((&self.container_id, &self.ifname)))
    }

    /// Converts the parameters to the arguments of a plugin.
    pub(super) fn to_args(&self, path: &[PathBuf]) -> Args {
        let pairs: Vec<_> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Args {
            container_id: self.container_id.clone(),
            netns: self.netns.clone(),
            ifname: self.ifname.clone(),
            args: Some(pairs.join(";")).filter(|args| !args.is_empty()),
            path: path.to_vec(),
            netns_override: self.netns_override,
            ..Args::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_parameters_are_rejected() {
        let good = AttachmentParams::new("id", "/run/netns/a", "eth0");
        assert_eq!(good.check(Command::Add), Ok(()));
        let bad = [
            AttachmentParams { container_id: "../id".into(), ..good.clone() },
            AttachmentParams { ifname: "a/b".into(), ..good.clone() },
            AttachmentParams { netns: None, ..good.clone() },
            AttachmentParams { args: vec![("K=".into(), "v".into())], ..good.clone() },
            AttachmentParams { args: vec![("K".into(), "v;L=w".into())], ..good.clone() },
        ];
        for params in bad {
            assert_eq!(params.check(Command::Add).unwrap_err().code(), 4, "{params:?}");
        }
        assert_eq!(AttachmentParams { netns: None, ..good }.check(Command::Del), Ok(()));
    }

    #[test]
    fn arguments_become_cni_args() {
        let mut params = AttachmentParams::new("id", "/run/netns/a", "eth0");
        assert_eq!(params.to_args(&[]).args, None);
        params.args = vec![("IgnoreUnknown".into(), "1".into()), ("IP".into(), "10.0.0.1".into())];
        assert_eq!(params.to_args(&[]).args.as_deref(), Some("IgnoreUnknown=1;IP=10.0.0.1"));
    }
}
