//! The proxy: the client's shared methods, as every process sees them.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Expr, ExprPath, ext::IdentExt, spanned::Spanned};

use super::{lints, local, show_at, shown_at, signature};
use crate::model::{Client, Key, Kind, Method, Subscribe};

/// The struct.
pub(super) fn definition(client: &Client) -> TokenStream {
    let Client { krate, cfgs, proxy, .. } = client;
    let ident = client.ident.unraw().to_string();
    let summary = format!(" The shared methods of [`{ident}`], as all processes can call them.");
    let place = format!(" `Cluster<{ident}>` derefs to it.");
    let lints = lints();
    // `pub`, since the visibility of the client cannot be seen from its `impl`; where the client is
    // less than that, nobody outside can get a value of it.
    quote! {
        #(#cfgs)*
        #[doc = #summary]
        #[doc = ""]
        #[doc = #place]
        #lints
        #[derive(::core::clone::Clone)]
        pub struct #proxy {
            core: #krate::__private::ProxyCore,
        }
    }
}

/// The methods, and `Debug`.
pub(super) fn implementation(client: &Client) -> TokenStream {
    let proxy = &client.proxy;
    let name = proxy.to_string();
    let methods = client.methods.iter().map(|method| one(client, method));
    quote! {
        impl #proxy {
            #(#methods)*
        }

        #[automatically_derived]
        impl ::core::fmt::Debug for #proxy {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#name).finish_non_exhaustive()
            }
        }
    }
}

fn one(client: &Client, method: &Method) -> TokenStream {
    let Method { vis, ident, .. } = method;
    let cfgs = &method.carried.cfgs;
    let notes = signature::notes(client, method);
    let asyncness = method.is_async.then(|| quote!(async));
    let inputs = signature::inputs(method);
    let output = signature::output(client, method);
    let body = body(client, method, &output);
    quote! {
        #(#cfgs)*
        #notes
        #vis #asyncness fn #ident(#inputs) -> #output {
            #body
        }
    }
}

fn body(client: &Client, method: &Method, output: &TokenStream) -> TokenStream {
    let place = method.ident.span();
    let index = index(method);
    let args = all_arguments(method);
    match &method.kind {
        Kind::Subscribe(subscribe) => open(client, method, subscribe),
        Kind::Publish { key, .. } => {
            let reply = publish(method, key);
            outcome(client, output, &reply)
        }
        Kind::Unpublish { publish: published, .. } => {
            let reply = publish(method, client.methods[*published].key());
            outcome(client, output, &reply)
        }
        Kind::Oneway(_) => {
            let queued = quote_spanned!(shown_at(place)=> self.core.oneway(#index, #args));
            let place = output.span();
            let output = quote_spanned!(shown_at(place)=> <#output as __cluster::OnewayOutcome>);
            quote_spanned!(shown_at(place)=> #output::from_queued(#queued))
        }
        Kind::Invoke { .. } => {
            let args = signature::writer(place, arguments(method));
            let reply = quote_spanned!(shown_at(place)=> self.core.invoke(#index, #args).await);
            outcome(client, output, &reply)
        }
    }
}

fn open(client: &Client, method: &Method, subscribe: &Subscribe) -> TokenStream {
    let krate = &client.krate;
    let index = index(method);
    let args = all_arguments(method);
    let value = subscribe.yields.value(krate);
    let place = subscribe.yields.item().span();
    let open = match (subscribe.one, &subscribe.answered) {
        (false, None) => quote!(subscribe),
        (false, Some(_)) => quote!(subscribe_answered),
        (true, None) => quote!(deliveries),
        (true, Some(_)) => quote!(deliveries_answered),
    };
    let open = show_at(place, quote!(self.core.#open::<__Codec, #value>));
    let opened = quote_spanned!(shown_at(place)=> #open(#index, #args));
    let Some(returns) = &subscribe.answered else { return opened };
    let revive = revive(client, returns);
    quote_spanned! {shown_at(returns.span())=>
        __cluster::opened::<#returns>(#opened.await, #revive)
    }
}

fn outcome(client: &Client, output: &TokenStream, reply: &TokenStream) -> TokenStream {
    let revive = revive(client, output);
    quote_spanned! {shown_at(output.span())=>
        __cluster::outcome::<__Codec, #output>(#reply, #revive)
    }
}

fn revive(Client { krate, .. }: &Client, returns: &TokenStream) -> TokenStream {
    show_at(returns.span(), quote!(#krate::__revive!()))
}

fn publish(method: &Method, key: &Key) -> TokenStream {
    let span = shown_at(method.ident.span());
    let index = index(method);
    let args = local("args", method.ident.span());
    let encoded = all_arguments(method);
    let key = match key {
        // The same bytes, encoded once.
        Key::Arguments => quote_spanned!(span=> #args.clone()),
        Key::Parts(parts) => {
            let parts = parts.iter().map(|part| (part.span(), key_part(method, part)));
            signature::encode(method.ident.span(), parts)
        }
    };
    quote_spanned! {span=> {
        let #args = #encoded;
        self.core.publish(#index, #key, #args).await
    }}
}

/// The number of a method.
fn index(Method { ident, .. }: &Method) -> TokenStream {
    show_at(ident.span(), quote!(__Method::#ident as usize))
}

/// The arguments as bytes.
fn all_arguments(method: &Method) -> TokenStream {
    signature::encode(method.ident.span(), arguments(method))
}

/// References to the arguments, each with its place.
fn arguments(method: &Method) -> impl Iterator<Item = (Span, TokenStream)> {
    method.params.iter().map(|param| (param.ty.span(), signature::reference(param)))
}

/// A part of a key, as a reference.
pub(super) fn key_part(method: &Method, part: &Expr) -> TokenStream {
    let place = part.span();
    match part {
        Expr::Reference(_) => quote!(#part),
        // A reference to a reference would be another type for a codec that is not serde.
        Expr::Path(path) if is_reference(method, path) => quote!(#part),
        Expr::Path(_)
        | Expr::Field(_)
        | Expr::MethodCall(_)
        | Expr::Call(_)
        | Expr::Lit(_)
        | Expr::Index(_) => quote_spanned!(place=> &#part),
        part => quote_spanned!(place=> &(#part)),
    }
}

fn is_reference(method: &Method, path: &ExprPath) -> bool {
    method.params.iter().any(|param| param.is_ref && path.path.is_ident(&param.ident))
}
