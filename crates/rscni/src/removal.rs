//! A tolerant reader of configurations for DEL, which must not fail because of a wrong key.

use serde_json::{Map, Value};

use crate::{any_case, conf::NetConf};

/// The keys of the protocol that DEL does not need.
const DISPENSABLE: [&str; 7] =
    ["capabilities", "runtimeConfig", "args", "ipMasq", "ipam", "dns", "prevResult"];

/// Reads a configuration and drops unreadable keys that DEL does not need; `None` if other keys are
/// unreadable too.
///
/// An unreadable `ipMasq` counts as true: the configuration may have changed since ADD, and
/// removing absent rules does no harm.
pub(crate) fn read(stdin: &[u8]) -> Option<NetConf> {
    let Ok(Value::Object(mut map)) = serde_json::from_slice(stdin) else { return None };
    for key in DISPENSABLE {
        let Some(value) = any_case::get(&map, key) else { continue };
        let mut alone = Map::new();
        alone.insert(key.to_owned(), value.clone());
        if NetConf::try_from(alone).is_ok() {
            continue;
        }
        while any_case::take(&mut map, key).is_some() {}
        if key == "ipMasq" {
            map.insert(key.into(), true.into());
        }
    }
    NetConf::try_from(map).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_json(conf: &Value) -> Option<NetConf> {
        read(conf.to_string().as_bytes())
    }

    #[test]
    fn unreadable_keys_are_dropped() {
        let conf = read_json(&json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0",
            "capabilities": [], "runtimeConfig": 1, "args": "x", "IPMASQ": "yes",
            "ipam": "host-local", "dns": { "nameservers": 1 }, "prevResult": { "ips": 5 },
        }))
        .unwrap();
        assert_eq!((conf.name.as_str(), conf.r#type.as_str()), ("net", "bridge"));
        assert_eq!(conf.ip_masq, Some(true));
        assert!(conf.ipam.is_none() && conf.dns.is_none() && conf.prev_result.is_none());
        assert_eq!(conf.to_json()["bridge"], "cni0");
    }

    #[test]
    fn readable_keys_are_kept() {
        let conf = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipMasq": 1,
            "ipam": { "type": "host-local" },
        });
        assert_eq!(read_json(&conf).unwrap().ipam_type(), Some("host-local"));
        assert!(read(b"[]").is_none());
        assert!(read_json(&json!({ "name": 5, "ipMasq": 1 })).is_none());
    }
}
