//! What users of a wrapped client can rely on, over every role and two codecs.

mod actor;
mod backend;
mod client;
mod election;
mod everywhere;
mod freeze;
mod limits;
mod loss;
mod owners;
mod requests;
mod start;
mod support;
mod versions;
