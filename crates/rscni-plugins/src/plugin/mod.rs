//! A plugin and a call of it.

pub(crate) mod chained;
pub(crate) mod commands;
pub(crate) mod failure;
