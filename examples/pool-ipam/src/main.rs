//! An IPAM plugin that delegates: it selects the subnet by the namespace of the pod and lets
//! host-local allocate the address.
//!
//! ```json
//! "ipam": { "type": "pool-ipam", "pools": { "default": "10.1.0.0/24", "db": "10.2.0.0/24" } }
//! ```

use std::{collections::BTreeMap, process::ExitCode};

use rscni::{Args, CNIResult, Cni, Error, Ipam, K8sArgs, NetConf, Plugin, invoke::Delegate};
use serde::Deserialize;
use serde_json::json;

/// The pool of pods whose namespace has no pool of its own.
const DEFAULT: &str = "default";

/// The keys of `ipam`.
#[derive(Deserialize)]
struct PoolConf {
    pools: BTreeMap<String, rscni::IpNet>,
}

struct PoolIpam;

/// Returns host-local with a configuration of its own.
fn host_local(args: &Args) -> Result<Delegate<'_>, Error> {
    args.delegate("host-local").with_conf(&host_local_conf(args)?)
}

fn host_local_conf(args: &Args) -> Result<NetConf, Error> {
    let conf = args.conf()?;
    let PoolConf { pools } = conf.ipam_as()?;
    let pod: K8sArgs = args.cni_args_as()?;
    let namespace = pod.pod_namespace.as_deref().unwrap_or(DEFAULT);
    let pool = pools.get(namespace).or_else(|| pools.get(DEFAULT)).ok_or_else(|| {
        Error::InvalidNetworkConfig(format!(
            "ipam.pools: there is neither a pool {namespace:?} nor {DEFAULT:?}"
        ))
    })?;
    let mut custom = conf.ipam.clone().unwrap_or_default().custom;
    custom.remove("pools");
    custom.insert("ranges".into(), json!([[{ "subnet": pool }]]));
    let ipam = Ipam { r#type: "host-local".into(), custom };
    Ok(NetConf { ipam: Some(ipam), ..conf.clone() })
}

impl Cni for PoolIpam {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        host_local(&args)?.add()
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        host_local(&args)?.del()
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        host_local(&args)?.check()
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        host_local(&args)?.gc()
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        host_local(&args)?.status()
    }
}

fn main() -> ExitCode {
    Plugin::default().msg("CNI pool-ipam plugin v0.1.0").main(&PoolIpam)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rscni::{Reply, Request};
    use rscni_plugins::Linked;
    use serde_json::Value;

    use super::*;

    /// Calls the plugin, which calls host-local in this process.
    fn call(command: &str, id: &str, namespace: &str, config: &Value) -> Reply {
        let vars = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", "/run/netns/none"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/nowhere"),
            ("CNI_ARGS", &format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace}")),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.into())).into();
        let request = Request::new(vars, config.to_string().into_bytes()).with_exec(Linked);
        Plugin::default().reply(&PoolIpam, &request)
    }

    fn config(directory: &Path) -> Value {
        json!({ "cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": {
            "type": "pool-ipam",
            "dataDir": directory,
            "pools": { "default": "10.1.0.0/24", "db": "10.2.0.0/30" },
        } })
    }

    fn address(reply: &Reply) -> String {
        assert_eq!(reply.error, None);
        CNIResult::from_json(&reply.stdout).unwrap().ips[0].address.to_string()
    }

    #[test]
    fn the_namespace_selects_the_pool_and_del_releases_the_address() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        assert_eq!(address(&call("ADD", "a", "web", &config)), "10.1.0.2/24");
        assert_eq!(address(&call("ADD", "b", "db", &config)), "10.2.0.2/30");

        let full = call("ADD", "c", "db", &config).error.unwrap();
        assert_eq!(full.plugin(), Some("host-local"));
        assert_eq!(call("DEL", "b", "db", &config), Reply::default());
        assert_eq!(address(&call("ADD", "c", "db", &config)), "10.2.0.2/30");
    }

    #[test]
    fn a_missing_pool_is_named() {
        let mut config = config(&tempfile::tempdir().unwrap().keep());
        config["ipam"]["pools"] = json!({ "db": "10.2.0.0/30" });
        let error = call("ADD", "a", "web", &config).error.unwrap();
        assert_eq!(error.code(), 7);
        assert!(error.details().contains("\"web\""), "{error}");
    }
}
