//! Expansions as snapshots, and mistakes as the texts that rustc would print.

use proc_macro2::TokenStream;
use quote::quote;

use crate::expand::cluster_client;

mod errors;
mod expansions;

/// The expansion, formatted.
fn expanded(args: TokenStream, item: TokenStream) -> String {
    let tokens = cluster_client(args, item);
    let file = syn::parse2(tokens).expect("an expansion is a list of items");
    prettyplease::unparse(&file)
}

/// The messages of the mistakes, in their order.
fn mistakes(args: TokenStream, item: TokenStream) -> Vec<String> {
    let file: syn::File = syn::parse2(cluster_client(args, item)).expect("a list of items");
    let message = |item: syn::Item| match item {
        syn::Item::Macro(item) if item.mac.path.segments.last()?.ident == "compile_error" => {
            Some(item.mac.parse_body::<syn::LitStr>().expect("a message").value())
        }
        _ => None,
    };
    file.items.into_iter().filter_map(message).collect()
}

/// A block that is right, with these items beside its `#[connect]`.
fn client_with(items: TokenStream) -> TokenStream {
    quote! {
        impl Client {
            #[connect]
            async fn connect() -> Result<Self, Error> {
                Ok(Self)
            }
            #items
        }
    }
}
