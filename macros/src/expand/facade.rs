//! `trait = pub Registry`: the proxy's methods as a trait, for fakes and generic code.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;

use super::{lints, signature};
use crate::model::{Client, Method};

/// The trait.
pub(super) fn definition(client: &Client) -> Option<TokenStream> {
    let (vis, name) = client.facade.as_ref()?;
    let (cfgs, ident) = (&client.cfgs, client.ident.unraw().to_string());
    let summary =
        format!(" The shared methods of [`{ident}`] as a trait, for fakes and generic code.");
    let place = format!(" `Cluster<{ident}>` implements it.");
    let lints = lints();
    let methods = client.methods.iter().map(|method| declaration(client, method));
    Some(quote! {
        #(#cfgs)*
        #[doc = #summary]
        #[doc = ""]
        #[doc = #place]
        #lints
        #vis trait #name {
            #(#methods)*
        }
    })
}

/// The futures are `Send`, which `async fn` in a trait cannot say.
fn declaration(client: &Client, method: &Method) -> TokenStream {
    let (cfgs, ident) = (&method.carried.cfgs, &method.ident);
    let notes = signature::notes(client, method);
    let inputs = signature::inputs(method);
    let output = signature::output(client, method);
    let output = if method.is_async {
        quote!(impl ::core::future::Future<Output = #output> + ::core::marker::Send)
    } else {
        output
    };
    quote! {
        #(#cfgs)*
        #notes
        fn #ident(#inputs) -> #output;
    }
}

/// Its implementation for `Cluster`.
pub(super) fn implementation(client: &Client) -> Option<TokenStream> {
    let (_, name) = client.facade.as_ref()?;
    let Client { krate, ty, .. } = client;
    let methods = client.methods.iter().map(|method| delegation(client, method));
    Some(quote! {
        #[automatically_derived]
        impl #name for #krate::Cluster<#ty> {
            #(#methods)*
        }
    })
}

fn delegation(client: &Client, method: &Method) -> TokenStream {
    let (cfgs, ident, proxy) = (&method.carried.cfgs, &method.ident, &client.proxy);
    let asyncness = method.is_async.then(|| quote!(async));
    let wait = method.is_async.then(|| quote!(.await));
    let inputs = signature::inputs(method);
    let output = signature::output(client, method);
    let values = method.params.iter().map(|param| &param.ident);
    quote! {
        #(#cfgs)*
        #asyncness fn #ident(#inputs) -> #output {
            #proxy::#ident(self #(, #values)*)#wait
        }
    }
}
