//! The configuration of host-local: ranges and requested addresses.

use std::{fmt::Display, net::IpAddr, path::PathBuf};

use rscni::{
    Error, IpRange, NetConf, Route, SpecVersion,
    address::parse_net,
    any_case::{self, section},
    name::check_path,
};
use serde::Deserialize;
use serde_json::Value;

use super::range::{Range, RangeSet, read_address};
use crate::{ipam::ipam_keys, plugin::Call};

pub(crate) const DATA_DIR: &str = "/var/lib/cni/networks";

/// A validated configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// Range sets. An attachment gets an address of each.
    pub(crate) sets: Vec<RangeSet>,
    pub(crate) routes: Vec<Route>,
    /// File with DNS settings.
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) data_dir: PathBuf,
    /// Requested addresses without duplicates.
    pub(crate) requested: Vec<Requested>,
    /// Whether requested addresses may be outside of `rangeStart` to `rangeEnd`, but in the subnet.
    pub(crate) allow_outside_range: bool,
}

/// An address that the caller requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requested {
    pub(crate) address: IpAddr,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    CniArgs,
    Args,
    RuntimeConfig,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::CniArgs => "CNI_ARGS: IP",
            Self::Args => "args.cni.ips",
            Self::RuntimeConfig => "runtimeConfig.ips",
        }
    }

    /// Returns the error for an invalid entry of this source.
    fn refuse_at(self, index: usize, problem: impl Display) -> Error {
        match self {
            Self::CniArgs => self.refuse(problem),
            Self::Args | Self::RuntimeConfig => {
                invalid(format!("{}[{index}]: {problem}", self.name()))
            }
        }
    }

    /// Returns the error for an invalid value of this source.
    fn refuse(self, problem: impl Display) -> Error {
        let text = format!("{}: {problem}", self.name());
        if self == Self::CniArgs { Error::InvalidEnvValue(text) } else { invalid(text) }
    }
}

impl Requested {
    /// Returns the error that this address can never be allocated.
    pub(crate) fn refuse(&self, problem: &str) -> Error {
        self.source.refuse(format!("{} {problem}", self.address))
    }
}

/// The keys of `ipam`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    ranges: Option<Vec<Vec<IpRange>>>,
    routes: Option<Vec<Route>>,
    resolv_conf: Option<String>,
    /// See [`reclaims_after_reboot`].
    #[serde(rename = "reclaimAfterReboot")]
    _reclaim_after_reboot: Option<bool>,
    /// The single range of old configurations, whose keys are in `ipam` itself.
    subnet: Option<String>,
    /// See [`Config::allow_outside_range`].
    allow_outside_range: Option<bool>,
    range_start: Option<String>,
    range_end: Option<String>,
    gateway: Option<String>,
}

/// The keys of `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Runtime {
    ip_ranges: Option<Vec<Vec<IpRange>>>,
    ips: Option<Vec<String>>,
}

/// The keys of `args.cni`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ArgsCni {
    ips: Option<Vec<String>>,
}

impl Config {
    /// Whether an address belongs to one of the range sets.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.sets.iter().any(|set| self.range_in(set, address).is_some())
    }

    /// Returns the range of a set from which an address can be requested.
    pub(crate) fn range_in<'a>(&self, set: &'a RangeSet, address: IpAddr) -> Option<&'a Range> {
        if self.allow_outside_range { set.range_around(address) } else { set.range_of(address) }
    }

    /// Reads and validates the configuration for ADD, CHECK and STATUS.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`], or [`Error::InvalidEnvValue`] if `CNI_ARGS` is invalid.
    pub(crate) fn read(call: &Call<'_>) -> Result<Self, Error> {
        let conf = call.conf;
        let keys: Keys = section(ipam_keys(conf)?, "ipam")?;
        check_path("ipam.resolvConf", keys.resolv_conf.as_deref().unwrap_or_default())?;
        let runtime: Runtime = section(&conf.runtime_config, "runtimeConfig")?;
        Ok(Self {
            data_dir: data_dir(conf)?,
            requested: requested(call, runtime.ips.unwrap_or_default())?,
            allow_outside_range: keys.allow_outside_range.unwrap_or_default(),
            resolv_conf: keys.resolv_conf.clone().filter(|path| !path.is_empty()).map(Into::into),
            routes: keys.routes.clone().unwrap_or_default(),
            sets: sets(keys, runtime.ip_ranges.unwrap_or_default(), conf.cni_version)?,
        })
    }
}

/// Returns the range sets of a configuration, without those of `runtimeConfig`.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`].
pub(crate) fn sets_of(conf: &NetConf) -> Result<Vec<RangeSet>, Error> {
    sets(section(ipam_keys(conf)?, "ipam")?, Vec::new(), conf.cni_version)
}

/// Whether requested addresses may be outside of the ranges, for the tools of operators.
pub(crate) fn allows_outside_range(conf: &NetConf) -> bool {
    is_true(conf, "allowOutsideRange")
}

/// Returns the directory of all networks. DEL and GC read no other key, so that other invalid keys
/// do not prevent a release.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`].
pub(crate) fn data_dir(conf: &NetConf) -> Result<PathBuf, Error> {
    match any_case::get(ipam_keys(conf)?, "dataDir") {
        None | Some(Value::Null) => Ok(DATA_DIR.into()),
        Some(Value::String(path)) if path.is_empty() => Ok(DATA_DIR.into()),
        Some(Value::String(path)) => check_path("ipam.dataDir", path).map(|()| path.into()),
        Some(other) => Err(invalid(format!("ipam.dataDir: {other} is not a path"))),
    }
}

/// Returns the directory for DEL. An invalid `dataDir` counts as missing, since no ADD has used it.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if there is no `ipam`.
pub(crate) fn data_dir_of_del(conf: &NetConf) -> Result<PathBuf, Error> {
    ipam_keys(conf).map(|_| data_dir(conf).unwrap_or_else(|_| DATA_DIR.into()))
}

/// Whether `reclaimAfterReboot` is set. As with `dataDir`, other invalid keys do not matter.
pub(crate) fn reclaims_after_reboot(conf: &NetConf) -> bool {
    is_true(conf, "reclaimAfterReboot")
}

fn is_true(conf: &NetConf, key: &str) -> bool {
    ipam_keys(conf).is_ok_and(|keys| any_case::get(keys, key) == Some(&Value::Bool(true)))
}

/// Returns the range sets: those of the runtime, the single range of old configurations, `ranges`.
fn sets(
    keys: Keys,
    of_runtime: Vec<Vec<IpRange>>,
    version: SpecVersion,
) -> Result<Vec<RangeSet>, Error> {
    let Keys { subnet, range_start, range_end, gateway, ranges, .. } = keys;
    let single = subnet.map(|subnet| vec![IpRange { subnet, range_start, range_end, gateway }]);
    let single = single.into_iter().map(|set| ("ipam".to_owned(), set, true));
    let at = |key: &str, sets: Vec<Vec<IpRange>>| {
        let key = key.to_owned();
        let sets = sets.into_iter().enumerate();
        sets.map(move |(i, set)| (format!("{key}[{i}]"), set, false))
    };
    let of_runtime = at("runtimeConfig.ipRanges", of_runtime);
    let sets = of_runtime.chain(single).chain(at("ipam.ranges", ranges.unwrap_or_default()));
    let sets = sets
        .map(|(path, set, is_single)| {
            RangeSet::read(&set).map_err(|problem| {
                // The single range is not in lists.
                let problem = problem.strip_prefix("[0]").filter(|_| is_single).unwrap_or(&problem);
                invalid(format!("{path}{problem}"))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if sets.is_empty() {
        return Err(invalid("there are no IP ranges: set ipam.ranges".into()));
    }
    let v4 = sets.iter().filter(|set| set.is_v4()).count();
    if version.has_legacy_result() && (v4 > 1 || sets.len() - v4 > 1) {
        return Err(invalid(format!(
            "cniVersion {version} has room for one address per family: give one range set per \
             family, or use 0.3.0"
        )));
    }
    for (i, one) in sets.iter().enumerate() {
        if let Some(j) = sets[i + 1..].iter().position(|other| one.overlaps(other)) {
            return Err(invalid(format!(
                "range set {i} overlaps range set {}: {one} and {}",
                i + j + 1,
                sets[i + j + 1]
            )));
        }
    }
    Ok(sets)
}

/// Returns the requested addresses. As in the Go plugin, the three sources add up.
fn requested(call: &Call<'_>, of_runtime: Vec<String>) -> Result<Vec<Requested>, Error> {
    let cni_args = call.args.cni_args()?;
    cni_args.refuse_unknown(&["IP"])?;
    let of_variable = cni_args.get("IP").filter(|text| !text.is_empty()).map(str::to_owned);
    let of_args: ArgsCni = call
        .args
        .args_cni()
        .map_or_else(|| Ok(ArgsCni::default()), |cni| section(cni, "args.cni"))?;

    let mut requested: Vec<Requested> = Vec::new();
    for (source, texts) in [
        (Source::CniArgs, Vec::from_iter(of_variable)),
        (Source::Args, of_args.ips.unwrap_or_default()),
        (Source::RuntimeConfig, of_runtime),
    ] {
        for (i, text) in texts.iter().enumerate() {
            let address = read_requested(text).map_err(|problem| source.refuse_at(i, problem))?;
            if requested.iter().all(|other| other.address != address) {
                requested.push(Requested { address, source });
            }
        }
    }
    Ok(requested)
}

/// Parses `ADDRESS[/PREFIX]`. The prefix length is that of the range.
fn read_requested(text: &str) -> Result<IpAddr, String> {
    let address = match parse_net(text) {
        Ok(net) => Some(net.addr().to_canonical()),
        Err(error) if text.contains('/') => return Err(format!("{text:?} {error}")),
        Err(_) => read_address(text)
            .map_err(|problem| format!("{problem}; the form is ADDRESS[/PREFIX]"))?,
    };
    address.ok_or_else(|| "an address is empty".to_owned())
}

fn invalid(problem: String) -> Error {
    Error::InvalidNetworkConfig(problem)
}
