//! `CNI_ARGS`: pairs of key and value for all plugins (CNI conventions).

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor},
};

use crate::{
    Error,
    text_pairs::{TextPairs, unknown_keys},
};

/// The `KEY=VALUE` pairs of `CNI_ARGS`, separated by `;`.
///
/// By convention a plugin rejects unknown keys, unless the caller sets `IgnoreUnknown=1`:
///
/// ```
/// use rscni::CniArgs;
///
/// let args = CniArgs::parse("IP=10.0.0.5;K8S_POD_NAME=web;IgnoreUnknown=1")?;
/// args.refuse_unknown(&["IP"])?;
/// assert_eq!(args.get("IP"), Some("10.0.0.5"));
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    pairs: Vec<(String, String)>,
    ignore_unknown: bool,
}

impl CniArgs {
    /// Parses the text of `CNI_ARGS`.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if a pair is not of the form `KEY=VALUE`, or `IgnoreUnknown` is
    /// not a boolean.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut args = Self::default();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                    Error::InvalidEnvValue(format!(
                        "CNI_ARGS: {pair:?} is not a pair of the form KEY=VALUE"
                    ))
                })?;
            if key == "IgnoreUnknown" {
                args.ignore_unknown = parse_bool(value).ok_or_else(|| {
                    Error::InvalidEnvValue(format!(
                        "CNI_ARGS: IgnoreUnknown={value} must be 0, 1, true or false"
                    ))
                })?;
            } else {
                args.pairs.push((key.into(), value.into()));
            }
        }
        Ok(args)
    }

    /// Returns the value of a key; the last one if it is repeated.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Returns all pairs in order, without `IgnoreUnknown`.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether the caller set `IgnoreUnknown`.
    pub fn ignores_unknown(&self) -> bool {
        self.ignore_unknown
    }

    /// Rejects keys other than `known`, unless the caller set `IgnoreUnknown`.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`], naming the unknown keys.
    pub fn refuse_unknown(&self, known: &[&str]) -> Result<(), Error> {
        let unknown = unknown_keys(self.pairs().map(|(key, _)| key), known);
        match unknown.filter(|_| !self.ignore_unknown) {
            Some(problem) => Err(Error::InvalidEnvValue(format!("CNI_ARGS: {problem}"))),
            None => Ok(()),
        }
    }

    /// Reads the pairs into a plugin's own struct, as `LoadArgs` of the Go library.
    ///
    /// A value becomes a number, a boolean (`0`, `1`, `true`, `false`), an address, text, or a list
    /// separated by commas, as its field requires. An empty value of an `Option` is `None`. The
    /// last value of a repeated key wins. Keys that the struct does not have are rejected, unless
    /// the caller sets `IgnoreUnknown` or the struct has a `#[serde(flatten)]` field.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`], naming the key that is missing, unknown or has a wrong value.
    pub fn read_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let pairs =
            TextPairs { pairs: self.last_pairs().collect(), ignores_unknown: self.ignore_unknown };
        T::deserialize(pairs).map_err(|fault| Error::InvalidEnvValue(format!("CNI_ARGS: {fault}")))
    }

    /// Returns the pairs that are not replaced by a later one with the same key.
    fn last_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_last =
            |index: usize, key: &str| self.pairs[index + 1..].iter().all(|(other, _)| other != key);
        let pairs = self.pairs().enumerate();
        pairs.filter(move |(index, (key, _))| is_last(*index, key)).map(|(_, pair)| pair)
    }
}

impl CniArgs {
    /// Iterates over the [`pairs`](CniArgs::pairs).
    pub fn iter(&self) -> std::vec::IntoIter<(&str, &str)> {
        self.into_iter()
    }
}

impl<'a> IntoIterator for &'a CniArgs {
    type Item = (&'a str, &'a str);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    /// Iterates over the [`pairs`](CniArgs::pairs).
    fn into_iter(self) -> Self::IntoIter {
        self.pairs().collect::<Vec<_>>().into_iter()
    }
}

impl IntoIterator for CniArgs {
    type Item = (String, String);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.pairs.into_iter()
    }
}

impl Serialize for CniArgs {
    /// Writes an object with the [`pairs`](CniArgs::pairs); the last value of a repeated key wins.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.last_pairs())
    }
}

/// The keys of `CNI_ARGS` that Kubernetes runtimes set: containerd, CRI-O, and kubelet before them.
///
/// ```
/// use rscni::{Args, Command, K8sArgs};
///
/// let mut args = Args::new(Command::Add);
/// args.args = Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;X=1".into());
/// let pod: K8sArgs = args.cni_args_as()?;
/// assert_eq!(pod.pod_namespace.as_deref(), Some("shop"));
/// assert_eq!((pod.pod_name.as_deref(), pod.pod_uid), (Some("web-0"), None));
/// # Ok::<(), rscni::Error>(())
/// ```
///
/// A plugin with keys of its own has a `#[serde(flatten)]` field of this type in its struct.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct K8sArgs {
    /// The pod (`K8S_POD_NAME`).
    pub pod_name: Option<String>,
    /// Its namespace (`K8S_POD_NAMESPACE`).
    pub pod_namespace: Option<String>,
    /// Its UID (`K8S_POD_UID`).
    pub pod_uid: Option<String>,
    /// The container that holds its network namespace (`K8S_POD_INFRA_CONTAINER_ID`).
    pub infra_container_id: Option<String>,
}

impl K8sArgs {
    const KEYS: [&'static str; 4] =
        ["K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"];
}

impl Serialize for K8sArgs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { pod_name, pod_namespace, pod_uid, infra_container_id } = self;
        let pairs =
            Self::KEYS.into_iter().zip([pod_name, pod_namespace, pod_uid, infra_container_id]);
        serializer.collect_map(pairs.filter(|(_, value)| value.is_some()))
    }
}

impl<'de> Deserialize<'de> for K8sArgs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = K8sArgs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<K8sArgs, A::Error> {
                let mut args = K8sArgs::default();
                while let Some(key) = access.next_key::<String>()? {
                    let field = match key.as_str() {
                        "K8S_POD_NAME" => &mut args.pod_name,
                        "K8S_POD_NAMESPACE" => &mut args.pod_namespace,
                        "K8S_POD_UID" => &mut args.pod_uid,
                        "K8S_POD_INFRA_CONTAINER_ID" => &mut args.infra_container_id,
                        _ => {
                            access.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *field = access.next_value()?;
                }
                Ok(args)
            }
        }
        // A deserializer of `CNI_ARGS` rejects keys that a struct does not have.
        deserializer.deserialize_struct("K8sArgs", &Self::KEYS, Keys)
    }
}

/// Parses a boolean as Go's tools write it in variables.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_cni_args_are_found_by_key() {
        let args = CniArgs::parse("FOO=BAR;ABC=123;FOO=last;E=;Q=a=b;").unwrap();
        assert_eq!(args.get("FOO"), Some("last"));
        assert_eq!((args.get("E"), args.get("Q"), args.get("foo")), (Some(""), Some("a=b"), None));
        assert_eq!(args.pairs().count(), 5);
        assert!(CniArgs::parse("").unwrap().pairs().next().is_none());
    }

    #[test]
    fn pairs_are_iterated_in_order_and_written_as_an_object() {
        let args = CniArgs::parse("B=1;IgnoreUnknown=1;A=2;B=3").unwrap();
        let mut pairs = Vec::new();
        for (key, value) in &args {
            pairs.push(format!("{key}={value}"));
        }
        assert_eq!(pairs, ["B=1", "A=2", "B=3"]);
        assert_eq!(serde_json::to_string(&args).unwrap(), r#"{"A":"2","B":"3"}"#);
        assert_eq!(args.into_iter().next(), Some(("B".into(), "1".into())));
    }

    #[test]
    fn unknown_keys_are_rejected_unless_ignore_unknown_is_set() {
        let error = CniArgs::parse("IP=1;K8S_POD=x").unwrap().refuse_unknown(&["IP"]).unwrap_err();
        assert!(error.code() == 4 && error.details().contains("K8S_POD"), "{error}");
        for yes in ["1", "true", "True"] {
            let args = CniArgs::parse(&format!("IgnoreUnknown={yes};K8S_POD=x")).unwrap();
            assert!(args.ignores_unknown());
            args.refuse_unknown(&[]).unwrap();
        }
        assert!(CniArgs::parse("IgnoreUnknown=0;X=1").unwrap().refuse_unknown(&[]).is_err());
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Own {
        #[serde(rename = "IP")]
        ip: Option<std::net::IpAddr>,
        #[serde(rename = "MTU", default)]
        mtu: u16,
        #[serde(rename = "MASQ", default)]
        masq: bool,
        #[serde(rename = "DNS", default)]
        dns: Vec<std::net::IpAddr>,
        #[serde(rename = "MODE")]
        mode: Mode,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fast,
        Safe,
    }

    fn own(text: &str) -> Result<Own, Error> {
        CniArgs::parse(text)?.read_as()
    }

    #[test]
    fn values_are_read_as_the_types_of_the_fields() {
        let read = own("IP=fd00::5;MTU=9;MTU=1400;MASQ=True;DNS=1.1.1.1, ::1;MODE=fast").unwrap();
        let dns = vec!["1.1.1.1".parse().unwrap(), "::1".parse().unwrap()];
        let ip = Some("fd00::5".parse().unwrap());
        assert_eq!(read, Own { ip, mtu: 1400, masq: true, dns, mode: Mode::Fast });
        let absent = Own { ip: None, mtu: 0, masq: false, dns: vec![], mode: Mode::Safe };
        assert_eq!(own("IP=;MODE=safe;DNS="), Ok(absent));
    }

    #[test]
    fn a_wrong_value_is_code_4_and_names_its_key() {
        for (text, details) in [
            ("MODE=fast;IP=10.0.0.300", "IP: \"10.0.0.300\": invalid IP address syntax"),
            ("MODE=fast;MTU=70000", "MTU: \"70000\" is not a whole number from 0 to 65535"),
            ("MODE=fast;MTU=", "MTU: \"\" is not a whole number from 0 to 65535"),
            ("MODE=fast;MASQ=yes", "MASQ: \"yes\" is not 0, 1, true or false"),
            ("MODE=slow", "MODE: \"slow\" is not one of \"fast\", \"safe\""),
            ("MTU=1", "MODE: missing, but required"),
            (
                "MODE=fast;K8S_POD_NAME=x;mtu=1",
                "unknown K8S_POD_NAME, mtu; known are IP, MTU, MASQ, DNS, MODE; \
                 set IgnoreUnknown=1 to ignore others",
            ),
        ] {
            let error = own(text).unwrap_err();
            assert_eq!((error.code(), error.details()), (4, &*format!("CNI_ARGS: {details}")));
        }
        assert_eq!(own("MODE=fast;mtu=1;IgnoreUnknown=1").unwrap().mtu, 0);
    }

    #[test]
    fn a_struct_that_denies_unknown_fields_gets_none_if_they_are_ignored() {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Strict {
            #[serde(rename = "A")]
            a: i32,
        }
        let read = |text: &str| CniArgs::parse(text).unwrap().read_as::<Strict>();
        assert_eq!(read("A=-1;B=2;IgnoreUnknown=1").unwrap().a, -1);
        assert!(read("A=-1;B=2").is_err());
    }

    #[test]
    fn the_keys_of_kubernetes_are_read_alone_and_beside_others() {
        #[derive(Deserialize)]
        struct Own {
            #[serde(rename = "MTU")]
            mtu: String,
            #[serde(flatten)]
            k8s: K8sArgs,
        }
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=u;MTU=1400;\
                    K8S_POD_INFRA_CONTAINER_ID=c";
        let args = CniArgs::parse(text).unwrap();
        let k8s: K8sArgs = args.read_as().unwrap();
        let expected = ["web", "ns", "u", "c"].map(|text| Some(text.to_owned()));
        let read = k8s.clone();
        assert_eq!(
            [read.pod_name, read.pod_namespace, read.pod_uid, read.infra_container_id],
            expected
        );
        let own: Own = args.read_as().unwrap();
        assert_eq!((own.mtu.as_str(), own.k8s), ("1400", k8s));
        assert_eq!(CniArgs::default().read_as::<K8sArgs>(), Ok(K8sArgs::default()));
        assert_eq!(CniArgs::parse("X=1").unwrap().read_as::<K8sArgs>().unwrap_err().code(), 4);
    }

    #[test]
    fn malformed_cni_args_are_code_4() {
        for bad in ["x", "=1", "IgnoreUnknown=maybe", "A=1;;b"] {
            assert_eq!(CniArgs::parse(bad).unwrap_err().code(), 4, "{bad}");
        }
    }
}
