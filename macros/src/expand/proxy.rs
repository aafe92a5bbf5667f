//! The proxy: the client's shared methods, as every process sees them.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Expr, ext::IdentExt, spanned::Spanned};

use super::{lints, local, show_at, shown_at, signature};
use crate::model::{Client, Key, Kind, Method, Param};

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
    let krate = &client.krate;
    let ident = &method.ident;
    let span = shown_at(ident.span());
    let index = quote!(__Method::#ident as usize);
    let args = all_arguments(method);
    match &method.kind {
        Kind::Subscribe(subscribe) => {
            let value = subscribe.yields.value(krate);
            let place = subscribe.yields.item().span();
            let codec = show_at(place, quote!(__Codec));
            match (&subscribe.answered, subscribe.one) {
                (None, false) => {
                    quote_spanned!(span=> self.core.subscribe::<#codec, #value>(#index, #args))
                }
                (None, true) => {
                    quote_spanned!(span=> self.core.deliveries::<#codec, #value>(#index, #args))
                }
                (Some(returns), one) => {
                    let error = signature::error_of(returns);
                    let open =
                        if one { quote!(deliveries_answered) } else { quote!(subscribe_answered) };
                    let failure = local("failure");
                    quote_spanned! {span=>
                        self.core
                            .#open::<#codec, #value>(#index, #args)
                            .await
                            .map_err(|#failure| __cluster::failure(#failure, #krate::__revive!(#error)))
                    }
                }
            }
        }
        Kind::Publish { key, answer, .. } => {
            let answered = publish(method, key);
            outcome(client, output, &answered, &signature::error(answer))
        }
        Kind::Unpublish { publish: place, answer } => {
            let answered = match &client.methods[*place].kind {
                Kind::Publish { key, .. } => publish(method, key),
                // The pair is of these two kinds.
                _ => publish(method, &Key::Arguments),
            };
            outcome(client, output, &answered, &signature::error(answer))
        }
        Kind::Oneway(_) => quote_spanned! {span=>
            <#output as __cluster::OnewayOutcome>::from_queued(self.core.oneway(#index, #args))
        },
        Kind::Invoke { answer, .. } => {
            let answered = quote_spanned!(span=> self.core.invoke(#index, #args).await);
            outcome(client, output, &answered, &signature::error(answer))
        }
    }
}

fn publish(method: &Method, key: &Key) -> TokenStream {
    let ident = &method.ident;
    let span = shown_at(ident.span());
    let args = local("args");
    let encoded = all_arguments(method);
    let key = match key {
        // The same bytes, encoded once.
        Key::Arguments => quote!(#args.clone()),
        Key::Parts(parts) => {
            let parts = parts.iter().map(key_part);
            quote_spanned!(span=> __cluster::encode_args::<__Codec, _>((#(#parts,)*)))
        }
    };
    quote_spanned! {span=> {
        let #args = #encoded;
        self.core.publish(__Method::#ident as usize, #key, #args).await
    }}
}

fn outcome(
    client: &Client,
    output: &TokenStream,
    reply: &TokenStream,
    error: &TokenStream,
) -> TokenStream {
    let krate = &client.krate;
    let span = shown_at(output.span());
    quote_spanned!(span=> __cluster::outcome::<__Codec, _, _>(#reply, #krate::__revive!(#error)))
}

/// The arguments as bytes.
fn all_arguments(method: &Method) -> TokenStream {
    let params = method.params.iter().map(|Param { ident, ty, is_ref, .. }| {
        let borrow = (!is_ref).then(|| show_at(ty.span(), quote!(&)));
        quote!(#borrow #ident)
    });
    let span = shown_at(
        method.params.first().map_or_else(|| method.ident.span(), |param| param.ty.span()),
    );
    quote_spanned!(span=> __cluster::encode_args::<__Codec, _>((#(#params,)*)))
}

/// A part of a key, as a reference.
pub(super) fn key_part(part: &Expr) -> TokenStream {
    match part {
        Expr::Reference(_) => quote!(#part),
        Expr::Path(_)
        | Expr::Field(_)
        | Expr::MethodCall(_)
        | Expr::Call(_)
        | Expr::Lit(_)
        | Expr::Index(_) => {
            quote!(&#part)
        }
        part => quote!(&(#part)),
    }
}
