//! The configuration of host-local: the ranges, and the addresses that are asked for by name.

use crate::plugin::Call;
use std::{net::IpAddr, path::PathBuf};

use rscni::{
    Error, IpRange, NetConf, Route, SpecVersion, address::parse_net, any_case, name::check_path,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::range::{Range, RangeSet, read_address};

/// Where reservations are kept unless `dataDir` says otherwise.
pub(crate) const DATA_DIR: &str = "/var/lib/cni/networks";

/// What host-local is configured to do.
#[derive(Debug)]
pub(crate) struct Config {
    /// An attachment gets an address of each.
    pub(crate) sets: Vec<RangeSet>,
    pub(crate) routes: Vec<Route>,
    /// A file to take DNS settings from.
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) data_dir: PathBuf,
    /// Addresses that are asked for, each once.
    pub(crate) requested: Vec<Requested>,
    /// Whether those may be outside of `rangeStart` to `rangeEnd`, as long as they are in the
    /// subnet.
    pub(crate) allow_outside_range: bool,
}

/// An address that the caller asks for.
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

    /// The error that an entry of this source is at fault.
    fn refuse_at(self, place: usize, problem: impl std::fmt::Display) -> Error {
        let text = format!("{}[{place}]: {problem}", self.name());
        match self {
            Self::CniArgs => self.refuse(problem),
            Self::Args | Self::RuntimeConfig => Error::InvalidNetworkConfig(text),
        }
    }

    /// The error that this source is at fault.
    fn refuse(self, problem: impl std::fmt::Display) -> Error {
        let text = format!("{}: {problem}", self.name());
        if self == Self::CniArgs {
            Error::InvalidEnvValue(text)
        } else {
            Error::InvalidNetworkConfig(text)
        }
    }
}

impl Requested {
    /// The error that this address cannot be had, ever.
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
    /// The single range of old configurations: its keys stand in `ipam` itself.
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
    /// Whether an address is of one of the range sets.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.sets.iter().any(|set| self.range_in(set, address).is_some())
    }

    /// The range of a set that gives an address, if somebody asks for it.
    pub(crate) fn range_in<'a>(&self, set: &'a RangeSet, address: IpAddr) -> Option<&'a Range> {
        if self.allow_outside_range { set.range_around(address) } else { set.range_of(address) }
    }

    /// Reads and validates everything, which ADD, CHECK and STATUS do.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`], or [`Error::InvalidEnvValue`] where `CNI_ARGS` is at fault.
    pub(crate) fn read(call: &Call<'_>) -> Result<Self, Error> {
        let conf = call.conf;
        let keys: Keys = section(ipam(conf)?, "ipam")?;
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

/// The range sets of a configuration, without those that a runtime may add.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`].
pub(crate) fn sets_of(conf: &NetConf) -> Result<Vec<RangeSet>, Error> {
    sets(section(ipam(conf)?, "ipam")?, Vec::new(), conf.cni_version)
}

/// Whether addresses that are asked for may be outside of the ranges, for operators' tools.
pub(crate) fn allows_outside_range(conf: &NetConf) -> bool {
    ipam(conf)
        .is_ok_and(|ipam| any_case::get(ipam, "allowOutsideRange") == Some(&Value::Bool(true)))
}

/// Where the reservations are. DEL and GC need to know no more, so nothing else that may be wrong with the
/// configuration keeps them from releasing.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`].
pub(crate) fn data_dir(conf: &NetConf) -> Result<PathBuf, Error> {
    match any_case::get(ipam(conf)?, "dataDir") {
        None | Some(Value::Null) => Ok(DATA_DIR.into()),
        Some(Value::String(path)) if path.is_empty() => Ok(DATA_DIR.into()),
        Some(Value::String(path)) => check_path("ipam.dataDir", path).map(|()| path.into()),
        Some(other) => {
            Err(Error::InvalidNetworkConfig(format!("ipam.dataDir: {other} is not a path")))
        }
    }
}

/// Where DEL looks for reservations: a `dataDir` that is wrong counts as missing, since no ADD has
/// used it.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if there is no `ipam`.
pub(crate) fn data_dir_of_del(conf: &NetConf) -> Result<PathBuf, Error> {
    ipam(conf).map(|_| data_dir(conf).unwrap_or_else(|_| DATA_DIR.into()))
}

/// Whether reservations of an earlier boot are to be freed: `reclaimAfterReboot`. As with `dataDir`, nothing that is wrong
/// keeps DEL and GC from releasing.
pub(crate) fn reclaims_after_reboot(conf: &NetConf) -> bool {
    ipam(conf)
        .is_ok_and(|ipam| any_case::get(ipam, "reclaimAfterReboot") == Some(&Value::Bool(true)))
}

fn ipam(conf: &NetConf) -> Result<&Map<String, Value>, Error> {
    let ipam = conf
        .ipam
        .as_ref()
        .ok_or_else(|| Error::InvalidNetworkConfig("set \"ipam\": it is missing".into()))?;
    Ok(&ipam.custom)
}

fn section<T: DeserializeOwned>(part: &Map<String, Value>, name: &str) -> Result<T, Error> {
    any_case::section(part, name)
}

/// The range sets: those of the runtime first, then the single range of old configurations, then `ranges`.
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
                // The short form has no lists.
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
            "cniVersion {version} has room for one address per family: give one range set per family, or use 0.3.0"
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

/// The addresses that are asked for. As with the Go plugin the three places add up.
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

/// Reads `ADDRESS[/PREFIX]`. The prefix length that counts is that of the range.
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
