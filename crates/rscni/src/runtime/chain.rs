//! The order of calls in a chain of plugins, without making them (spec: "Section 3: Execution of Network
//! Configurations").
//!
//! An [`Operation`] says which call comes next and takes its outcome; whoever drives it waits for plugins in
//! whatever way he likes, and that is all that differs between the ways.

use std::{io, path::PathBuf};

use serde_json::{Map, Value, json};

use super::{AttachmentParams, NetConfList, PluginConf};
use crate::{
    Args, Attachment, CNIResult, Error, any_case,
    conf::RESERVED,
    invoke::{Inherits, Invocation, Outcome, variables},
    request::Command,
};

/// A network, an attachment to it, and where the network's plugins are.
pub(super) struct Chain<'a> {
    list: &'a NetConfList,
    params: AttachmentParams,
    valid: Option<&'a [Attachment]>,
    args: Args,
    programs: Vec<Result<PathBuf, Error>>,
}

/// A sequence of calls, each of which may depend on the outcomes before.
pub(super) trait Operation {
    /// The next call; none at the end.
    fn next(&mut self) -> Option<Invocation>;

    /// Takes how that call ended.
    fn take(&mut self, outcome: io::Result<Outcome>);
}

impl<'a> Chain<'a> {
    /// Looks up every plugin, so that a missing one is known before the first is called.
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

    /// The same with the attachments that GC must leave alone.
    pub(super) fn with_valid(self, valid: &'a [Attachment]) -> Self {
        Self { valid: Some(valid), ..self }
    }

    fn len(&self) -> usize {
        self.list.plugins.len()
    }

    fn plugin(&self, index: usize) -> &str {
        self.list.plugins[index].plugin_type()
    }

    /// Every plugin is there.
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
            // The spec's text had the second name for a while, and plugins may know only that.
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

    /// The error of the call of one plugin, with the place in the chain that it comes from.
    fn context(&self, command: Command, index: usize, error: Error) -> Error {
        let (plugin, number, count) = (self.plugin(index), index + 1, self.len());
        error.context(format!(
            "network {}: {command} of {plugin} (plugin {number} of {count})",
            self.list.name
        ))
    }

    fn outcome(&self, index: usize, outcome: io::Result<Outcome>) -> Result<Outcome, Error> {
        outcome.map_err(|e| {
            let program = self.programs[index]
                .as_ref()
                .map_or_else(|_| "?".into(), |path| path.display().to_string());
            Error::IOFailure(format!("start {program}: {e}"))
        })
    }
}

/// The configuration that one plugin gets (spec: "Deriving request configuration from plugin configuration").
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
        // These are the runtime's to set, in whatever case they are spelled; every other key is the plugin's.
        let is_ours = ["cniVersion", "name", "capabilities", "prevResult"]
            .iter()
            .any(|ours| ours.eq_ignore_ascii_case(key));
        let start = key.get(..RESERVED.len()).unwrap_or_default();
        if !is_ours && !start.eq_ignore_ascii_case(RESERVED) {
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

/// ADD: in order, each with the result of the one before, up to the first failure.
pub(super) struct Add<'a> {
    chain: &'a Chain<'a>,
    called: usize,
    result: Option<CNIResult>,
    error: Option<Error>,
    cause: Option<Error>,
}

/// How an ADD ended.
pub(super) struct Added {
    /// How many plugins were called, the one that failed included.
    pub(super) called: usize,
    /// The result of the last one that did not fail.
    pub(super) result: Option<CNIResult>,
    /// Why it ended before the last plugin.
    pub(super) error: Option<Error>,
    /// The error as the plugin gave it.
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

/// A command that has no result, called on each plugin with the same `prevResult`.
pub(super) struct Each<'a> {
    chain: &'a Chain<'a>,
    command: Command,
    /// The plugins that are still to be called, the next one last.
    left: Vec<usize>,
    current: usize,
    previous: Option<CNIResult>,
    goes_on: bool,
    /// An error that is not to be repeated.
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
            goes_on: false,
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

    /// DEL of the first `count` plugins: in reverse order, going on past failures.
    pub(super) fn del(chain: &'a Chain<'a>, count: usize, result: Option<CNIResult>) -> Self {
        // Before 0.4.0 there is no prevResult on DEL.
        let previous = result.filter(|_| chain.list.cni_version.has_check());
        Self { previous, goes_on: true, ..Self::new(chain, Command::Del, (0..count).collect()) }
    }

    /// DEL after an ADD that failed: errors that are the `cause` of that refer to it.
    pub(super) fn undo(chain: &'a Chain<'a>, added: Added) -> Self {
        Self { known: added.cause, ..Self::del(chain, added.called, added.result) }
    }

    /// GC: in order, going on past failures.
    pub(super) fn gc(chain: &'a Chain<'a>) -> Self {
        Self { goes_on: true, ..Self::new(chain, Command::Gc, (0..chain.len()).rev().collect()) }
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
        while self.goes_on || self.errors.is_empty() {
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
