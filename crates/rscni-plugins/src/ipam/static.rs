//! static: gives the addresses that the configuration names, and keeps nothing.
//!
//! Whether an address is free is for whoever configures it to know.

use crate::plugin::Call;
use std::net::IpAddr;

use ipnet::IpNet;
use rscni::{
    CNIResult, Dns, Error, IpConfig, Route,
    address::{parse_address, parse_net},
    any_case::section,
};
use serde::Deserialize;

use crate::plugin::{Commands, Plugin, call::IpamOrder, error::differs, facts::Facts};

/// The plugin.
pub(crate) const STATIC: Plugin = Plugin {
    name: "static",
    about: "assigns the addresses in the configuration",
    commands: Commands {
        add: |call| Ok(add(call)?),
        del: |_| Ok(()),
        check: |call| Ok(check(call)?),
        gc: |_| Ok(()),
        status: |call| Ok(Config::read(call).map(drop)?),
    },
    facts: Facts { ipam: Some(IpamOrder::AfterLink), ..Facts::NONE },
};

fn add(call: &Call<'_>) -> Result<CNIResult, Error> {
    let config = Config::read(call)?;
    Ok(CNIResult {
        ips: config.ips,
        routes: config.routes,
        dns: config.dns,
        ..CNIResult::default()
    })
}

/// What an ADD with this configuration gives.
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

/// A list of addresses from the runtime, in `args.cni` and in `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Listed {
    ips: Option<Vec<String>>,
}

impl Config {
    fn read(call: &Call<'_>) -> Result<Self, Error> {
        let conf = call.conf;
        let ipam = conf
            .ipam
            .as_ref()
            .ok_or_else(|| Error::InvalidNetworkConfig("set \"ipam\": it is missing".into()))?;
        let keys: Keys = section(&ipam.custom, "ipam")?;
        let ips = addresses(call, &keys.addresses.unwrap_or_default())?;
        let v4 = ips.iter().filter(|ip| ip.address.addr().is_ipv4()).count();
        if conf.cni_version.has_legacy_result() && (v4 > 1 || ips.len() - v4 > 1) {
            return Err(Error::InvalidNetworkConfig(format!(
                "cniVersion {} has room for one address per family: give one of each, or use 0.3.0",
                conf.cni_version
            )));
        }
        Ok(Self {
            ips,
            routes: keys.routes.unwrap_or_default(),
            dns: keys.dns.filter(|dns| !dns.is_empty()),
        })
    }
}

/// The addresses to give. `runtimeConfig.ips` replaces all others, and `args.cni.ips` all but those; the ones of
/// `CNI_ARGS` come after the configured ones.
fn addresses(call: &Call<'_>, configured: &[Address]) -> Result<Vec<IpConfig>, Error> {
    let conf = call.conf;
    let of_variables = of_variables(call)?;
    let of_args: Listed =
        conf.args_cni().map_or_else(|| Ok(Listed::default()), |cni| section(cni, "args.cni"))?;
    let of_runtime: Listed = section(&conf.runtime_config, "runtimeConfig")?;
    let invalid = |path: String| {
        move |problem: String| Error::InvalidNetworkConfig(format!("{path}: {problem}"))
    };
    for (source, listed) in [("runtimeConfig.ips", of_runtime), ("args.cni.ips", of_args)] {
        let texts = listed.ips.unwrap_or_default();
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
    ips.extend(of_variables);
    Ok(ips)
}

/// The addresses that `CNI_ARGS` has in `IP`, each with the one in `GATEWAY` that is in its subnet.
fn of_variables(call: &Call<'_>) -> Result<Vec<IpConfig>, Error> {
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

/// Finds every configured address in the result of the ADD, with its gateway if it has one.
fn check(call: &Call<'_>) -> Result<(), Error> {
    let config = Config::read(call)?;
    let own = call.own(call.checked_result()?);
    for ip in &config.ips {
        let address = ip.address.addr();
        let Some(found) = own.ips().find(|other| other.address.addr() == address) else {
            return Err(mismatch(call, &format!("{address} is not in prevResult")));
        };
        if ip.gateway.is_some() && ip.gateway != found.gateway {
            return Err(mismatch(
                call,
                &format!("the gateway of {address} is not that of prevResult"),
            ));
        }
    }
    Ok(())
}

fn mismatch(call: &Call<'_>, what: &str) -> Error {
    differs(format!(
        "{}: {what}: add it again, or restore the configuration that it was added with",
        call.args.ifname
    ))
    .into()
}

/// Reads `ADDRESS/PREFIX`; an IPv4 address mapped into IPv6 is IPv4.
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
