//! The options that the configuration sends and requests, by name or number.

use rscni::{CniArgs, Error};
use serde::{Deserialize, Serialize};

use super::message::code;

/// Names of options (dhcp-options(5)): those of the Go plugin, and those that take effect here.
const NAMES: [(&str, u8); 12] = [
    ("dhcp-client-identifier", code::CLIENT_IDENTIFIER),
    ("subnet-mask", code::SUBNET_MASK),
    ("routers", code::ROUTERS),
    ("host-name", code::HOST_NAME),
    ("user-class", code::USER_CLASS),
    ("vendor-class-identifier", code::VENDOR_CLASS),
    ("domain-name-servers", code::DOMAIN_NAME_SERVERS),
    ("domain-name", code::DOMAIN_NAME),
    ("domain-search", code::DOMAIN_SEARCH),
    ("static-routes", code::STATIC_ROUTES),
    ("rfc3442-classless-static-routes", code::CLASSLESS_ROUTES),
    ("dhcp-lease-time", code::LEASE_TIME),
];

/// Options that are requested unless `skipDefault` is set.
const DEFAULT: [u8; 2] = [code::ROUTERS, code::SUBNET_MASK];

/// Length of the longest value.
const LONGEST: usize = 255;

/// An entry of the key `provide`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Provide {
    option: String,
    value: String,
    from_arg: String,
}

/// An entry of the key `request`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Request {
    skip_default: bool,
    option: String,
}

/// Options of a client, in the request to the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientOptions {
    /// Options to send, by number.
    pub(crate) provide: Vec<(u8, Vec<u8>)>,
    pub(crate) request: Vec<u8>,
}

impl ClientOptions {
    /// Reads a configuration. The `CNI_ARGS` variable in `fromArg` takes precedence over `value`.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] for an unknown name, an invalid number, an option that the
    /// protocol itself uses, or a value that is too long.
    pub(crate) fn new(
        provide: &[Provide],
        request: &[Request],
        variables: &CniArgs,
    ) -> Result<Self, Error> {
        let mut options = Self::default();
        for (i, entry) in provide.iter().enumerate() {
            let path = format!("provide[{i}]");
            let code =
                number(&entry.option).map_err(|problem| invalid(&path, &entry.option, &problem))?;
            if let code::OVERLOAD
            | code::MESSAGE_TYPE
            | code::PARAMETER_REQUEST_LIST
            | code::REQUESTED_ADDRESS
            | code::SERVER_IDENTIFIER = code
            {
                return Err(invalid(&path, &entry.option, "the client itself sets it"));
            }
            let variable = variables.get(&entry.from_arg).filter(|_| !entry.from_arg.is_empty());
            let Some(value) =
                variable.or(Some(&entry.value).filter(|v| !v.is_empty()).map(String::as_str))
            else {
                continue;
            };
            if value.len() > LONGEST {
                return Err(invalid(&path, &entry.option, "its value is longer than 255 bytes"));
            }
            options.provide.retain(|(other, _)| *other != code);
            options.provide.push((code, value.into()));
        }
        for (i, entry) in request.iter().enumerate().filter(|(_, e)| !e.option.is_empty()) {
            let code = number(&entry.option)
                .map_err(|problem| invalid(&format!("request[{i}]"), &entry.option, &problem))?;
            options.request(code);
        }
        if !request.iter().any(|entry| entry.skip_default) {
            for code in DEFAULT {
                options.request(code);
            }
        }
        Ok(options)
    }

    fn request(&mut self, code: u8) {
        if !self.request.contains(&code) {
            self.request.push(code);
        }
    }
}

fn number(option: &str) -> Result<u8, String> {
    if let Some((_, code)) = NAMES.iter().find(|(name, _)| *name == option) {
        return Ok(*code);
    }
    let digits = !option.is_empty() && option.bytes().all(|byte| byte.is_ascii_digit());
    match option.parse::<u8>().ok().filter(|_| digits) {
        Some(code::PAD | code::END) => Err("it has no value".into()),
        Some(code) => Ok(code),
        None => {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            Err(format!("give a number from 1 to 254, or one of {}", names.join(", ")))
        }
    }
}

fn invalid(key: &str, option: &str, problem: &str) -> Error {
    Error::InvalidNetworkConfig(format!("ipam.{key}.option: {option:?}: {problem}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn options(provide: Value, request: Value, variables: &str) -> Result<ClientOptions, Error> {
        let provide: Vec<Provide> = serde_json::from_value(provide).unwrap();
        let request: Vec<Request> = serde_json::from_value(request).unwrap();
        ClientOptions::new(&provide, &request, &CniArgs::parse(variables).unwrap())
    }

    #[test]
    fn routers_and_mask_are_requested_unless_skipped() {
        assert_eq!(options(json!([]), json!([]), "").unwrap().request, [3, 1]);
        assert_eq!(
            options(json!([]), json!([{ "option": "121" }, { "option": "routers" }]), "")
                .unwrap()
                .request,
            [121, 3, 1]
        );
        let skipped = json!([{ "skipDefault": true }, { "option": "subnet-mask" }]);
        assert_eq!(options(json!([]), skipped, "").unwrap().request, [1]);
    }

    #[test]
    fn values_come_from_the_configuration_or_cni_args() {
        let provide = json!([
            { "option": "host-name", "fromArg": "K8S_POD_NAME" },
            { "option": "60", "value": "class", "fromArg": "NOT_GIVEN" },
            { "option": "user-class", "value": "configured", "fromArg": "CLASS" },
            { "option": "99" },
        ]);
        let variables = "K8S_POD_NAME=web-0;CLASS=given;IgnoreUnknown=1";
        let expected: [(u8, &[u8]); 3] = [(12, b"web-0"), (60, b"class"), (77, b"given")];
        let found = options(provide, json!([]), variables).unwrap().provide;
        assert_eq!(found, expected.map(|(code, value)| (code, value.to_vec())));
    }

    #[test]
    fn invalid_options_are_rejected() {
        for option in ["", "no-such-option", "0", "255", "256", "-1", "+3", " 3"] {
            let error =
                options(json!([{ "option": option, "value": "x" }]), json!([]), "").unwrap_err();
            assert_eq!(error.code(), 7, "{option:?}");
        }
        assert_eq!(options(json!([]), json!([{ "option": "routerz" }]), "").unwrap_err().code(), 7);
        let own = json!([{ "option": "53", "value": "x" }]);
        assert!(options(own, json!([]), "").unwrap_err().details().contains("the client itself"));
        let long = json!([{ "option": "60", "value": "x".repeat(256) }]);
        assert!(options(long, json!([]), "").unwrap_err().details().contains("255 bytes"));
    }
}
