//! The summary that `rscni add` prints on a terminal: the result and the time of each plugin.

use std::{fmt::Write as _, time::Duration};

use rscni::{CNIResult, runtime::AttachmentParams};

use crate::{
    network::TimedCall,
    output::Style,
    table::{columns, printable},
};

/// Formats the attachment of `netns`, as spelled on the command line, to `network`.
pub(crate) fn summary(
    netns: &str,
    network: &str,
    params: &AttachmentParams,
    result: &CNIResult,
    calls: &[TimedCall],
    style: Style,
) -> String {
    let mut text = format!(
        "{} is attached to {} as {}\n",
        printable(netns),
        style.bold(network),
        style.bold(&params.ifname)
    );
    let sections = [
        ("container", vec![params.container_id.clone()]),
        ("interfaces", columns(&interfaces(params, result))),
        ("addresses", columns(&addresses(result))),
        ("routes", columns(&routes(result))),
        ("dns", dns(result)),
        ("plugins", columns(&times(calls))),
    ];
    for (title, lines) in sections {
        for (index, line) in lines.iter().enumerate() {
            let title = if index == 0 { title } else { "" };
            // Padded before it is bold, since escape sequences have no width.
            let _ = writeln!(text, "  {}  {line}", style.bold(&format!("{title:10}")));
        }
    }
    text
}

fn interfaces(params: &AttachmentParams, result: &CNIResult) -> Vec<[String; 4]> {
    let row = |interface: &rscni::Interface| {
        let location = match &interface.sandbox {
            None => "on the host".to_owned(),
            Some(path)
                if params
                    .netns
                    .as_deref()
                    .is_some_and(|netns| netns.as_os_str() == path.as_str()) =>
            {
                "in the container".to_owned()
            }
            Some(path) => format!("in {}", printable(path)),
        };
        let mtu = interface.mtu.map_or_else(String::new, |mtu| format!("mtu {mtu}"));
        [
            printable(&interface.name),
            location,
            printable(interface.mac.as_deref().unwrap_or_default()),
            mtu,
        ]
    };
    result.interfaces.iter().map(row).collect()
}

fn addresses(result: &CNIResult) -> Vec<[String; 3]> {
    let row = |ip: &rscni::IpConfig| {
        let interface =
            ip.interface.and_then(|index| result.interfaces.get(usize::try_from(index).ok()?));
        [
            ip.address.to_string(),
            ip.gateway.map_or_else(String::new, |gateway| format!("gateway {gateway}")),
            interface
                .map_or_else(String::new, |interface| format!("on {}", printable(&interface.name))),
        ]
    };
    result.ips.iter().map(row).collect()
}

fn routes(result: &CNIResult) -> Vec<[String; 3]> {
    let row = |route: &rscni::Route| {
        let numbers = [
            ("mtu", route.mtu),
            ("advmss", route.advmss),
            ("priority", route.priority),
            ("table", route.table),
            ("scope", route.scope.map(u32::from)),
        ];
        let set =
            numbers.iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}")));
        [
            route.dst.to_string(),
            route.gw.map_or_else(String::new, |gateway| format!("via {gateway}")),
            set.collect::<Vec<_>>().join(" "),
        ]
    };
    result.routes.iter().map(row).collect()
}

fn dns(result: &CNIResult) -> Vec<String> {
    let Some(dns) = &result.dns else { return Vec::new() };
    let domain: Vec<_> = dns.domain.iter().cloned().collect();
    let lists = [
        ("servers", &dns.nameservers),
        ("domain", &domain),
        ("search", &dns.search),
        ("options", &dns.options),
    ];
    let rows: Vec<_> = lists
        .iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| [(*name).to_owned(), printable(&values.join(" "))])
        .collect();
    columns(&rows)
}

fn times(calls: &[TimedCall]) -> Vec<[String; 2]> {
    let mut rows: Vec<_> =
        calls.iter().map(|call| [printable(&call.plugin), milliseconds(call.time)]).collect();
    if rows.len() > 1 {
        rows.push(["total".into(), milliseconds(calls.iter().map(|call| call.time).sum())]);
    }
    rows
}

/// Formats a time, right-aligned below 100 seconds.
fn milliseconds(time: Duration) -> String {
    format!("{:>6.1} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(plugin: &str, micros: u64) -> TimedCall {
        TimedCall { plugin: plugin.into(), time: Duration::from_micros(micros) }
    }

    #[test]
    fn summary_shows_every_part_of_the_result() {
        let result: CNIResult = serde_json::from_value(json!({
            "interfaces": [
                { "name": "cni0", "mac": "aa:00:00:00:00:01", "mtu": 1500 },
                { "name": "eth0", "sandbox": "/run/netns/a" },
                { "name": "tap\u{1b}", "sandbox": "/proc/7/ns/net" },
            ],
            "ips": [
                { "address": "10.1.0.2/16", "gateway": "10.1.0.1", "interface": 1 },
                { "address": "fd00::2/64", "interface": 9 },
            ],
            "routes": [
                { "dst": "0.0.0.0/0" },
                { "dst": "10.0.0.0/8", "gw": "10.1.0.9", "mtu": 1400, "scope": 253 },
            ],
            "dns": { "nameservers": ["10.1.0.1", "fd00::1"], "domain": "local" },
        }))
        .unwrap();
        let params = AttachmentParams::new("box", "/run/netns/a", "eth0");
        let calls = [call("bridge", 12_340), call("portmap", 800)];
        let text = summary("a", "net", &params, &result, &calls, Style::default());
        assert_eq!(
            text,
            "\
a is attached to net as eth0
  container   box
  interfaces  cni0       on the host        aa:00:00:00:00:01  mtu 1500
              eth0       in the container
              tap\\u{1b}  in /proc/7/ns/net
  addresses   10.1.0.2/16  gateway 10.1.0.1  on eth0
              fd00::2/64
  routes      0.0.0.0/0
              10.0.0.0/8  via 10.1.0.9  mtu 1400 scope 253
  dns         servers  10.1.0.1 fd00::1
              domain   local
  plugins     bridge     12.3 ms
              portmap     0.8 ms
              total      13.1 ms
"
        );
    }

    #[test]
    fn summary_omits_missing_parts_and_prints_bold_titles() {
        let params = AttachmentParams::new("box", "/run/netns/a", "eth0");
        let text = summary(
            "a",
            "net",
            &params,
            &CNIResult::default(),
            &[call("noop", 1500)],
            Style { bold: true },
        );
        assert_eq!(
            text,
            "a is attached to \u{1b}[1mnet\u{1b}[0m as \u{1b}[1meth0\u{1b}[0m\n  \
             \u{1b}[1mcontainer \u{1b}[0m  box\n  \u{1b}[1mplugins   \u{1b}[0m  noop     1.5 ms\n"
        );
    }
}
