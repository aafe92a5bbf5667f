//! Turns the checked model into tokens. Nothing here can fail.

mod dispatch;
mod facade;
mod proxy;
mod signature;
mod spec;

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{
    Ident,
    parse::{ParseStream, Parser},
};

use crate::{
    args::ClientArgs,
    diagnostics::Errors,
    model::{self, Client},
    source::{self, Source},
};

/// The whole attribute: the user's block as it was, what is generated for it, and every mistake.
pub(crate) fn cluster_client(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let parser = |input: ParseStream<'_>| Ok(ClientArgs::read(input, &mut errors));
    // The reader reports what is wrong by itself, so that the default is never taken.
    let args = parser.parse2(args).unwrap_or_default();
    let users_block = source::without_marks(item.clone());
    let source = errors.ok(Source::read(item));
    // What is right is generated beside the errors: code elsewhere that uses it gets no errors
    // that only follow from the first.
    let client = source.and_then(|source| model::check(args, source, &mut errors));
    let generated = client.as_ref().map(generate);
    let errors = errors.into_tokens();
    quote!(#users_block #generated #errors)
}

fn generate(client: &Client) -> TokenStream {
    let Client { krate, codec, cfgs, .. } = client;
    let proxy = proxy::definition(client);
    let facade = facade::definition(client);
    let lints = lints();
    let methods = spec::methods(client);
    let proxy_impl = proxy::implementation(client);
    let client_impl = dispatch::implementation(client);
    let facade_impl = facade::implementation(client);
    let assertions = spec::assertions(client);
    quote! {
        #proxy
        #facade
        #(#cfgs)*
        #lints
        const _: () = {
            use #krate::__private as __cluster;
            type __Codec = #codec;
            #methods
            #proxy_impl
            #facade_impl
            #client_impl
            #assertions
        };
    }
}

/// Generated code repeats what the user wrote, so that lints would say everything twice, or speak
/// of code that the user cannot change.
fn lints() -> TokenStream {
    quote! {
        #[allow(
            clippy::all,
            clippy::pedantic,
            clippy::nursery,
            clippy::restriction,
            dead_code,
            deprecated,
            non_camel_case_types,
            non_snake_case,
            private_bounds,
            private_interfaces,
            rustdoc::broken_intra_doc_links,
            rustdoc::private_intra_doc_links,
            unreachable_pub,
            unused_imports,
            unused_mut,
            unused_parens,
            unused_qualifications,
            unused_variables
        )]
    }
}

/// A span that names resolve from as in all generated code, and that errors show as `place`.
///
/// Where rustc points is the common place of all tokens of an expression, and the whole attribute
/// if they have none: an expression that can be wrong because of what the user wrote has this span
/// on every token.
fn shown_at(place: Span) -> Span {
    Span::call_site().located_at(place)
}

/// The tokens, shown at `place` in errors; names resolve as before.
fn show_at(place: Span, tokens: impl ToTokens) -> TokenStream {
    let relocated = |token: TokenTree| {
        let span = token.span().located_at(place);
        let mut token = match token {
            TokenTree::Group(group) => {
                Group::new(group.delimiter(), show_at(place, group.stream())).into()
            }
            token => token,
        };
        token.set_span(span);
        token
    };
    tokens.into_token_stream().into_iter().map(relocated).collect()
}

/// A variable of generated code. Its prefix keeps it apart from the arguments of the user's: other
/// means of hygiene would make errors point at the whole attribute.
fn local(name: &str, place: Span) -> Ident {
    Ident::new(&format!("__{name}"), shown_at(place))
}
