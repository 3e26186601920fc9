//! static: returns the addresses in the configuration, and stores nothing.
//!
//! The configuration must name free addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni::{
    CNIResult, Dns, Error, IpConfig, Route,
    address::{parse_address, parse_net},
    any_case::section,
};
use serde::Deserialize;

use super::ipam_keys;
use crate::plugin::{Call, Commands, Facts, IpamOrder, Plugin, differs, error};

pub(crate) const STATIC: Plugin = Plugin {
    name: "static",
    about: "assigns the addresses in the configuration",
    commands: Commands {
        add,
        del: |_| Ok(()),
        check,
        gc: |_| Ok(()),
        status: |call| Ok(Config::read(call).map(drop)?),
    },
    facts: Facts { ipam: Some(IpamOrder::AfterLink), ..Facts::NONE },
};

fn add(call: &Call<'_>) -> error::Result<CNIResult> {
    let Config { ips, routes, dns } = Config::read(call)?;
    Ok(CNIResult { ips, routes, dns, ..CNIResult::default() })
}

/// A validated configuration.
#[derive(Debug)]
struct Config {
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Option<Dns>,
}

/// The keys of `ipam`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    addresses: Option<Vec<Address>>,
    routes: Option<Vec<Route>>,
    dns: Option<Dns>,
}

#[derive(Debug, Deserialize)]
struct Address {
    address: String,
    gateway: Option<String>,
}

/// The addresses of the runtime, in `args.cni` and in `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeKeys {
    ips: Option<Vec<String>>,
}

impl Config {
    fn read(call: &Call<'_>) -> Result<Self, Error> {
        let keys: Keys = section(ipam_keys(call.conf)?, "ipam")?;
        let ips = addresses(call, &keys.addresses.unwrap_or_default())?;
        let v4 = ips.iter().filter(|ip| ip.address.addr().is_ipv4()).count();
        let version = call.conf.cni_version;
        if version.has_legacy_result() && (v4 > 1 || ips.len() - v4 > 1) {
            return Err(Error::InvalidNetworkConfig(format!(
                "cniVersion {version} has room for one address per family: give one of each, or \
                 use 0.3.0"
            )));
        }
        Ok(Self {
            ips,
            routes: keys.routes.unwrap_or_default(),
            dns: keys.dns.filter(|dns| !dns.is_empty()),
        })
    }
}

/// Returns the addresses of the first source that has any: `runtimeConfig.ips`, `args.cni.ips`, or
/// the configuration followed by `CNI_ARGS`.
fn addresses(call: &Call<'_>, configured: &[Address]) -> Result<Vec<IpConfig>, Error> {
    let from_cni_args = from_cni_args(call)?;
    let args: RuntimeKeys = call
        .conf
        .args_cni()
        .map_or_else(|| Ok(RuntimeKeys::default()), |cni| section(cni, "args.cni"))?;
    let runtime: RuntimeKeys = section(&call.conf.runtime_config, "runtimeConfig")?;
    let invalid = |path: String| {
        move |problem: String| Error::InvalidNetworkConfig(format!("{path}: {problem}"))
    };
    for (source, keys) in [("runtimeConfig.ips", runtime), ("args.cni.ips", args)] {
        let texts = keys.ips.unwrap_or_default();
        if !texts.is_empty() {
            let read = |(i, text): (usize, &String)| {
                read_net(text).map(IpConfig::new).map_err(invalid(format!("{source}[{i}]")))
            };
            return texts.iter().enumerate().map(read).collect();
        }
    }
    let configured = configured.iter().enumerate().map(|(i, Address { address, gateway })| {
        let at = |key: &str| invalid(format!("ipam.addresses[{i}].{key}"));
        Ok(IpConfig {
            gateway: gateway
                .as_deref()
                .filter(|text| !text.is_empty())
                .map(|text| read_address(text).map_err(at("gateway")))
                .transpose()?,
            ..IpConfig::new(read_net(address).map_err(at("address"))?)
        })
    });
    let mut ips = configured.collect::<Result<Vec<_>, Error>>()?;
    ips.extend(from_cni_args);
    Ok(ips)
}

/// Returns the addresses of `IP` in `CNI_ARGS`, each with the address of `GATEWAY` in its subnet.
fn from_cni_args(call: &Call<'_>) -> Result<Vec<IpConfig>, Error> {
    let cni_args = call.args.cni_args()?;
    cni_args.refuse_unknown(&["IP", "GATEWAY"])?;
    let items = |key| {
        let text = cni_args.get(key).unwrap_or_default();
        text.split(',').map(str::trim).filter(move |_| !text.is_empty())
    };
    let refuse = |key| move |problem| Error::InvalidEnvValue(format!("CNI_ARGS: {key}: {problem}"));
    let mut ips = items("IP")
        .map(|text| read_net(text).map(IpConfig::new))
        .collect::<Result<Vec<_>, _>>()
        .map_err(refuse("IP"))?;
    for text in items("GATEWAY") {
        let gateway = read_address(text).map_err(refuse("GATEWAY"))?;
        for ip in ips.iter_mut().filter(|ip| ip.address.contains(&gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(ips)
}

/// Checks that the result of ADD has every configured address with its gateway.
fn check(call: &Call<'_>) -> error::Result<()> {
    let config = Config::read(call)?;
    let own = call.own(call.checked_result()?);
    for ip in &config.ips {
        let address = ip.address.addr();
        let what = match own.ips().find(|other| other.address.addr() == address) {
            None => format!("{address} is not in prevResult"),
            Some(found) if ip.gateway.is_some() && ip.gateway != found.gateway => {
                format!("the gateway of {address} is not that of prevResult")
            }
            Some(_) => continue,
        };
        return Err(differs(format!(
            "{}: {what}: add it again, or restore the configuration that it was added with",
            call.args.ifname
        )));
    }
    Ok(())
}

/// Parses `ADDRESS/PREFIX`. An IPv4-mapped IPv6 address becomes IPv4.
fn read_net(text: &str) -> Result<IpNet, String> {
    let net = parse_net(text).map_err(|error| format!("{text:?} {error}"))?;
    let canonical = match net.addr().to_canonical() {
        address if address == net.addr() => Some(net),
        address => net.prefix_len().checked_sub(96).and_then(|len| IpNet::new(address, len).ok()),
    };
    canonical.ok_or_else(|| format!("{text:?} is IPv4 mapped into IPv6: write it as IPv4"))
}

fn read_address(text: &str) -> Result<IpAddr, String> {
    parse_address(text)
        .map(|address| address.to_canonical())
        .map_err(|error| format!("{text:?} {error}"))
}
