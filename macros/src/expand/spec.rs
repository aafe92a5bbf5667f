//! The methods and their order: what requests name by number.

use std::time::Duration;

use proc_macro2::{Literal, TokenStream};
use quote::quote;
use syn::{ext::IdentExt, spanned::Spanned};

use super::show_at;
use crate::model::{Answer, Client, Kind, Method, Param};

/// The enum of all methods. Its numbers are the indices, and stay right when a `#[cfg]` drops a
/// method.
pub(super) fn methods(client: &Client) -> TokenStream {
    let entry = |method: &Method| {
        let (cfgs, ident) = (method.carried.cfgs.clone(), method.ident.clone());
        (quote!(#(#cfgs)* #ident), quote!(#(#cfgs)* Self::#ident))
    };
    let (variants, all): (Vec<_>, Vec<_>) = client.methods.iter().map(entry).unzip();
    quote! {
        enum __Method {
            #(#variants,)*
        }

        impl __Method {
            const ALL: &[Self] = &[#(#all,)*];
        }
    }
}

/// The constant that describes the client.
pub(super) fn spec(client: &Client) -> TokenStream {
    let name = &client.name;
    let codec = show_at(client.codec.span(), quote!(<__Codec as __cluster::Codec>::NAME));
    let methods = client.methods.iter().map(|method| entry(client, method));
    quote! {
        const SPEC: __cluster::ChannelSpec = __cluster::ChannelSpec {
            name: #name,
            codec: #codec,
            methods: &[#(#methods,)*],
        };
    }
}

fn entry(client: &Client, method: &Method) -> TokenStream {
    let cfgs = &method.carried.cfgs;
    let name = method.ident.unraw().to_string();
    let kind = kind(client, method);
    // At most eight.
    let args = Literal::usize_unsuffixed(method.params.len());
    let version = Literal::u32_unsuffixed(method.version);
    let timeout = duration(method.timeout);
    quote! {
        #(#cfgs)*
        __cluster::MethodSpec {
            name: #name,
            kind: __cluster::MethodKind::#kind,
            args: #args,
            version: #version,
            timeout: #timeout,
        }
    }
}

fn kind(client: &Client, method: &Method) -> TokenStream {
    match &method.kind {
        Kind::Subscribe(subscribe) => {
            let (one, answered) = (subscribe.one, subscribe.answered.is_some());
            let quiet = duration(subscribe.quiet);
            quote!(Subscribe { one: #one, answered: #answered, quiet: #quiet })
        }
        Kind::Publish { unpublish, .. } => {
            let unpublish = index_if_there(unpublish.map(|place| &client.methods[place]));
            quote!(Publish { unpublish: #unpublish })
        }
        Kind::Unpublish { publish, .. } => {
            let publish = &client.methods[*publish].ident;
            quote!(Unpublish { publish: __Method::#publish as usize })
        }
        Kind::Oneway(_) => quote!(Invoke { oneway: true, idempotent: false, share: false }),
        Kind::Invoke { idempotent, share, .. } => {
            quote!(Invoke { oneway: false, idempotent: #idempotent, share: #share })
        }
    }
}

fn index_if_there(method: Option<&Method>) -> TokenStream {
    let Some(method) = method else { return quote!(::core::option::Option::None) };
    let (cfgs, ident) = (&method.carried.cfgs, &method.ident);
    let index = quote!(::core::option::Option::Some(__Method::#ident as usize));
    if cfgs.is_empty() {
        return index;
    }
    quote! {{
        let mut index = ::core::option::Option::None;
        #(#cfgs)*
        {
            index = #index;
        }
        index
    }}
}

fn duration(duration: Option<Duration>) -> TokenStream {
    match duration {
        None => quote!(::core::option::Option::None),
        Some(duration) => {
            // Durations are read as a number of milliseconds that fits.
            let millis =
                Literal::u64_unsuffixed(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
            quote!(::core::option::Option::Some(::core::time::Duration::from_millis(#millis)))
        }
    }
}

/// Lets rustc compare the types of what is published and what is withdrawn, and see that neither
/// gives a value.
pub(super) fn assertions(client: &Client) -> TokenStream {
    client.methods.iter().map(|method| method_assertions(client, method)).collect()
}

fn method_assertions(client: &Client, method: &Method) -> TokenStream {
    let (answer, same) = match &method.kind {
        Kind::Publish { answer, .. } => (answer, Vec::new()),
        Kind::Unpublish { publish, answer } => {
            let published = &client.methods[*publish].params;
            (answer, published.iter().zip(&method.params).map(assert_same).collect())
        }
        _ => return TokenStream::new(),
    };
    let (place, value) = match answer {
        Answer::Result(ty) => (ty.span(), quote!(<#ty as __cluster::Outcome>::Value)),
        Answer::Plain(value, _) => (value.span(), value.clone()),
    };
    let no_value = show_at(place, quote!(__cluster::assert_no_value::<#value>()));
    let cfgs = &method.carried.cfgs;
    quote! {
        #(#cfgs)*
        const _: () = {
            #no_value;
            #(#same;)*
        };
    }
}

fn assert_same((published, withdrawn): (&Param, &Param)) -> TokenStream {
    let (published, place) = (&published.owned, withdrawn.ty.span());
    let withdrawn = &withdrawn.owned;
    show_at(place, quote!(__cluster::assert_same::<#published, #withdrawn>()))
}
