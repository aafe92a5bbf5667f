//! What the proxy, the trait and the dispatch say alike of a method.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::ext::IdentExt;

use crate::model::{Answer, Client, Kind, Method, Param, subscription};

/// `&self, data_id: &str`
pub(super) fn inputs(method: &Method) -> TokenStream {
    let params = method.params.iter().map(|Param { ident, ty, .. }| quote!(#ident: #ty));
    quote!(&self #(, #params)*)
}

/// What the proxy's method returns.
pub(super) fn output(client: &Client, method: &Method) -> TokenStream {
    let krate = &client.krate;
    match &method.kind {
        Kind::Subscribe(subscribe) => subscribe.answered.clone().unwrap_or_else(|| {
            let subscription = subscription(subscribe.one);
            let value = subscribe.yields.value(krate);
            quote!(#krate::#subscription<#value>)
        }),
        Kind::Publish { answer, .. }
        | Kind::Unpublish { answer, .. }
        | Kind::Invoke { answer, .. } => answered(answer),
        Kind::Oneway(None) => quote!(()),
        Kind::Oneway(Some(ty)) => ty.to_token_stream(),
    }
}

fn answered(answer: &Answer) -> TokenStream {
    match answer {
        Answer::Result(ty) => ty.to_token_stream(),
        Answer::Plain(value, error) => quote!(::core::result::Result<#value, #error>),
    }
}

/// The error type of an answer.
pub(super) fn error(answer: &Answer) -> TokenStream {
    match answer {
        Answer::Result(ty) => error_of(ty),
        Answer::Plain(_, error) => error.to_token_stream(),
    }
}

/// The error type of a result type, by projection.
pub(super) fn error_of(ty: &impl ToTokens) -> TokenStream {
    quote!(<#ty as __cluster::Outcome>::Error)
}

/// Documentation and the like for the method of the proxy or the trait.
pub(super) fn notes(client: &Client, method: &Method) -> TokenStream {
    let notes = &method.carried.notes;
    let link = (!method.carried.documented).then(|| {
        let text = format!(" Calls [`{}::{}`].", client.ident.unraw(), method.ident.unraw());
        quote!(#[doc = #text])
    });
    quote!(#link #(#notes)*)
}
