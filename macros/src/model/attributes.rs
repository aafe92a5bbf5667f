//! Which attributes of a method go with it to the proxy.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Meta, Token, parse::Parser, punctuated::Punctuated};

use crate::diagnostics::Errors;

/// The attributes that go with a method.
#[derive(Default)]
pub(crate) struct Carried {
    /// `#[cfg(…)]`: goes on everything that is generated for the method.
    pub(crate) cfgs: Vec<Attribute>,
    /// Documentation, `#[deprecated]`, `#[must_use]` and allowed lints: go on the proxy's method.
    pub(crate) notes: Vec<TokenStream>,
    /// Whether there is documentation among them.
    pub(crate) documented: bool,
}

/// Sorts the attributes of a method.
pub(crate) fn carried(attrs: &[Attribute], errors: &mut Errors) -> Carried {
    let mut carried = Carried::default();
    for attr in attrs {
        let path = attr.path();
        if path.is_ident("cfg") {
            carried.cfgs.push(attr.clone());
        } else if path.is_ident("cfg_attr") {
            carry_conditional(attr, &mut carried, errors);
        } else if path.is_ident("expect") {
            // What is expected of the method need not happen in the proxy.
            if let Meta::List(list) = &attr.meta {
                let lints = &list.tokens;
                carried.notes.push(quote!(#[allow(#lints)]));
            }
        } else if is_note(&attr.meta) {
            carried.documented |= path.is_ident("doc");
            carried.notes.push(attr.to_token_stream());
        }
    }
    carried
}

fn is_note(meta: &Meta) -> bool {
    ["doc", "deprecated", "must_use", "allow"].iter().any(|note| meta.path().is_ident(note))
}

fn carry_conditional(attr: &Attribute, carried: &mut Carried, errors: &mut Errors) {
    let Meta::List(list) = &attr.meta else { return };
    let parser = Punctuated::<Meta, Token![,]>::parse_terminated;
    // What does not parse is left to rustc, and stays on the user's method alone.
    let Ok(metas) = parser.parse2(list.tokens.clone()) else { return };
    let conditional: Vec<_> = metas.iter().skip(1).collect();
    if let Some(cfg) = conditional.iter().find(|meta| meta.path().is_ident("cfg")) {
        errors.at(
            cfg,
            "a condition in `cfg_attr` cannot be followed here; write `#[cfg(all(…))]` on the method",
        );
    } else if !conditional.is_empty() && conditional.iter().all(|meta| is_note(meta)) {
        carried.notes.push(attr.to_token_stream());
    }
}
