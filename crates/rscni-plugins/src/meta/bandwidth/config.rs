//! The configuration of bandwidth: rates, bursts and subnets.

use ipnet::IpNet;
use rscni::{NetConf, address::parse_net, any_case};
use rscni_linux::tc::{self, Tbf};
use serde::Deserialize;
use serde_json::Value;

use crate::plugin::{Result, invalid};

/// The maximum time in the queue, in milliseconds.
const LATENCY: u32 = 25;
/// The largest packet from a sender: 64 KiB, with the headers of its segments.
const LARGEST_PACKET: u32 = 72 * 1024;
/// The length that a queue may have at any rate, in bytes: some packets of 1500 bytes, or one of
/// 9000.
const SHORTEST_QUEUE: u32 = 10_000;
/// The headers of Ethernet and VLAN, which the MTU excludes.
const LINK_HEADER: u32 = 18;

/// The path of the runtime's keys.
const RUNTIME: &str = "runtimeConfig.bandwidth";

/// The keys, in the configuration and in `runtimeConfig.bandwidth`. Rates are in bits per second,
/// bursts in bits; 0 means no limit. containerd capitalizes those of `runtimeConfig`.
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

/// The packets to limit, by their remote address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subnets {
    All,
    Only(Vec<IpNet>),
    Except(Vec<IpNet>),
}

/// The limit of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// In bytes per second.
    pub(super) rate: u64,
    /// In bytes.
    pub(super) burst: u32,
}

impl Limit {
    /// Returns the token bucket for a link of this MTU.
    ///
    /// Rate, burst and limit are those of the Go plugin, whose CHECK compares them. The limit
    /// contains the burst, so the queue of the bucket has a limit of its own,
    /// [`queue`](Self::queue).
    pub(super) fn bucket(self, mtu: u32) -> Tbf {
        let queue = self.queue(mtu);
        // A packet larger than the queue would be dropped even if the queue is empty.
        let largest = (queue < self.burst.min(LARGEST_PACKET)).then_some(queue);
        let limit = wrapped(self.waiting()).wrapping_add(self.burst);
        Tbf { limit, largest, ..Tbf::new(self.rate, self.burst, LATENCY) }
    }

    /// Returns the length of the queue in front of the bucket, in bytes.
    pub(super) fn queue(self, mtu: u32) -> u32 {
        // The bucket splits packets larger than the burst.
        self.waiting_bytes().max(shortest_queue(mtu).min(self.burst))
    }

    /// Whether the queue that the kernel creates for the bucket would be too long.
    pub(super) fn needs_queue(self, mtu: u32) -> bool {
        self.bucket(mtu).limit > self.queue(mtu).max(shortest_queue(mtu))
    }

    /// Returns the length of a queue whose packets cannot be split, in bytes.
    pub(super) fn unsplit_queue(self) -> u32 {
        self.waiting_bytes().max(LARGEST_PACKET)
    }

    /// Returns the bytes that the rate passes within the latency.
    fn waiting(self) -> u128 {
        u128::from(self.rate) * u128::from(LATENCY) / 1000
    }

    fn waiting_bytes(self) -> u32 {
        u32::try_from(self.waiting()).unwrap_or(u32::MAX)
    }

    /// Whether a bucket has this limit, whichever implementation created it.
    pub(super) fn is_kept_by(self, found: &Tbf) -> bool {
        let limits = [self.bucket(0).limit, Tbf::new(self.rate, self.burst, LATENCY).limit];
        found.rate == self.rate && limits.contains(&found.limit) && self.has_buffer(found.buffer)
    }

    /// Whether the kernel reports this burst as `buffer` ticks.
    ///
    /// The Go plugin computes with 32 bits, first microseconds, then ticks. Larger values lose
    /// their top bits (amd64) or become the maximum (arm64). Earlier releases of this plugin had a
    /// maximum of 2^32 ns.
    pub(super) fn has_buffer(self, buffer: u32) -> bool {
        let ticks = tc::ticks(self.rate, self.burst);
        let microseconds = u128::from(self.burst) * 1_000_000 / u128::from(self.rate);
        let go = [
            wrapped(u128::from(wrapped(microseconds)) * 1000 / 64),
            u32::try_from(microseconds.min(u32::MAX.into()) * 1000 / 64).unwrap_or(u32::MAX),
        ];
        let earlier = u32::try_from(ticks).unwrap_or(u32::MAX).min(u32::MAX / 64);
        if go.contains(&buffer) || buffer == earlier {
            return true;
        }
        // The kernel computes the ticks of a burst in bytes from a rate that it keeps with 32 bits.
        let error = u32::try_from(ticks >> 30).unwrap_or(u32::MAX).saturating_add(16);
        let distance = buffer.wrapping_sub(wrapped(ticks.into()));
        u32::try_from(ticks).is_err() && distance.min(distance.wrapping_neg()) <= error
    }

    fn new(direction: &str, rate: u64, burst: u64) -> Result<Option<Self>> {
        let refuse = |text: String| Err(invalid("bandwidth", text));
        if rate == 0 && burst == 0 {
            return Ok(None);
        }
        if burst == 0 {
            return refuse(format!(
                "{direction}Rate is {rate}, so {direction}Burst must be set too"
            ));
        }
        if rate == 0 {
            return refuse(format!(
                "{direction}Burst is {burst}, so {direction}Rate must be set too"
            ));
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
        if tc::ticks(limit.rate, limit.burst) == 0 {
            return refuse(format!(
                "{direction}Burst {burst} is too small: at {direction}Rate {rate} it lasts less \
                 than a microsecond"
            ));
        }
        Ok(Some(limit))
    }
}

/// Returns the number modulo 2^32.
#[allow(clippy::cast_possible_truncation, reason = "as the kernel and the Go plugin compute")]
fn wrapped(number: u128) -> u32 {
    number as u32
}

/// A validated configuration.
#[derive(Debug)]
pub(super) struct Config {
    /// The limit of traffic to the container.
    pub(super) ingress: Option<Limit>,
    /// The limit of traffic from the container.
    pub(super) egress: Option<Limit>,
    pub(super) subnets: Subnets,
}

impl Config {
    /// Reads and validates the configuration of a call.
    ///
    /// The limits are those of the configuration if it has any, otherwise the runtime's. The same
    /// applies to the subnets.
    pub(super) fn new(conf: &NetConf) -> Result<Self> {
        let own: Keys = conf.custom_as()?;
        let runtime: Keys = match any_case::get(&conf.runtime_config, "bandwidth") {
            None | Some(Value::Null) => Keys::default(),
            Some(given) => {
                any_case::value_at(given, RUNTIME).map_err(|error| error.context("bandwidth"))?
            }
        };
        let of_runtime = format!("{RUNTIME}.");
        let has_limits = own.limits().iter().any(Option::is_some);
        let limits = if has_limits { own.limits() } else { runtime.limits() };
        let place = if has_limits { "" } else { &of_runtime };
        let [ingress_rate, ingress_burst, egress_rate, egress_burst] =
            limits.map(Option::unwrap_or_default);
        let has_subnets = own.unshaped_subnets.is_some() || own.shaped_subnets.is_some();
        let lists = if has_subnets { own } else { runtime };
        let mut config = Self {
            ingress: Limit::new(&format!("{place}ingress"), ingress_rate, ingress_burst)?,
            egress: Limit::new(&format!("{place}egress"), egress_rate, egress_burst)?,
            subnets: Subnets::All,
        };
        if !config.is_empty() {
            config.subnets = subnets(lists, if has_subnets { "" } else { &of_runtime })?;
        }
        Ok(config)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

fn subnets(keys: Keys, place: &str) -> Result<Subnets> {
    let read = |key: &str, list: Option<Vec<String>>| -> Result<Vec<IpNet>> {
        let read_one = |(i, text): (usize, String)| match parse_net(&text) {
            Ok(net) => Ok(net.trunc()),
            Err(error) => Err(invalid("bandwidth", format!("{place}{key}[{i}]: {text:?} {error}"))),
        };
        list.unwrap_or_default().into_iter().enumerate().map(read_one).collect()
    };
    let except = read("unshapedSubnets", keys.unshaped_subnets)?;
    let only = read("shapedSubnets", keys.shaped_subnets)?;
    match (except.is_empty(), only.is_empty()) {
        (true, true) => Ok(Subnets::All),
        (true, false) => Ok(Subnets::Only(only)),
        (false, true) => Ok(Subnets::Except(except)),
        (false, false) => Err(invalid(
            "bandwidth",
            "unshapedSubnets and shapedSubnets exclude each other: set one of them",
        )),
    }
}

/// Returns the length that a queue may have at any rate, in bytes.
fn shortest_queue(mtu: u32) -> u32 {
    SHORTEST_QUEUE.max(mtu.saturating_add(LINK_HEADER))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn read(keys: &Value) -> Result<Config> {
        Config::new(&serde_json::from_value(keys.clone()).unwrap())
    }

    #[test]
    fn rates_and_bursts_are_in_bits_and_halves_of_one_direction() {
        let config = read(&json!({ "ingressRate": 8_000_000, "ingressBurst": 819_200 })).unwrap();
        assert_eq!(config.ingress, Some(Limit { rate: 1_000_000, burst: 102_400 }));
        assert_eq!((config.egress, &config.subnets), (None, &Subnets::All));
        let bucket = config.ingress.unwrap().bucket(1500);
        // 25 ms more than the burst, as in the Go plugin.
        assert_eq!((bucket.rate, bucket.buffer, bucket.limit), (1_000_000, 1_600_000, 127_400));
        assert_eq!((bucket.burst, bucket.largest), (None, Some(25_000)));
        let config = read(&json!({ "egressRate": 8, "egressBurst": 8 })).unwrap();
        assert_eq!((config.ingress, config.egress), (None, Some(Limit { rate: 1, burst: 1 })));
    }

    #[rstest]
    #[case::of_25_ms(1_250_000, u32::MAX / 8, 1500, 31_250, Some(31_250))]
    #[case::of_25_ms_with_a_small_burst(1_250_000, 100_000, 1500, 31_250, Some(31_250))]
    #[case::of_25_ms_at_a_high_rate(1_250_000_000, u32::MAX / 8, 1500, 31_250_000, None)]
    #[case::of_some_packets_at_a_low_rate(125_000, u32::MAX / 8, 1500, 10_000, Some(10_000))]
    #[case::of_one_large_packet(125_000, u32::MAX / 8, 65_520, 65_538, Some(65_538))]
    #[case::of_one_burst(125_000, 4000, 1500, 4000, None)]
    fn a_queue_is_25_ms_long_and_holds_a_packet(
        #[case] rate: u64,
        #[case] burst: u32,
        #[case] mtu: u32,
        #[case] queue: u32,
        #[case] largest: Option<u32>,
    ) {
        let limit = Limit { rate, burst };
        assert_eq!(limit.queue(mtu), queue);
        assert_eq!(limit.bucket(mtu).largest, largest);
    }

    #[rstest]
    // 10 s, 214 s, 429 s and 2147 s at the rate. The last two exceed 32 bits of ticks.
    #[case(1_250_000, 12_500_000, 156_250_000)]
    #[case(1_250_000, 268_435_455, 3_355_443_187)]
    #[case(1_250_000, 536_870_911, 2_415_919_079)]
    #[case(125_000, 268_435_455, 3_489_660_803)]
    // 21475 s, more than 32 bits of microseconds.
    #[case(12_500, 268_435_455, 2_684_353_310)]
    fn bursts_of_the_go_plugin_are_recognized(
        #[case] rate: u64,
        #[case] burst: u32,
        #[case] buffer: u32,
    ) {
        let limit = Limit { rate, burst };
        assert!(limit.has_buffer(buffer), "{:?}", limit.bucket(1500));
        assert!(limit.has_buffer(limit.bucket(1500).buffer));
        // The maximum of earlier releases was 2^32 ns.
        assert!(limit.has_buffer(u32::MAX / 64));
        assert!(!limit.has_buffer(buffer.wrapping_add(100_000_000)));
    }

    #[rstest]
    // As in the test cases of the Go plugin, whose `tbf` has no child.
    #[case(1, 1, false)]
    #[case(1000, 10, false)]
    #[case(100_000, 10_000, true)]
    #[case(1_250_000, 536_870_911, true)]
    fn the_bucket_gets_a_queue_if_its_own_is_too_long(
        #[case] rate: u64,
        #[case] burst: u32,
        #[case] needed: bool,
    ) {
        assert_eq!(Limit { rate, burst }.needs_queue(1500), needed);
    }

    #[test]
    fn limits_of_the_runtime_are_read_as_containerd_writes_them() {
        let given = json!({
            "IngressRate": 8000, "IngressBurst": 4_294_967_295_u32,
            "EgressRate": 0, "EgressBurst": 0
        });
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
    #[case(json!({
        "egressRate": 0,
        "runtimeConfig": { "bandwidth": { "ingressRate": 8000, "ingressBurst": 8000 } }
    }))]
    #[case(json!({ "unshapedSubnets": ["nonsense"] }))]
    fn nothing_may_be_asked_for(#[case] keys: Value) {
        assert!(read(&keys).unwrap().is_empty());
    }

    #[test]
    fn limits_of_the_runtime_apply_if_the_configuration_has_none() {
        let limits = json!({
            "ingressRate": 8000, "ingressBurst": 8000, "egressRate": 16000, "egressBurst": 16000
        });
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
        let own = json!({
            "ingressRate": 80, "ingressBurst": 80, "runtimeConfig": { "bandwidth": runtime }
        });
        let config = read(&own).unwrap();
        assert_eq!((config.ingress, config.egress), (Some(Limit { rate: 10, burst: 10 }), None));
        assert_eq!(config.subnets, Subnets::Except(vec!["10.0.0.0/8".parse().unwrap()]));
    }
}
