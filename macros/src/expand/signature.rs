//! What the proxy, the trait and the dispatch say alike of a method.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{ext::IdentExt, spanned::Spanned};

use super::{show_at, shown_at};
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

/// A reference to the argument, which is a variable of its own type here.
pub(super) fn reference(Param { ident, ty, is_ref, .. }: &Param) -> TokenStream {
    // The names come from the user, and resolve as the user's.
    let span = ident.span().located_at(ty.span());
    let ident = show_at(ty.span(), ident);
    let borrow = (!is_ref).then(|| quote_spanned!(span=> &));
    quote_spanned!(span=> #borrow #ident)
}

/// The bytes of these arguments: references, and the places to show errors about them at.
pub(super) fn encode(
    place: Span,
    args: impl IntoIterator<Item = (Span, TokenStream)>,
) -> TokenStream {
    let writer = writer(place, args);
    quote_spanned!(shown_at(place)=> #writer.finish())
}

/// As [`encode`], before the bytes are asked for.
pub(super) fn writer(
    place: Span,
    args: impl IntoIterator<Item = (Span, TokenStream)>,
) -> TokenStream {
    let args = args
        .into_iter()
        .map(|(place, reference)| quote_spanned!(shown_at(place)=> .arg::<__Codec, _>(#reference)));
    quote_spanned!(shown_at(place)=> __cluster::ArgsWriter::new() #(#args)*)
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
