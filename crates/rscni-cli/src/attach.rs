//! `rscni add`, `del` and `check`: operations on one attachment.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use rscni::{Error, runtime::AttachmentParams};
use serde_json::{Map, Value};

use crate::{
    container::Selector,
    netns,
    network::{Action, Added, Target, absolute, container_id, is_true, parse_args, parse_cap_args},
    options::RuntimeOptions,
    output::{self, Format, Style},
    summary::summary,
};

/// Arguments of `add`.
#[derive(clap::Args)]
pub(crate) struct Add {
    /// Name of a network in the configuration directory
    network: String,
    /// Network namespace: a path, or a name known to "ip netns"
    netns: OsString,
    /// Container id [default: derived from the namespace's path, like cnitool]
    #[arg(long, value_name = "ID")]
    container_id: Option<String>,
    #[command(flatten)]
    options: Options,
    /// Create the named namespace if it does not exist, like "ip netns add"; it is removed again if
    /// the attachment fails
    #[arg(long)]
    create_netns: bool,
    /// Output format [default: text on a terminal, else json]
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<Format>,
}

/// Arguments of `del` and `check`.
#[derive(clap::Args)]
pub(crate) struct Attachment {
    /// Name of a network in the configuration directory
    network: String,
    /// Network namespace: a path, or a name known to "ip netns" [default: the one in the cache]
    #[arg(required_unless_present = "container_id")]
    netns: Option<OsString>,
    /// Container: its id, the first twelve digits of a long id, or its pod as NAMESPACE/NAME
    /// [default: derived from the namespace's path, like cnitool]
    #[arg(long, value_name = "ID")]
    container_id: Option<Selector>,
    #[command(flatten)]
    options: Options,
}

/// Options of every operation on an attachment.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Name of the interface in the namespace
    #[arg(long, short, value_name = "NAME", env = "CNI_IFNAME", hide_env_values = true)]
    #[arg(default_value = IFNAME)]
    ifname: String,
    /// Arguments for the plugins
    #[arg(long, value_name = "KEY=VALUE;..", env = "CNI_ARGS", hide_env_values = true)]
    args: Option<String>,
    // Not a doc comment: clippy wants backticks in those, and the help would show them.
    #[arg(long, value_name = "KEY=JSON", help = CAP_HELP)]
    cap: Vec<String>,
    #[command(flatten)]
    runtime: RuntimeOptions,
    /// Capability arguments in cnitool's variable
    #[arg(long, env = "CAP_ARGS", hide = true)]
    cap_args: Option<String>,
    /// Allow the namespace of this process
    #[arg(long, env = "CNI_NETNS_OVERRIDE", hide = true)]
    netns_override: Option<String>,
}

const CAP_HELP: &str =
    "Capability argument for plugins that declare it; may be repeated and extends $CAP_ARGS";
const IFNAME: &str = "eth0";

impl Add {
    /// Attaches the namespace and prints the result.
    pub(crate) fn run(self) -> Result<(), Error> {
        let format = self.output.unwrap_or_else(Format::of_results);
        let name = self.netns;
        let netns = netns_path(&name)?;
        let id = self.container_id.unwrap_or_else(|| container_id(&netns));
        let target = self.options.target(self.network, netns, id)?;
        let created = self.create_netns && netns::create_if_missing(&target.netns)?;
        let added = must_exist(&target).and_then(|()| target.add());
        let Added { result, version, calls } =
            added.map_err(|e| if created { netns::remove_after(&target.netns, e) } else { e })?;
        match format {
            Format::Json => output::json(&result.to_json(version)),
            Format::Text => {
                let name = name.to_string_lossy();
                let (network, params) = (&target.network, &target.params);
                output::text(&summary(&name, network, params, &result, &calls, Style::of_stdout()));
            }
        }
        Ok(())
    }
}

impl Attachment {
    /// Runs an operation, which prints nothing.
    pub(crate) fn run(self, action: Action) -> Result<(), Error> {
        let target = self.target()?;
        // DEL must also work after the namespace is gone.
        if action != Action::Del {
            must_exist(&target)?;
        }
        target.run(action)
    }

    fn target(self) -> Result<Target, Error> {
        let Self { network, netns, container_id: selector, options } = self;
        let netns = netns.as_deref().map(netns_path).transpose()?;
        let Some(selector) = selector else {
            // clap requires the namespace if there is no container.
            let netns = netns.unwrap_or_default();
            let id = container_id(&netns);
            return options.target(network, netns, id);
        };
        let cache = options.runtime.cache.cache();
        let entry = selector.find(&cache, &network, options.ifname())?;
        let (id, cached) = match (entry, &selector) {
            (Some(entry), _) => (entry.params.container_id, entry.params.netns),
            (None, Selector::Id(id)) => (id.clone(), None),
            (None, Selector::Pod(pod)) => (pod.to_string(), None),
        };
        let netns = netns.or(cached).ok_or_else(|| {
            Error::InvalidNetns(format!(
                "the cache has no namespace of {selector} for network {network}: add the namespace \
                 to the command line"
            ))
        })?;
        options.target(network, netns, id)
    }
}

impl Options {
    /// Returns the interface name. An empty variable counts as unset.
    fn ifname(&self) -> &str {
        if self.ifname.is_empty() { IFNAME } else { &self.ifname }
    }

    fn target(self, network: String, netns: PathBuf, id: String) -> Result<Target, Error> {
        let mut params = AttachmentParams::new(id, &netns, self.ifname());
        params.args = self.args.as_deref().map_or_else(|| Ok(Vec::new()), parse_args)?;
        params.capability_args = capabilities(self.cap_args.as_deref(), &self.cap)?;
        params.netns_override = self.netns_override.as_deref().is_some_and(is_true);
        Ok(Target {
            network,
            netns,
            params,
            conf_dir: self.runtime.plugins.conf_dir().to_owned(),
            plugin_path: self.runtime.plugins.plugin_path(),
            timeout: self.runtime.plugins.timeout(),
            cache: self.runtime.cache.cache(),
        })
    }
}

fn must_exist(target: &Target) -> Result<(), Error> {
    if target.netns.exists() {
        return Ok(());
    }
    Err(Error::InvalidNetns(format!(
        "{} does not exist: create it with --create-netns or `ip netns add`, or use another one",
        target.netns.display()
    )))
}

/// Returns the path of a network namespace. A bare name is one of `ip netns`.
fn netns_path(text: &OsStr) -> Result<PathBuf, Error> {
    if text.as_encoded_bytes().contains(&b'/') {
        return absolute(Path::new(text));
    }
    if text.is_empty() || text == "." || text == ".." {
        return Err(Error::InvalidNetns(format!(
            "{:?} is neither a path nor a name",
            text.display()
        )));
    }
    Ok(netns::named_dir().join(text))
}

/// Merges the capability arguments of the variable and the options; options take precedence.
fn capabilities(variable: Option<&str>, options: &[String]) -> Result<Map<String, Value>, Error> {
    let mut all = match variable.filter(|text| !text.is_empty()) {
        Some(text) => parse_cap_args(text)?,
        None => Map::new(),
    };
    for option in options {
        let invalid = |why: String| Error::InvalidEnvValue(format!("--cap {option}: {why}"));
        let (key, json) = option
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| invalid("must be of the form KEY=JSON".into()))?;
        let value = serde_json::from_str(json).map_err(|e| {
            invalid(format!("the value is not JSON ({e}); strings need quotes: {key}='\"{json}\"'"))
        })?;
        all.insert(key.into(), value);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_names_are_named_namespaces_and_others_are_paths() {
        let path = |text: &str| netns_path(OsStr::new(text)).map(|path| path.display().to_string());
        assert!(path("testing").unwrap().ends_with("/run/netns/testing"));
        assert_eq!(path("/proc/7/ns/net").unwrap(), "/proc/7/ns/net");
        assert_eq!(
            path("./a").unwrap(),
            std::env::current_dir().unwrap().join("a").display().to_string()
        );
        for bad in ["", ".", ".."] {
            assert_eq!(path(bad).unwrap_err().code(), 8, "{bad:?}");
        }
    }

    #[test]
    fn cap_options_extend_the_variable() {
        let all =
            capabilities(Some(r#"{ "mac": "a", "ips": [] }"#), &["mac=\"b\"".into()]).unwrap();
        assert_eq!(Value::Object(all).to_string(), r#"{"mac":"b","ips":[]}"#);
        let error = capabilities(None, &["mac=00:11".into()]).unwrap_err();
        assert!(error.code() == 4 && error.details().contains(r#"mac='"00:11"'"#), "{error}");
        assert_eq!(capabilities(None, &["mac".into()]).unwrap_err().code(), 4);
    }
}
