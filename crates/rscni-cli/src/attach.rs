//! `rscni add`, `del` and `check`: one network namespace and one network.

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
    output::{self, Format, Style},
    places::{Memory, Places},
    summary::summary,
};

/// What `add` takes beside the attachment.
#[derive(clap::Args)]
pub(crate) struct Add {
    /// Name of a network in the configuration directory
    network: String,
    /// Network namespace: a path, or a name as of "ip netns"
    netns: OsString,
    /// Container id [default: derived from the namespace's path, as cnitool does]
    #[arg(long, value_name = "ID")]
    container_id: Option<String>,
    #[command(flatten)]
    options: Options,
    /// Make the namespace if there is none of that name, as "ip netns add" does; if it then cannot be attached,
    /// it is removed again
    #[arg(long)]
    create_netns: bool,
    /// How to print the result [default: text on a terminal, else json]
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<Format>,
}

/// An attachment that was made, as command lines name it.
#[derive(clap::Args)]
pub(crate) struct Attachment {
    /// Name of a network in the configuration directory
    network: String,
    /// Network namespace: a path, or a name as of "ip netns" [default: that of the container, as it
    /// is remembered]
    #[arg(required_unless_present = "container_id")]
    netns: Option<OsString>,
    /// Container: its id, twelve digits of a long id, or its pod as NAMESPACE/NAME [default:
    /// derived from the namespace's path, as cnitool does]
    #[arg(long, value_name = "ID")]
    container_id: Option<Selector>,
    #[command(flatten)]
    options: Options,
}

/// What every operation on an attachment takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Interface to make in the namespace
    #[arg(long, short, value_name = "NAME", env = "CNI_IFNAME", hide_env_values = true, default_value = IFNAME)]
    ifname: String,
    /// Arguments for the plugins
    #[arg(long, value_name = "KEY=VALUE;..", env = "CNI_ARGS", hide_env_values = true)]
    args: Option<String>,
    // As text, since backticks around a variable's name would be seen in the terminal.
    #[arg(long, value_name = "KEY=JSON", help = CAP_HELP)]
    cap: Vec<String>,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    memory: Memory,
    /// Capability arguments, as cnitool takes them
    #[arg(long, env = "CAP_ARGS", hide = true)]
    cap_args: Option<String>,
    /// Whether the namespace may be this program's own
    #[arg(long, env = "CNI_NETNS_OVERRIDE", hide = true)]
    netns_override: Option<String>,
}

const CAP_HELP: &str = "Capability argument for the plugins that take it; may be repeated, and adds to the object in $CAP_ARGS";
const IFNAME: &str = "eth0";

impl Add {
    /// Attaches, and prints the result.
    pub(crate) fn run(self) -> Result<(), Error> {
        let format = self.output.unwrap_or_else(Format::of_results);
        let name = self.netns;
        let netns = netns_path(&name)?;
        let id = self.container_id.unwrap_or_else(|| container_id(&netns));
        let target = self.options.target(self.network, netns, id)?;
        let made = self.create_netns && netns::make_if_missing(&target.netns)?;
        let Added { result, version, steps } = add(&target)
            .map_err(|error| if made { netns::unmake(&target.netns, error) } else { error })?;
        match format {
            Format::Json => output::json(&result.to_json(version)),
            Format::Text => {
                let name = name.to_string_lossy();
                output::text(&summary(
                    &name,
                    &target.network,
                    &target.params,
                    &result,
                    &steps,
                    Style::of_stdout(),
                ));
            }
        }
        Ok(())
    }
}

fn add(target: &Target) -> Result<Added, Error> {
    must_exist(target)?;
    target.add()
}

impl Attachment {
    /// Does what prints nothing.
    pub(crate) fn run(self, action: Action) -> Result<(), Error> {
        let target = self.target()?;
        // To detach what was in it is still possible, and needed, when the namespace is gone.
        if action != Action::Del {
            must_exist(&target)?;
        }
        target.run(action)
    }

    fn target(self) -> Result<Target, Error> {
        let Self { network, netns, container_id: selector, options } = self;
        let netns = netns.as_deref().map(netns_path).transpose()?;
        let Some(selector) = selector else {
            // Without a container the command line has a namespace.
            let netns = netns.unwrap_or_default();
            let id = container_id(&netns);
            return options.target(network, netns, id);
        };
        let known = selector.find(&options.memory.cache(), &network, options.ifname())?;
        let (id, remembered) = match (known, &selector) {
            (Some(entry), _) => (entry.params.container_id, entry.params.netns),
            (None, Selector::Id(id)) => (id.clone(), None),
            (None, Selector::Pod(pod)) => (pod.to_string(), None),
        };
        let netns = netns.or(remembered).ok_or_else(|| {
            Error::InvalidNetns(format!(
                "no namespace of {selector} is remembered for network {network}: name it after the \
                 network"
            ))
        })?;
        options.target(network, netns, id)
    }
}

impl Options {
    /// The interface; a variable that is set to nothing is not set.
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
            conf_dir: self.places.conf_dir().to_owned(),
            plugin_path: self.places.plugin_path(),
            timeout: self.places.timeout(),
            cache: self.memory.cache(),
        })
    }
}

fn must_exist(target: &Target) -> Result<(), Error> {
    if target.netns.exists() {
        return Ok(());
    }
    Err(Error::InvalidNetns(format!(
        "{} does not exist: make it with --create-netns or `ip netns add`, or give the path of another",
        target.netns.display()
    )))
}

/// The path of a network namespace; a bare name is one of `ip netns`.
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

/// Capability arguments: those of the variable, then those of the options.
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
            invalid(format!(
                "the value is not JSON ({e}); text needs its quotes: {key}='\"{json}\"'"
            ))
        })?;
        all.insert(key.into(), value);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_one_of_ip_netns_and_all_else_a_path() {
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
    fn capability_options_add_to_the_variable() {
        let all =
            capabilities(Some(r#"{ "mac": "a", "ips": [] }"#), &["mac=\"b\"".into()]).unwrap();
        assert_eq!(Value::Object(all).to_string(), r#"{"mac":"b","ips":[]}"#);
        let error = capabilities(None, &["mac=00:11".into()]).unwrap_err();
        assert!(error.code() == 4 && error.details().contains(r#"mac='"00:11"'"#), "{error}");
        assert_eq!(capabilities(None, &["mac".into()]).unwrap_err().code(), 4);
    }
}
