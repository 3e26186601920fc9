//! The configuration of bandwidth: rates and bursts, and of which subnets.

use ipnet::IpNet;
use rscni::{Error, NetConf, any_case};
use rscni_linux::tc::Tbf;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Failure, Result};

/// How long a packet waits at most, in milliseconds.
const LATENCY: u32 = 25;

/// The keys, in the configuration and in `runtimeConfig.bandwidth`. Rates are in bits per second, bursts in bits; 0 is
/// no limit. containerd writes those of `runtimeConfig` with capitals.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    ingress_rate: Option<u64>,
    ingress_burst: Option<u64>,
    egress_rate: Option<u64>,
    egress_burst: Option<u64>,
    unshaped_subnets: Option<Vec<String>>,
    shaped_subnets: Option<Vec<String>>,
}

impl Keys {
    fn limits(&self) -> [Option<u64>; 4] {
        [self.ingress_rate, self.ingress_burst, self.egress_rate, self.egress_burst]
    }
}

/// Which packets are limited, by the address of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subnets {
    All,
    /// Those of these subnets alone.
    Only(Vec<IpNet>),
    /// All but those of these subnets.
    Except(Vec<IpNet>),
}

/// A limit of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// In bytes per second.
    pub(super) rate: u64,
    /// In bytes.
    pub(super) burst: u32,
}

impl Limit {
    /// The token bucket that keeps to it.
    pub(super) fn bucket(self) -> Tbf {
        Tbf::new(self.rate, self.burst, LATENCY)
    }

    fn new(direction: &str, rate: u64, burst: u64) -> Result<Option<Self>> {
        let refuse = |text: String| Err(invalid(text));
        if rate == 0 && burst == 0 {
            return Ok(None);
        }
        if burst == 0 {
            return refuse(format!("{direction}Rate is set, so {direction}Burst must be set too"));
        }
        if rate == 0 {
            return refuse(format!("{direction}Burst is set, so {direction}Rate must be set too"));
        }
        let bytes = u32::try_from(burst / 8).ok().filter(|bytes| *bytes < u32::MAX);
        let Some(bytes) = bytes else {
            return refuse(format!(
                "{direction}Burst {burst} is too large: it must be less than 4 GiB, in bits"
            ));
        };
        let limit = Self { rate: rate / 8, burst: bytes };
        if limit.rate == 0 {
            return refuse(format!(
                "{direction}Rate {rate} is too small: it must be 8 bits per second or more"
            ));
        }
        if limit.bucket().buffer == 0 {
            return refuse(format!(
                "{direction}Burst {burst} is too small: at {direction}Rate {rate} it lasts less than a microsecond"
            ));
        }
        Ok(Some(limit))
    }
}

/// A validated configuration.
#[derive(Debug)]
pub(super) struct Config {
    /// Of what the container receives.
    pub(super) ingress: Option<Limit>,
    /// Of what it sends.
    pub(super) egress: Option<Limit>,
    pub(super) subnets: Subnets,
}

impl Config {
    /// Reads and validates the configuration of a call.
    ///
    /// The limits are those of the configuration if it has any, all four; else the runtime's. So are the subnets.
    pub(super) fn new(conf: &NetConf) -> Result<Self> {
        let own: Keys = conf.custom_as()?;
        let runtime: Keys = match any_case::get(&conf.runtime_config, "bandwidth") {
            None | Some(Value::Null) => Keys::default(),
            Some(given) => any_case::from_value(given.clone())
                .map_err(|error| invalid(format!("runtimeConfig.bandwidth: {error}")))?,
        };
        let has_limits = own.limits().iter().any(Option::is_some);
        let limits = if has_limits { own.limits() } else { runtime.limits() };
        let [ingress_rate, ingress_burst, egress_rate, egress_burst] =
            limits.map(Option::unwrap_or_default);
        let has_subnets = own.unshaped_subnets.is_some() || own.shaped_subnets.is_some();
        let lists = if has_subnets { own } else { runtime };
        let mut config = Self {
            ingress: Limit::new("ingress", ingress_rate, ingress_burst)?,
            egress: Limit::new("egress", egress_rate, egress_burst)?,
            subnets: Subnets::All,
        };
        if !config.is_empty() {
            config.subnets = subnets(lists)?;
        }
        Ok(config)
    }

    /// Whether it limits nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

fn subnets(keys: Keys) -> Result<Subnets> {
    let read = |key: &str, list: Option<Vec<String>>| -> Result<Vec<IpNet>> {
        let read_one = |text: String| match text.parse::<IpNet>() {
            Ok(net) => Ok(net.trunc()),
            Err(error) => Err(invalid(format!("{key}: {text:?} is no subnet: {error}"))),
        };
        list.unwrap_or_default().into_iter().map(read_one).collect()
    };
    let except = read("unshapedSubnets", keys.unshaped_subnets)?;
    let only = read("shapedSubnets", keys.shaped_subnets)?;
    match (except.is_empty(), only.is_empty()) {
        (true, true) => Ok(Subnets::All),
        (true, false) => Ok(Subnets::Only(only)),
        (false, true) => Ok(Subnets::Except(except)),
        (false, false) => {
            Err(invalid("unshapedSubnets and shapedSubnets exclude each other: set one of them"))
        }
    }
}

fn invalid(text: impl std::fmt::Display) -> Failure {
    Error::InvalidNetworkConfig(format!("bandwidth: {text}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn read(keys: &Value) -> Result<Config> {
        Config::new(&serde_json::from_value(keys.clone()).unwrap())
    }

    #[test]
    fn rates_and_bursts_are_in_bits_and_halves_of_one_direction() {
        let config = read(&json!({ "ingressRate": 8_000_000, "ingressBurst": 819_200 })).unwrap();
        assert_eq!(config.ingress, Some(Limit { rate: 1_000_000, burst: 102_400 }));
        assert_eq!((config.egress, &config.subnets), (None, &Subnets::All));
        // 25 ms more than the burst.
        assert_eq!(
            config.ingress.unwrap().bucket(),
            Tbf { rate: 1_000_000, buffer: 1_600_000, limit: 127_400 }
        );
        let config = read(&json!({ "egressRate": 8, "egressBurst": 8 })).unwrap();
        assert_eq!((config.ingress, config.egress), (None, Some(Limit { rate: 1, burst: 1 })));
    }

    #[test]
    fn limits_of_the_runtime_are_read_as_containerd_writes_them() {
        let given = json!({ "IngressRate": 8000, "IngressBurst": 4_294_967_295_u32, "EgressRate": 0, "EgressBurst": 0 });
        let config = read(&json!({ "runtimeConfig": { "bandwidth": given } })).unwrap();
        assert_eq!(
            (config.ingress, config.egress),
            (Some(Limit { rate: 1000, burst: 536_870_911 }), None)
        );
    }

    #[rstest]
    #[case(json!({}))]
    #[case(json!({ "ingressRate": 0, "ingressBurst": 0, "egressRate": 0, "egressBurst": null }))]
    #[case(json!({ "runtimeConfig": { "bandwidth": null } }))]
    #[case(json!({ "runtimeConfig": { "bandwidth": {} } }))]
    #[case(json!({ "egressRate": 0, "runtimeConfig": { "bandwidth": { "ingressRate": 8000, "ingressBurst": 8000 } } }))]
    #[case(json!({ "unshapedSubnets": ["nonsense"] }))]
    fn nothing_may_be_asked_for(#[case] keys: Value) {
        assert!(read(&keys).unwrap().is_empty());
    }

    #[rstest]
    #[case(json!({ "ingressRate": 8000 }), "ingressBurst must be set")]
    #[case(json!({ "ingressBurst": 8000 }), "ingressRate must be set")]
    #[case(json!({ "egressRate": 8000 }), "egressBurst must be set")]
    #[case(json!({ "egressBurst": 8000 }), "egressRate must be set")]
    #[case(json!({ "egressRate": 8000, "egressBurst": 34_359_738_360_u64 }), "too large")]
    #[case(json!({ "ingressRate": 7, "ingressBurst": 8000 }), "8 bits per second")]
    #[case(json!({ "ingressRate": 8, "ingressBurst": 7 }), "microsecond")]
    #[case(json!({ "ingressRate": 80_000_000_000_u64, "ingressBurst": 8000 }), "microsecond")]
    #[case(json!({ "ingressRate": -1 }), "-1")]
    #[case(json!({ "ingressRate": 1.5 }), "1.5")]
    #[case(json!({ "ingressRate": "8" }), "string")]
    #[case(json!({ "runtimeConfig": { "bandwidth": { "egressRate": 1 } } }), "egressBurst must be set")]
    #[case(json!({ "runtimeConfig": { "bandWidth": { "egressrate": 1 } } }), "egressBurst must be set")]
    #[case(json!({ "runtimeConfig": { "bandwidth": { "egressRate": "1" } } }), "runtimeConfig.bandwidth")]
    #[case(json!({ "runtimeConfig": { "bandwidth": [] , "x": 1 } , "egressRate": "1" }), "string")]
    #[case(json!({ "egressRate": 8000, "egressBurst": 8000, "shapedSubnets": ["10.0.0.0"] }), "10.0.0.0")]
    #[case(json!({ "egressRate": 8000, "egressBurst": 8000, "unshapedSubnets": ["::/129"] }), "::/129")]
    #[case(
        json!({ "egressRate": 8000, "egressBurst": 8000, "unshapedSubnets": ["::/0"], "shapedSubnets": ["::/0"] }),
        "exclude each other"
    )]
    fn what_cannot_be_is_refused_with_a_word_on_it(#[case] keys: Value, #[case] word: &str) {
        let error = Error::from(read(&keys).unwrap_err());
        assert_eq!(error.code(), 7, "{error}");
        assert!(error.details().contains(word), "{error}");
    }

    #[test]
    fn limits_are_the_runtimes_where_the_configuration_has_none() {
        let limits = json!({ "ingressRate": 8000, "ingressBurst": 8000, "egressRate": 16000, "egressBurst": 16000 });
        let config = read(&json!({
            "shapedSubnets": ["10.1.2.3/8", "fd00::/8"], "runtimeConfig": { "bandwidth": limits }
        }))
        .unwrap();
        assert_eq!(config.ingress, Some(Limit { rate: 1000, burst: 1000 }));
        assert_eq!(config.egress, Some(Limit { rate: 2000, burst: 2000 }));
        let subnets = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        assert_eq!(config.subnets, Subnets::Only(subnets.into()));
        let mut runtime = limits;
        runtime["unshapedSubnets"] = json!(["10.0.0.0/8"]);
        let own = json!({ "ingressRate": 80, "ingressBurst": 80, "runtimeConfig": { "bandwidth": runtime } });
        let config = read(&own).unwrap();
        assert_eq!((config.ingress, config.egress), (Some(Limit { rate: 10, burst: 10 }), None));
        assert_eq!(config.subnets, Subnets::Except(vec!["10.0.0.0/8".parse().unwrap()]));
    }
}
