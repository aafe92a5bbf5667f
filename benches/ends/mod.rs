//! What the processes are made of: the bare socket, and the wrapped client.

pub(crate) mod ours;
pub(crate) mod raw;
