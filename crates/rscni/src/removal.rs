//! Reading a configuration for DEL, which a wrong key must not stop.

use serde_json::{Map, Value};

use crate::{any_case, conf::NetConf};

/// The keys of the protocol that DEL can do without.
const DISPENSABLE: [&str; 7] =
    ["capabilities", "runtimeConfig", "args", "ipMasq", "ipam", "dns", "prevResult"];

/// Reads a configuration without the keys of the protocol that cannot be read.
///
/// The configuration may have changed since ADD, so an `ipMasq` that cannot be read counts as set:
/// what is not there need not be removed. `None` if the rest cannot be read either.
pub(crate) fn read(stdin: &[u8]) -> Option<NetConf> {
    let mut map: Map<String, Value> = serde_json::from_slice(stdin).ok()?;
    for key in DISPENSABLE {
        let Some(value) = any_case::get(&map, key) else { continue };
        let alone = Map::from_iter([(key.to_owned(), value.clone())]);
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
    fn keys_that_cannot_be_read_are_left_out() {
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
    fn the_other_keys_stay() {
        let conf = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipMasq": 1,
            "ipam": { "type": "host-local" },
        });
        assert_eq!(read_json(&conf).unwrap().ipam_type(), Some("host-local"));
        assert!(read(b"[]").is_none());
        assert!(read_json(&json!({ "name": 5, "ipMasq": 1 })).is_none());
    }
}
