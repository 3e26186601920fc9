//! The state of attachments on the host: how it is marked, stored, listed and rolled back.

pub(crate) mod inventory;
pub(crate) mod namespaces;
pub(crate) mod owner;
pub(crate) mod presence;
pub(crate) mod resources;
pub(crate) mod result;
pub(crate) mod state_file;
pub(crate) mod undo;

pub(crate) use self::{
    inventory::{Item, Owned, OwnedBy, Purpose},
    owner::{Owner, derived_mac, derived_name, go_hash, is_of_container},
    resources::{Resources, Stale},
    result::AttachmentResult,
    undo::Undo,
};
