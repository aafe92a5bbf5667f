//! Checks the methods that only the leader calls: `#[connect]`, `#[health]` and `#[close]`.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{FnArg, Ident, ReturnType, Signature, Type};

use super::{
    Marked,
    attributes::{self, Carried},
    methods::is_unit,
    signature::{self, Origin, Param},
    stream,
};
use crate::diagnostics::Errors;

/// The `#[connect]` method.
pub(crate) struct Connect {
    pub(crate) ident: Ident,
    pub(crate) params: Vec<Param>,
    pub(crate) returns: Type,
}

/// The `#[health]` method.
pub(crate) struct Health {
    pub(crate) ident: Ident,
    pub(crate) carried: Carried,
}

/// The `#[close]` method.
pub(crate) struct Close {
    pub(crate) ident: Ident,
    pub(crate) carried: Carried,
    pub(crate) is_async: bool,
}

/// Checks `#[connect]`.
pub(super) fn connect(
    marked: &Marked,
    client: &TokenStream,
    errors: &mut Errors,
) -> Option<Connect> {
    let sig = &marked.function.sig;
    let before = errors.count();
    marked.found.mark.as_ref()?;
    signature::check_shape(sig, errors);
    if let Some(receiver) = sig.receiver() {
        errors.at(
            receiver,
            "`#[connect]` makes the client, so there is no `self` yet; take what it needs as \
             arguments",
        );
    }
    if sig.asyncness.is_none() {
        errors.at(sig.fn_token, "`#[connect]` is awaited by the leader; make it an `async fn`");
    }
    if let Some(cfg) = attributes::carried(&marked.attrs, errors).cfgs.first() {
        errors.at(
            cfg,
            "every client needs its `#[connect]`; put the condition into its body, or on the `impl`",
        );
    }
    let params = signature::params(sig, Origin::Here, errors);
    let ReturnType::Type(_, returns) = &sig.output else {
        let message = "`#[connect]` gives the client, or why there is none: `-> Result<Self, E>`";
        errors.at(&sig.ident, message);
        return None;
    };
    if returns.to_token_stream().to_string() == client.to_string() {
        errors
            .at(returns, "connecting can fail, and is tried again then: return `Result<Self, E>`");
    }
    (errors.count() == before).then(|| Connect {
        ident: sig.ident.clone(),
        params,
        returns: (**returns).clone(),
    })
}

/// Checks `#[health]`.
pub(super) fn health(marked: &Marked, errors: &mut Errors) -> Option<Health> {
    let sig = &marked.function.sig;
    let before = errors.count();
    marked.found.mark.as_ref()?;
    check_alone(sig, "health", errors);
    if let Some(token) = &sig.asyncness {
        errors.at(token, "`#[health]` returns its stream at once; remove `async`");
    }
    let returns_stream =
        matches!(&sig.output, ReturnType::Type(_, ty) if stream::yields(ty).is_some());
    if !returns_stream {
        errors.at(&sig.ident, "`#[health]` returns `impl Stream<Item = cluster_client::Health>`");
    }
    let carried = attributes::carried(&marked.attrs, errors);
    (errors.count() == before).then(|| Health { ident: sig.ident.clone(), carried })
}

/// Checks `#[close]`.
pub(super) fn close(marked: &Marked, errors: &mut Errors) -> Option<Close> {
    let sig = &marked.function.sig;
    let before = errors.count();
    marked.found.mark.as_ref()?;
    check_alone(sig, "close", errors);
    if let ReturnType::Type(_, ty) = &sig.output
        && !is_unit(ty)
    {
        errors.at(ty, "nobody is left to read what `#[close]` returns; log it and return nothing");
    }
    let carried = attributes::carried(&marked.attrs, errors);
    let is_async = sig.asyncness.is_some();
    (errors.count() == before).then(|| Close { ident: sig.ident.clone(), carried, is_async })
}

/// Refuses arguments, and what no marked method may be.
fn check_alone(sig: &Signature, mark: &str, errors: &mut Errors) {
    signature::check_shape(sig, errors);
    signature::check_receiver(sig, errors);
    if let Some(param) = sig.inputs.iter().find(|input| matches!(input, FnArg::Typed(_))) {
        errors.at(
            param,
            format!("`#[{mark}]` is called by the leader with `&self` alone; remove it"),
        );
    }
}
