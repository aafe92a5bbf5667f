//! The `#[cluster_client]` attribute of the `cluster-client` crate, which re-exports and documents
//! it: its examples need that crate to compile.
//!
//! The tokens flow one way: `args` and `marks` read the arguments, `source` the `impl` block,
//! `model` checks all of it and gathers every mistake in `diagnostics`, and `expand` turns
//! the checked model into tokens, which cannot fail.

use proc_macro::TokenStream;

mod args;
mod diagnostics;
mod expand;
mod marks;
mod model;
mod source;
#[cfg(test)]
mod tests;

/// Wraps a client so that all processes of a host share it.
#[proc_macro_attribute]
pub fn cluster_client(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::cluster_client(args.into(), item.into()).into()
}
