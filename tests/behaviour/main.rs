//! What users of a wrapped client can rely on, over every role and two codecs.

mod backend;
mod client;
mod everywhere;
mod support;
