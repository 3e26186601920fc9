//! The operations on all networks of a sandbox.

use super::{
    Attached, AttachedNetwork, AttachmentParams, CacheEntry, Failures, NetConfList, Networks,
    Sandbox,
    engine::{Operations, Waiter},
    networks::Network,
};
use crate::{CNIResult, Command, Error, span::Traced};

impl<W: Waiter> Operations<'_, W> {
    /// ADD for all networks; rolls back if one fails.
    pub(super) async fn attach(
        &self,
        networks: &Networks,
        sandbox: &Sandbox,
    ) -> Result<Attached, Failures>
    where
        W: Sync,
    {
        let attachments: Vec<_> = networks
            .ready()?
            .into_iter()
            .map(|Network { ifname, list }| (list, sandbox.params(ifname)))
            .collect();
        let outcomes = if networks.is_parallel() {
            let adds = attachments.iter().map(|(list, params)| {
                params.span(Command::Add, list).wait(self.add_or_keep(list, params))
            });
            self.waiter.join(adds.collect()).await
        } else {
            self.add_serially(&attachments).await
        };
        let (mut results, mut added, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for (attachment, outcome) in attachments.iter().zip(outcomes) {
            match outcome {
                Ok((result, is_new)) => {
                    let (list, params) = attachment;
                    let (network, ifname) = (list.name.clone(), params.ifname.clone());
                    results.push(AttachedNetwork { network, ifname, result });
                    added.extend(is_new.then_some(attachment));
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            for (list, params) in added.into_iter().rev() {
                let del = params.span(Command::Del, list).wait(self.del(list, params));
                let deleted = del.await;
                errors.extend(deleted.err().into_iter().flat_map(|f| f.in_context("rollback")));
            }
        }
        Failures::of(errors)?;
        Ok(Attached::of(results))
    }

    /// ADD for one network after the other, up to the first failure.
    async fn add_serially(
        &self,
        attachments: &[(&NetConfList, AttachmentParams)],
    ) -> Vec<Result<(CNIResult, bool), Error>> {
        let mut outcomes = Vec::new();
        for (list, params) in attachments {
            let add = self.add_or_keep(list, params);
            outcomes.push(params.span(Command::Add, list).wait(add).await);
            if outcomes.last().is_some_and(Result::is_err) {
                break;
            }
        }
        outcomes
    }

    /// CHECK for all networks, best effort.
    pub(super) async fn check_all(
        &self,
        networks: &Networks,
        sandbox: &Sandbox,
    ) -> Result<(), Failures> {
        let mut errors = Vec::new();
        for Network { ifname, list } in networks.ready()? {
            let params = sandbox.params(ifname);
            let check = params.span(Command::Check, list).wait(self.check(list, &params));
            errors.extend(check.await.err());
        }
        Failures::of(errors)
    }

    /// DEL for all networks in reverse order, best effort.
    pub(super) async fn detach(
        &self,
        networks: &Networks,
        sandbox: &Sandbox,
    ) -> Result<(), Failures> {
        let mut errors = Vec::new();
        for Network { ifname, list } in networks.ready()?.into_iter().rev() {
            let params = sandbox.params(ifname);
            let del = params.span(Command::Del, list).wait(self.del(list, &params));
            errors.extend(del.await.err());
        }
        Failures::merged(errors)
    }

    /// DEL for all attachments of a container in the cache, the newest first, best effort.
    pub(super) async fn detach_all(&self, container_id: &str) -> Result<(), Failures> {
        let mut listing = self.engine.cache.list_of(container_id)?;
        listing.entries.sort_by_key(|entry| std::cmp::Reverse(entry.modified));
        let mut failures = Vec::new();
        for entry in &listing.entries {
            let deleted = match entry.list() {
                Ok(list) => {
                    let span = entry.params.span(Command::Del, &list);
                    span.wait(self.del(&list, &entry.params)).await
                }
                Err(error) => Err(self.unusable(entry, error).into()),
            };
            failures.extend(deleted.err());
        }
        failures.extend(listing.broken.into_iter().map(|(_, error)| error.into()));
        Failures::merged(failures)
    }

    /// Describes an entry whose configuration cannot be used.
    fn unusable(&self, entry: &CacheEntry, error: Error) -> Error {
        let file = self.engine.cache.file(&entry.network, &entry.params);
        let file = file.map_or_else(|error| error.to_string(), |file| file.display().to_string());
        error.context(format!(
            "{file} has no usable configuration: call DEL with that of network {}",
            entry.network
        ))
    }

    /// STATUS for all networks, best effort.
    pub(super) async fn status_all(&self, networks: &Networks) -> Result<(), Failures> {
        let mut errors = Vec::new();
        for network in networks.ready()? {
            let span = Traced::operation(Command::Status, &network.list.name, None);
            errors.extend(span.wait(self.status(network.list)).await.err());
        }
        Failures::of(errors)
    }
}
