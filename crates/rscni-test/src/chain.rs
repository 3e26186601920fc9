//! Lists of plugins, called as a container runtime calls them.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{Container, Lab, Outcome, Plugin, Reply, lab::bin, versions::is_since};

/// Key of the valid attachments in the configuration of GC.
pub(crate) const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// A network configuration list. It is a value: clone it, add a plugin, attach containers with
/// each.
///
/// Plugins are found by their type, among the [installed](Lab::install) ones. Each gets the name
/// and the version of the list, the arguments of the capabilities that it declares as
/// `runtimeConfig`, and the result of the plugin before it as `prevResult`. CHECK and DEL get the
/// result of the last plugin, and DEL calls the last plugin first.
///
/// ```no_run
/// # use serde_json::json;
/// use rscni_test::Chain;
/// rscni_test::run(|lab| {
///     lab.install("bridge", "/opt/cni/bin/bridge");
///     lab.install("portmap", "/opt/cni/bin/portmap");
///     let chain = Chain::new("net")
///         .plugin(json!({ "type": "bridge", "isGateway": true }))
///         .plugin(json!({ "type": "portmap", "capabilities": { "portMappings": true } }))
///         .capability("portMappings", json!([{ "hostPort": 8080, "containerPort": 80 }]));
///     let a = chain.attach(lab, "a");
///     let web = a.serve_tcp(80);
///     lab.host().tcp("10.1.0.1:8080").assert_by(&web);
///     a.check().success();
///     a.del().success();
/// });
/// ```
#[derive(Debug, Clone)]
pub struct Chain {
    name: String,
    version: String,
    plugins: Vec<Value>,
    capabilities: Map<String, Value>,
    directory: PathBuf,
}

impl Chain {
    /// Returns a list of the newest version with no plugins.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: "1.1.0".to_owned(),
            plugins: Vec::new(),
            capabilities: Map::new(),
            directory: bin(),
        }
    }

    /// Sets the version of the list.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// Appends a plugin, as it is in a list: with `type` and its keys.
    #[must_use]
    pub fn plugin(mut self, config: Value) -> Self {
        self.plugins.push(config);
        self
    }

    /// Sets the argument of a capability, for the plugins that declare it.
    #[must_use]
    pub fn capability(mut self, name: &str, argument: impl Into<Value>) -> Self {
        self.capabilities.insert(name.to_owned(), argument.into());
        self
    }

    /// Calls the plugins in this directory, instead of installed ones.
    ///
    /// ```no_run
    /// # use {rscni_test::Chain, serde_json::json};
    /// # rscni_test::run(|lab| {
    /// # let chain = Chain::new("net").plugin(json!({ "type": "bridge" }));
    /// // Attaches with the plugins of the distribution, detaches with the installed ones.
    /// let a = chain.clone().found_in("/usr/lib/cni").attach(lab, "a");
    /// a.handed_over_to(&chain).del().success();
    /// # });
    /// ```
    #[must_use]
    pub fn found_in(mut self, directory: impl AsRef<Path>) -> Self {
        directory.as_ref().clone_into(&mut self.directory);
        self
    }

    /// Creates a container and attaches it as `eth0`.
    ///
    /// # Panics
    ///
    /// If a plugin fails; the message shows its call.
    #[track_caller]
    pub fn attach(&self, lab: &Lab, container: &str) -> Attachment {
        self.attach_as(&lab.container(container), "eth0")
    }

    /// Attaches the container as `ifname`.
    ///
    /// # Panics
    ///
    /// If a plugin fails; the message shows its call.
    #[track_caller]
    pub fn attach_as(&self, container: &Container, ifname: &str) -> Attachment {
        match self.try_attach(container, ifname) {
            Ok(attachment) => attachment,
            Err(outcome) => panic!("expected success\n{outcome}"),
        }
    }

    /// Attaches the container as `ifname`, where a plugin may fail. Plugins before it are not
    /// called again: rolling back is up to the runtime, which calls DEL.
    ///
    /// ```no_run
    /// # use {rscni_test::Chain, serde_json::json};
    /// # rscni_test::run(|lab| {
    /// # let (a, chain) = (lab.container("a"), Chain::new("net").plugin(json!({ "type": "x" })));
    /// chain.try_attach(&a, "eth0").unwrap_err().error(7).mentions("portMappings");
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// The outcome of the plugin that failed.
    ///
    /// # Panics
    ///
    /// If a plugin is not there, or the list is empty.
    #[track_caller]
    pub fn try_attach(
        &self,
        container: &Container,
        ifname: &str,
    ) -> Result<Attachment, Box<Outcome>> {
        let mut results: Vec<Reply> = Vec::new();
        for config in &self.plugins {
            let config = self.config(config, results.last());
            let outcome = self.program(&config).add(container, ifname, &config);
            if outcome.exit_code() != Some(0) {
                return Err(Box::new(outcome));
            }
            results.push(outcome.success());
        }
        let result = results.last().cloned();
        let result = result.unwrap_or_else(|| panic!("the list {} has no plugins", self.name));
        let (chain, container) = (self.clone(), container.clone());
        Ok(Attachment { chain, container, ifname: ifname.to_owned(), results, result })
    }

    /// Calls STATUS of each plugin, until one fails. Returns the last outcome.
    ///
    /// # Panics
    ///
    /// If a plugin is not there, or the list is empty.
    #[track_caller]
    pub fn status(&self) -> Outcome {
        self.each(self.plugins.iter(), Plugin::status, None)
    }

    /// Calls GC of each plugin with these valid attachments, until one fails. Returns the last
    /// outcome.
    ///
    /// # Panics
    ///
    /// If a plugin is not there, or the list is empty.
    #[track_caller]
    pub fn gc(&self, valid: &[&Attachment]) -> Outcome {
        let entry = |a: &&Attachment| json!({ "containerID": a.id(), "ifname": a.ifname });
        let valid: Value = valid.iter().map(entry).collect();
        let call = |plugin: &Plugin, config: &Value| {
            let mut config = config.clone();
            config[VALID_ATTACHMENTS] = valid.clone();
            plugin.gc(&config)
        };
        self.each(self.plugins.iter(), call, None)
    }

    #[track_caller]
    fn each<'a>(
        &self,
        plugins: impl Iterator<Item = &'a Value>,
        call: impl Fn(&Plugin, &Value) -> Outcome,
        prev_result: Option<&Reply>,
    ) -> Outcome {
        let mut last = None;
        for config in plugins {
            let config = self.config(config, prev_result);
            let outcome = call(&self.program(&config), &config);
            let failed = outcome.exit_code() != Some(0);
            last = Some(outcome);
            if failed {
                break;
            }
        }
        last.unwrap_or_else(|| panic!("the list {} has no plugins", self.name))
    }

    #[track_caller]
    fn program(&self, config: &Value) -> Plugin {
        let kind = config["type"].as_str().unwrap_or_default();
        Plugin::at(self.directory.join(kind))
    }

    /// The configuration of a plugin as its stdin.
    fn config(&self, plugin: &Value, prev_result: Option<&Reply>) -> Value {
        let mut config = json!({ "cniVersion": self.version, "name": self.name });
        for (key, value) in plugin.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        for (name, argument) in &self.capabilities {
            if plugin["capabilities"][name] == true {
                config["runtimeConfig"][name] = argument.clone();
            }
        }
        match prev_result {
            Some(prev_result) => prev_result.follow(&config),
            None => config,
        }
    }
}

/// A container that a [`Chain`] has attached. It derefs to the [`Container`].
#[derive(Debug, Clone)]
pub struct Attachment {
    chain: Chain,
    container: Container,
    ifname: String,
    results: Vec<Reply>,
    result: Reply,
}

impl Deref for Attachment {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Attachment {
    /// The result of the last plugin.
    pub fn result(&self) -> &Reply {
        &self.result
    }

    /// The result of each plugin.
    pub fn results(&self) -> &[Reply] {
        &self.results
    }

    /// The name of the container's interface.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// Returns the same attachment for calls of another list, such as one that was edited or one of
    /// [other programs](Chain::found_in).
    #[must_use]
    pub fn handed_over_to(&self, chain: &Chain) -> Self {
        Self { chain: chain.clone(), ..self.clone() }
    }

    /// Calls CHECK of each plugin, until one fails. Returns the last outcome.
    ///
    /// # Panics
    ///
    /// If a plugin is not there.
    #[track_caller]
    pub fn check(&self) -> Outcome {
        let call =
            |plugin: &Plugin, config: &Value| plugin.check(&self.container, &self.ifname, config);
        self.chain.each(self.chain.plugins.iter(), call, Some(self.result()))
    }

    /// Calls DEL of each plugin, the last one first, until one fails. Returns the last outcome.
    ///
    /// # Panics
    ///
    /// If a plugin is not there.
    #[track_caller]
    pub fn del(&self) -> Outcome {
        // Before 0.4.0, DEL had no `prevResult`.
        let result = Some(self.result()).filter(|_| is_since(&self.chain.version, "0.4.0"));
        self.del_with(result)
    }

    /// Like [`del`](Self::del), but without `prevResult`, as from a runtime that has lost its
    /// cache.
    ///
    /// # Panics
    ///
    /// If a plugin is not there.
    #[track_caller]
    pub fn del_without_result(&self) -> Outcome {
        self.del_with(None)
    }

    #[track_caller]
    fn del_with(&self, result: Option<&Reply>) -> Outcome {
        let call =
            |plugin: &Plugin, config: &Value| plugin.del(&self.container, &self.ifname, config);
        self.chain.each(self.chain.plugins.iter().rev(), call, result)
    }
}
