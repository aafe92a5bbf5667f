//! The `#[cluster_client]` attribute; its documentation is on the re-export in `cluster_client`.

use proc_macro::TokenStream;

#[proc_macro_attribute]
pub fn cluster_client(_args: TokenStream, item: TokenStream) -> TokenStream {
    item
}
