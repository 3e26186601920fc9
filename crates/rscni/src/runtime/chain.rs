//! The order of calls in a chain of plugins, as state machines that do not make the calls (spec:
//! "Section 3: Execution of Network Configurations").
//!
//! An [`Operation`] returns the next call and takes its outcome. The driver decides how to wait,
//! blocking or async; nothing else differs.

use std::{io, path::PathBuf};

use serde_json::{Map, Value, json};

use super::{AttachmentParams, NetConfList, PluginConf};
use crate::{
    Args, Attachment, CNIResult, Error, any_case,
    conf::RESERVED,
    invoke::{Inherits, Invocation, Outcome, variables},
    request::Command,
};

/// A network, an attachment to it, and the programs of the network's plugins.
pub(super) struct Chain<'a> {
    list: &'a NetConfList,
    params: AttachmentParams,
    valid: Option<&'a [Attachment]>,
    args: Args,
    programs: Vec<Result<PathBuf, Error>>,
}

/// A sequence of calls, each of which may depend on previous outcomes.
pub(super) trait Operation {
    /// Returns the next call; `None` at the end.
    fn next(&mut self) -> Option<Invocation>;

    /// Takes the outcome of that call.
    fn take(&mut self, outcome: io::Result<Outcome>);
}

impl<'a> Chain<'a> {
    /// Finds all plugins, so that a missing one is reported before the first call.
    pub(super) fn new(
        find: impl Fn(&str) -> Result<PathBuf, Error>,
        path: &[PathBuf],
        list: &'a NetConfList,
        params: AttachmentParams,
    ) -> Self {
        let programs = list.plugins.iter().map(|plugin| find(plugin.plugin_type())).collect();
        let args = params.to_args(path);
        Self { list, params, valid: None, args, programs }
    }

    /// Sets the valid attachments for GC.
    pub(super) fn with_valid(self, valid: &'a [Attachment]) -> Self {
        Self { valid: Some(valid), ..self }
    }

    fn len(&self) -> usize {
        self.list.plugins.len()
    }

    fn plugin(&self, index: usize) -> &str {
        self.list.plugins[index].plugin_type()
    }

    /// Fails if a plugin is not installed.
    fn check_programs(&self, command: Command) -> Result<(), Error> {
        self.programs.iter().enumerate().try_for_each(|(index, program)| match program {
            Ok(_) => Ok(()),
            Err(error) => Err(self.context(command, index, error.clone())),
        })
    }

    fn invocation(
        &self,
        command: Command,
        index: usize,
        previous: Option<&CNIResult>,
    ) -> Result<Invocation, Error> {
        let program =
            self.programs[index].clone().map_err(|error| self.context(command, index, error))?;
        let mut config =
            request_config(self.list, &self.list.plugins[index], &self.params, previous);
        if let Some(valid) = self.valid {
            // Plugins may only know the second name, from an earlier text of the spec.
            for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                config.insert(key.into(), json!(valid));
            }
        }
        Ok(Invocation {
            plugin: self.plugin(index).to_owned(),
            program,
            vars: variables(command, &self.args),
            inherits: Inherits::Everything,
            stdin: serde_json::to_vec(&config)?,
            time_limit: None,
        })
    }

    /// Adds the position in the chain to an error of a plugin.
    fn context(&self, command: Command, index: usize, error: Error) -> Error {
        let (plugin, number, count) = (self.plugin(index), index + 1, self.len());
        error.in_chain(plugin, command, index).context(format!(
            "network {}: {command} of {plugin} (plugin {number} of {count})",
            self.list.name
        ))
    }

    fn outcome(&self, index: usize, outcome: io::Result<Outcome>) -> Result<Outcome, Error> {
        outcome.map_err(|e| {
            let program = self.programs[index]
                .as_ref()
                .map_or_else(|_| "?".into(), |path| path.display().to_string());
            Error::IOFailure(format!("cannot start {program}: {e}")).with_source(e)
        })
    }
}

/// Returns the configuration of one plugin (spec: "Deriving request configuration from plugin
/// configuration").
fn request_config(
    list: &NetConfList,
    plugin: &PluginConf,
    params: &AttachmentParams,
    previous: Option<&CNIResult>,
) -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("cniVersion".into(), list.cni_version.as_str().into());
    config.insert("name".into(), list.name.as_str().into());
    for (key, value) in plugin.as_map() {
        // Only the runtime sets these keys, in any case; all others are the plugin's.
        let is_runtimes = ["cniVersion", "name", "capabilities", "prevResult"]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(key));
        let start = key.get(..RESERVED.len()).unwrap_or_default();
        if !is_runtimes && !start.eq_ignore_ascii_case(RESERVED) {
            config.insert(key.clone(), value.clone());
        }
    }
    let runtime_config: Map<_, _> = plugin
        .capabilities()
        .filter_map(|name| {
            params.capability_args.get(name).map(|value| (name.to_owned(), value.clone()))
        })
        .collect();
    if !runtime_config.is_empty() {
        any_case::take(&mut config, "runtimeConfig");
        config.insert("runtimeConfig".into(), runtime_config.into());
    }
    config
        .extend(previous.map(|result| ("prevResult".to_owned(), result.to_json(list.cni_version))));
    config
}

/// ADD: in order, each with the result of the previous plugin, up to the first failure.
pub(super) struct Add<'a> {
    chain: &'a Chain<'a>,
    called: usize,
    result: Option<CNIResult>,
    error: Option<Error>,
    cause: Option<Error>,
}

/// How an ADD ended.
pub(super) struct Added {
    /// The number of plugins called, including the one that failed.
    pub(super) called: usize,
    /// The result of the last plugin that succeeded.
    pub(super) result: Option<CNIResult>,
    /// The error with its context.
    pub(super) error: Option<Error>,
    /// The plugin's own error.
    pub(super) cause: Option<Error>,
}

impl<'a> Add<'a> {
    pub(super) fn new(chain: &'a Chain<'a>) -> Self {
        let error = chain.check_programs(Command::Add).err();
        Self { chain, called: 0, result: None, error, cause: None }
    }

    pub(super) fn finish(self) -> Added {
        Added { called: self.called, result: self.result, error: self.error, cause: self.cause }
    }
}

impl Operation for Add<'_> {
    fn next(&mut self) -> Option<Invocation> {
        if self.error.is_some() || self.called == self.chain.len() {
            return None;
        }
        match self.chain.invocation(Command::Add, self.called, self.result.as_ref()) {
            Ok(invocation) => {
                self.called += 1;
                Some(invocation)
            }
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }

    fn take(&mut self, outcome: io::Result<Outcome>) {
        let index = self.called - 1;
        let outcome = self.chain.outcome(index, outcome);
        match outcome.and_then(|outcome| outcome.into_result(self.chain.plugin(index))) {
            Ok(result) => self.result = Some(result),
            Err(cause) => {
                self.error = Some(self.chain.context(Command::Add, index, cause.clone()));
                self.cause = Some(cause);
            }
        }
    }
}

/// A command without a result, called on each plugin with the same `prevResult`.
pub(super) struct Each<'a> {
    chain: &'a Chain<'a>,
    command: Command,
    /// The plugins that are not called yet, the next one last.
    left: Vec<usize>,
    current: usize,
    previous: Option<CNIResult>,
    is_best_effort: bool,
    /// The error of the ADD, which is not repeated.
    known: Option<Error>,
    errors: Vec<Error>,
}

impl<'a> Each<'a> {
    fn new(chain: &'a Chain<'a>, command: Command, left: Vec<usize>) -> Self {
        Self {
            chain,
            command,
            left,
            current: 0,
            previous: None,
            is_best_effort: false,
            known: None,
            errors: Vec::new(),
        }
    }

    /// CHECK: in order, up to the first failure.
    pub(super) fn check(chain: &'a Chain<'a>, result: CNIResult) -> Self {
        Self {
            previous: Some(result),
            ..Self::new(chain, Command::Check, (0..chain.len()).rev().collect())
        }
    }

    /// DEL of the first `count` plugins: in reverse order, best effort.
    pub(super) fn del(chain: &'a Chain<'a>, count: usize, result: Option<CNIResult>) -> Self {
        // Before 0.4.0 there is no prevResult on DEL.
        let previous = result.filter(|_| chain.list.cni_version.has_check());
        let del = Self::new(chain, Command::Del, (0..count).collect());
        Self { previous, is_best_effort: true, ..del }
    }

    /// DEL after a failed ADD. An error equal to that of the ADD is not repeated.
    pub(super) fn undo(chain: &'a Chain<'a>, added: Added) -> Self {
        Self { known: added.cause, ..Self::del(chain, added.called, added.result) }
    }

    /// GC: in order, best effort.
    pub(super) fn gc(chain: &'a Chain<'a>) -> Self {
        let gc = Self::new(chain, Command::Gc, (0..chain.len()).rev().collect());
        Self { is_best_effort: true, ..gc }
    }

    /// STATUS: in order, up to the first failure.
    pub(super) fn status(chain: &'a Chain<'a>) -> Self {
        Self::new(chain, Command::Status, (0..chain.len()).rev().collect())
    }

    pub(super) fn finish(self) -> Vec<Error> {
        self.errors
    }
}

impl Operation for Each<'_> {
    fn next(&mut self) -> Option<Invocation> {
        while self.is_best_effort || self.errors.is_empty() {
            self.current = self.left.pop()?;
            match self.chain.invocation(self.command, self.current, self.previous.as_ref()) {
                Ok(invocation) => return Some(invocation),
                Err(error) => self.errors.push(error),
            }
        }
        None
    }

    fn take(&mut self, outcome: io::Result<Outcome>) {
        let (chain, index) = (self.chain, self.current);
        let outcome = chain.outcome(index, outcome);
        if let Err(mut error) =
            outcome.and_then(|outcome| outcome.into_success(chain.plugin(index)))
        {
            if self.known.as_ref() == Some(&error) {
                error = Error::Custom(error.code(), String::new(), "for the same reason".into());
            }
            self.errors.push(chain.context(self.command, index, error));
        }
    }
}
