//! The subcommands of `rscni`: what they are called and take, and what of it goes where.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rscni::Error;
use rscni::runtime::{AttachmentParams, Cache};
use serde_json::{Map, Value};

use crate::install;
use crate::network::{Action, CONF_DIR, Target, absolute, container_id, parse_args, parse_cap_args, split_path};
use crate::output;

/// CNI networks for containers: every reference plugin in one file, and a tool to run networks with
///
/// Called under the name of a plugin, it is that plugin; `rscni install` makes the names.
#[derive(Parser)]
#[command(name = "rscni", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  rscni install /opt/cni/bin               put the plugins where container runtimes look for them
  rscni plugins                            see which there are
  ip netns add testing
  rscni add mynet testing                  attach /var/run/netns/testing to the network mynet of /etc/cni/net.d
  rscni check mynet testing
  rscni del mynet testing
  rscni add mynet testing --cap portMappings='[{\"hostPort\":8080,\"containerPort\":80,\"protocol\":\"tcp\"}]'";

#[derive(Subcommand)]
enum Command {
    /// Attach a network namespace to a network, and print the result
    Add(Attachment),
    /// Detach a network namespace from a network
    Del(Attachment),
    /// See that an attachment is as `add` left it
    Check(Attachment),
    /// Put this program and an entry for each plugin (and cnitool) into a directory
    ///
    /// Every file appears whole or not at all, so it may be a directory that runtimes are using, and may hold other
    /// plugins of the same names, which are replaced. Others stay as they are.
    Install {
        /// The directory, /opt/cni/bin for most runtimes; it is made if it is not there
        dir: PathBuf,
        /// Only these plugins
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        only: Option<Vec<String>>,
    },
    /// List the plugins that are inside this program
    Plugins,
}

#[derive(clap::Args)]
struct Attachment {
    /// Name of a network in the configuration directory
    network: String,
    /// Network namespace: a path, or a name as of `ip netns`
    netns: OsString,
    /// Interface to make in the namespace
    #[arg(long, short, value_name = "NAME", env = "CNI_IFNAME", hide_env_values = true, default_value = IFNAME)]
    ifname: String,
    /// Container id [default: derived from the namespace's path, as cnitool does]
    #[arg(long, value_name = "ID")]
    container_id: Option<String>,
    /// Arguments for the plugins
    #[arg(long, value_name = "KEY=VALUE;..", env = "CNI_ARGS", hide_env_values = true)]
    args: Option<String>,
    // As text, since backticks around a variable's name would be seen in the terminal.
    #[arg(long, value_name = "KEY=JSON", help = CAP_HELP)]
    cap: Vec<String>,
    /// Directory of network configurations
    #[arg(long, value_name = "DIR", env = "NETCONFPATH", hide_env_values = true, default_value = CONF_DIR)]
    conf_dir: OsString,
    /// Directories of plugins, divided by ':'; those inside this program need not be there
    #[arg(long, value_name = "DIRS", env = "CNI_PATH", hide_env_values = true, default_value = PLUGIN_DIR)]
    plugin_dir: OsString,
    /// Directory where attachments are remembered
    #[arg(long, value_name = "DIR", default_value = CACHE_DIR)]
    cache_dir: PathBuf,
    /// Capability arguments, as cnitool takes them
    #[arg(long, env = "CAP_ARGS", hide = true)]
    cap_args: Option<String>,
    /// Whether the namespace may be this program's own
    #[arg(long, env = "CNI_NETNS_OVERRIDE", hide = true)]
    netns_override: Option<String>,
}

const CAP_HELP: &str =
    "Capability argument for the plugins that take it; may be repeated, and adds to the object in $CAP_ARGS";
const IFNAME: &str = "eth0";
const PLUGIN_DIR: &str = "/opt/cni/bin";
const CACHE_DIR: &str = "/var/lib/cni";

/// Runs the subcommand that this process was called with.
pub(crate) fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Add(attachment) => attachment.run(Action::Add),
        Command::Del(attachment) => attachment.run(Action::Del),
        Command::Check(attachment) => attachment.run(Action::Check),
        Command::Install { dir, only } => install::install(&dir, only.as_deref(), &mut |done| output::line(&done)),
        Command::Plugins => {
            list_plugins();
            Ok(())
        }
    };
    output::exit("rscni", outcome)
}

fn list_plugins() {
    let width = rscni_plugins::ALL.iter().map(|plugin| plugin.name.len()).max().unwrap_or_default();
    for plugin in rscni_plugins::ALL {
        output::line(&format!("{:width$}  {}", plugin.name, plugin.about));
    }
}

impl Attachment {
    fn run(self, action: Action) -> Result<(), Error> {
        let netns = netns_path(&self.netns)?;
        // To detach what was in it is still possible, and needed, when the namespace is gone.
        if action != Action::Del && !netns.exists() {
            return Err(Error::InvalidNetns(format!(
                "{} does not exist: make it with `ip netns add`, or give the path of another",
                netns.display()
            )));
        }
        let id = self.container_id.unwrap_or_else(|| container_id(&netns));
        let mut params = AttachmentParams::new(id, netns, or(self.ifname, IFNAME));
        params.args = self.args.as_deref().map_or_else(|| Ok(Vec::new()), parse_args)?;
        params.capability_args = capabilities(self.cap_args.as_deref(), &self.cap)?;
        params.netns_override = self.netns_override.as_deref().is_some_and(is_true);
        let target = Target {
            network: self.network,
            params,
            conf_dir: or(self.conf_dir, CONF_DIR).into(),
            plugin_path: split_path(&or(self.plugin_dir, PLUGIN_DIR)),
            cache: Cache::new(self.cache_dir),
        };
        target.run(action)
    }
}

/// The value, unless it is empty: a variable that is set to nothing is not set.
fn or<T: AsRef<OsStr> + for<'a> From<&'a str>>(value: T, default: &str) -> T {
    if value.as_ref().is_empty() { default.into() } else { value }
}

/// A variable's text that says yes.
pub(crate) fn is_true(text: &str) -> bool {
    text == "1" || text.eq_ignore_ascii_case("true")
}

/// The path of a network namespace; a bare name is one of `ip netns`.
fn netns_path(text: &OsStr) -> Result<PathBuf, Error> {
    if text.as_encoded_bytes().contains(&b'/') {
        return absolute(Path::new(text));
    }
    if text.is_empty() || text == "." || text == ".." {
        return Err(Error::InvalidNetns(format!("{:?} is neither a path nor a name", text.display())));
    }
    // cnitool's users write /var/run, and the container id depends on how it is written.
    let run = if Path::new("/var/run").exists() { "/var/run/netns" } else { "/run/netns" };
    Ok(Path::new(run).join(text))
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
        let value = serde_json::from_str(json)
            .map_err(|e| invalid(format!("the value is not JSON ({e}); text needs its quotes: {key}='\"{json}\"'")))?;
        all.insert(key.into(), value);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bare_name_is_one_of_ip_netns_and_all_else_a_path() {
        let path = |text: &str| netns_path(OsStr::new(text)).map(|path| path.display().to_string());
        assert!(path("testing").unwrap().ends_with("/run/netns/testing"));
        assert_eq!(path("/proc/7/ns/net").unwrap(), "/proc/7/ns/net");
        assert_eq!(path("./a").unwrap(), std::env::current_dir().unwrap().join("a").display().to_string());
        for bad in ["", ".", ".."] {
            assert_eq!(path(bad).unwrap_err().code(), 8, "{bad:?}");
        }
    }

    #[test]
    fn capability_options_add_to_the_variable() {
        let all = capabilities(Some(r#"{ "mac": "a", "ips": [] }"#), &["mac=\"b\"".into()]).unwrap();
        assert_eq!(Value::Object(all).to_string(), r#"{"mac":"b","ips":[]}"#);
        let error = capabilities(None, &["mac=00:11".into()]).unwrap_err();
        assert!(error.code() == 4 && error.details().contains(r#"mac='"00:11"'"#), "{error}");
        assert_eq!(capabilities(None, &["mac".into()]).unwrap_err().code(), 4);
    }
}
