//! What users of a wrapped client can rely on, over every role and two codecs.

mod actor;
mod backend;
mod cancel_safety;
mod client;
mod conformance_calls;
mod conformance_roles;
mod conformance_topics;
mod election;
mod elsewhere;
mod everywhere;
mod freeze;
mod limits;
mod loss;
mod owners;
mod requests;
mod run_out;
mod start;
mod support;
mod traits;
mod versions;
