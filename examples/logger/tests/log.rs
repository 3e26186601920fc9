//! The log of the plugin.

use rscni_test::Versions;
use serde_json::json;

fn logger() -> Versions {
    Versions::of(env!("CARGO_BIN_EXE_logger")).key("nested", json!({ "zebra": 1, "ape": 2 }))
}

#[test]
fn all_versions_are_supported() {
    logger().speak();
}

#[test]
fn all_commands_log_the_variables_and_the_configuration() {
    let config = logger().config("1.1.0", None);
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let outcome =
            logger().call(command, &config).env("CNI_PATH", "/opt/cni/bin:/usr/lib/cni").run();
        outcome.success();
        assert_eq!(
            outcome.stderr(),
            format!(
                r#"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web
CNI_COMMAND={command}
CNI_CONTAINERID=c1
CNI_IFNAME=eth0
CNI_NETNS=/nowhere/netns
CNI_PATH=/opt/cni/bin:/usr/lib/cni
{{
  "cniVersion": "1.1.0",
  "name": "net",
  "type": "plugin",
  "nested": {{
    "zebra": 1,
    "ape": 2
  }}
}}
"#
            )
        );
    }
}
