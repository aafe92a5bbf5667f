//! What a marked method may look like, and its parameters.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{FnArg, Ident, Pat, PatType, ReceiverKind, Safety, Signature, Type, TypeReference};

use crate::diagnostics::Errors;

/// Most parameters that a method has: the main crate encodes tuples of up to this many.
pub(crate) const MOST_PARAMS: usize = 8;

/// A parameter of a method.
pub(crate) struct Param {
    pub(crate) ident: Ident,
    /// Its type as the user wrote it.
    pub(crate) ty: Type,
    /// The type that its bytes are decoded to.
    pub(crate) owned: TokenStream,
    /// Whether the method takes a reference to it.
    pub(crate) is_ref: bool,
}

/// Where the values of the parameters come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Another process: they are decoded.
    Wire,
    /// `#[connect]`: they stay in the process.
    Here,
}

/// Refuses what no marked function may be.
pub(crate) fn check_shape(sig: &Signature, errors: &mut Errors) {
    if let Some(token) = &sig.constness {
        errors.at(token, "a marked method cannot be `const`; remove `const`");
    }
    if let Safety::Unsafe(token) = &sig.safety {
        errors.at(
            token,
            "other processes cannot keep the promises of an `unsafe fn`; wrap it in a safe method \
             and mark that",
        );
    }
    if let Some(abi) = &sig.abi {
        errors.at(abi, "a marked method cannot be `extern`; remove it");
    }
    for param in &sig.generics.params {
        let message = match param {
            syn::GenericParam::Lifetime(_) => {
                "a marked method cannot have lifetime parameters: its arguments are decoded for \
                 the call; leave lifetimes out (`&self`, `&str`) or take owned values"
            }
            _ => {
                "a marked method cannot be generic: other processes call it with one set of \
                 types; name the types, and write a method for each that is needed"
            }
        };
        errors.at(param, message);
    }
    if let (true, Some(clause)) = (sig.generics.params.is_empty(), &sig.generics.where_clause) {
        errors.at(clause, "a marked method cannot have a `where` clause; remove it");
    }
    if let Some(variadic) = &sig.variadic {
        errors.at(variadic, "a marked method cannot be variadic; take a `Vec`");
    }
}

/// Refuses a method that does not take `&self`.
pub(crate) fn check_receiver(sig: &Signature, errors: &mut Errors) {
    let Some(receiver) = sig.receiver() else {
        let message = "the leader calls this method on the one client of the host; take `&self`";
        errors.at(&sig.ident, message);
        return;
    };
    let message = match &receiver.kind {
        ReceiverKind::Reference(_, _, None) => return,
        ReceiverKind::Reference(_, _, Some(_)) => {
            "all processes call the client at the same time; take `&self` and keep what changes \
             in a lock or an atomic"
        }
        ReceiverKind::Typed(_, ty) if is_shared_reference(ty) => return,
        _ => "the client outlives every call; take `&self`",
    };
    errors.at(receiver, message);
}

/// The type itself, where a `macro_rules!` put its `$ty:ty` between delimiters that cannot be seen.
pub(crate) fn ungrouped(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => ungrouped(&group.elem),
        ty => ty,
    }
}

fn is_shared_reference(ty: &Type) -> bool {
    // What is behind the reference is left to rustc: `self: &Arc<Self>` is refused there.
    matches!(ty, Type::Reference(TypeReference { mutability: None, .. }))
}

/// The parameters without `self`; wrong ones are reported and left out.
pub(crate) fn params(sig: &Signature, origin: Origin, errors: &mut Errors) -> Vec<Param> {
    let typed: Vec<&PatType> = sig
        .inputs
        .iter()
        .filter_map(|input| match input {
            FnArg::Typed(typed) => Some(typed),
            FnArg::Receiver(_) => None,
        })
        .collect();
    if let Some(first_too_many) = typed.get(MOST_PARAMS) {
        let message = format!("at most {MOST_PARAMS} arguments; put them in a struct");
        errors.at(first_too_many, message);
    }
    typed.into_iter().filter_map(|typed| param(typed, origin, errors)).collect()
}

fn param(typed: &PatType, origin: Origin, errors: &mut Errors) -> Option<Param> {
    if let Some(attr) = typed.attrs.iter().find(|attr| is_conditional(attr)) {
        errors.at(attr, "an argument cannot be conditional; put `#[cfg(…)]` on two methods");
        return None;
    }
    let ident = match &*typed.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => pat.ident.clone(),
        pat => {
            errors.at(pat, "an argument needs a plain name here; take it apart in the body");
            return None;
        }
    };
    let before = errors.count();
    let (referent, is_ref) = referent(&typed.ty, errors);
    check_owned(referent, origin, errors);
    if errors.count() > before {
        return None;
    }
    Some(Param { ident, owned: owned(referent, is_ref), ty: (*typed.ty).clone(), is_ref })
}

fn is_conditional(attr: &syn::Attribute) -> bool {
    attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr")
}

fn referent<'a>(ty: &'a Type, errors: &mut Errors) -> (&'a Type, bool) {
    match ungrouped(ty) {
        Type::Reference(reference) => {
            // Of a lifetime parameter it is said that the method cannot have it.
            if let Some(lifetime) = &reference.lifetime
                && lifetime.ident == "static"
            {
                errors.at(
                    lifetime,
                    "an argument is decoded for the call and lives no longer; leave the lifetime \
                     out or take an owned value",
                );
            }
            if let Some(token) = &reference.mutability {
                errors.at(
                    token,
                    "what is written to a `&mut` argument cannot reach the caller, which may be \
                     another process; return it",
                );
            }
            (ungrouped(&reference.elem), true)
        }
        ty => (ty, false),
    }
}

fn check_owned(ty: &Type, origin: Origin, errors: &mut Errors) {
    let tokens = ty.to_token_stream();
    if let Some(token) =
        find(&tokens, |token| matches!(token, TokenTree::Punct(p) if p.as_char() == '&'))
    {
        errors.at(
            token,
            "only the whole argument can be a reference (`&str`, `&[T]`, `&T`), since it is \
             decoded to an owned value; use an owned type here",
        );
    }
    if let Some(token) = find(&tokens, |token| is_word(token, "impl")) {
        errors.at(token, "the type of an argument must be named here, for example `String`");
    }
    if origin == Origin::Wire
        && let Some(token) = find(&tokens, |token| is_word(token, "dyn"))
    {
        errors.at(token, "a `dyn` value cannot cross processes; use a type that is serde");
    }
}

/// The form that an argument is decoded to: `&str` → `String`, `&[T]` → `Vec<T>`, `&T` → `T`.
fn owned(referent: &Type, is_ref: bool) -> TokenStream {
    match referent {
        Type::Path(path) if is_ref && path.path.is_ident("str") => quote!(::std::string::String),
        Type::Slice(slice) if is_ref => {
            let elem = &slice.elem;
            quote!(::std::vec::Vec<#elem>)
        }
        ty => ty.to_token_stream(),
    }
}

/// Refuses a type that borrows: results and values cross processes.
pub(crate) fn check_not_borrowed(ty: &impl ToTokens, errors: &mut Errors) {
    if let Some(token) = borrow(ty.to_token_stream()) {
        errors.at(
            token,
            "what a method gives crosses processes and cannot borrow; return an owned value",
        );
    }
}

/// Refuses `impl Trait`: the caller's process must know the type.
pub(crate) fn check_named(ty: &Type, errors: &mut Errors) {
    if let Some(token) = find(&ty.to_token_stream(), |token| is_word(token, "impl")) {
        errors.at(token, "the caller's process must know the type to decode it; name it");
    }
}

/// The first `&`, or lifetime other than `'static`.
fn borrow(tokens: TokenStream) -> Option<TokenTree> {
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match &token {
            TokenTree::Punct(punct) if punct.as_char() == '&' => return Some(token),
            TokenTree::Punct(punct) if punct.as_char() == '\'' => match tokens.next() {
                Some(TokenTree::Ident(name)) if name == "static" => {}
                name => return name,
            },
            TokenTree::Group(group) => {
                if let Some(found) = borrow(group.stream()) {
                    return Some(found);
                }
            }
            _ => {}
        }
    }
    None
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn find(tokens: &TokenStream, is: impl Fn(&TokenTree) -> bool) -> Option<TokenTree> {
    let mut found = None;
    walk(tokens, &mut |token| {
        if found.is_none() && is(token) {
            found = Some(token.clone());
        }
    });
    found
}

/// Calls `visit` with every token, those in groups too.
fn walk(tokens: &TokenStream, visit: &mut dyn FnMut(&TokenTree)) {
    for token in tokens.clone() {
        visit(&token);
        if let TokenTree::Group(group) = &token {
            walk(&group.stream(), visit);
        }
    }
}

/// Whether this identifier is among the tokens.
pub(crate) fn mentions(tokens: &TokenStream, ident: &Ident) -> bool {
    find(tokens, |token| matches!(token, TokenTree::Ident(found) if found == ident)).is_some()
}

/// The tokens with the name of the client for `Self`, which means another type in the proxy.
pub(crate) fn without_self(tokens: TokenStream, client: &TokenStream) -> TokenStream {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Ident(ident) if ident == "Self" => respanned(client, ident.span()),
            TokenTree::Group(group) => {
                let inside = without_self(group.stream(), client);
                let mut replaced = proc_macro2::Group::new(group.delimiter(), inside);
                replaced.set_span(group.span());
                TokenTree::Group(replaced).into()
            }
            token => TokenStream::from(token),
        })
        .collect()
}

fn respanned(tokens: &TokenStream, span: proc_macro2::Span) -> TokenStream {
    tokens
        .clone()
        .into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}
