//! The checked model of a wrapped client: all validation ends here, so that what follows cannot
//! fail.

mod attributes;
mod lifecycle;
mod methods;
mod pairs;
mod signature;
mod stream;

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, Ident, ItemImpl, Path, Type, Visibility, ext::IdentExt};

pub(crate) use self::{
    lifecycle::{Close, Connect, Health},
    methods::{Answer, Key, Kind, Method, Subscribe, subscription},
    signature::Param,
};
use crate::{
    args::ClientArgs,
    diagnostics::Errors,
    marks::{self, Found},
    source::{Function, Item, Source},
};

/// A wrapped client.
pub(crate) struct Client {
    /// Path of the main crate.
    pub(crate) krate: TokenStream,
    /// The client's type, as the user wrote it.
    pub(crate) ty: TokenStream,
    /// The last segment of that type.
    pub(crate) ident: Ident,
    /// The name of the proxy.
    pub(crate) proxy: Ident,
    /// The name of the channel.
    pub(crate) name: String,
    /// Path of the codec.
    pub(crate) codec: TokenStream,
    /// `#[cfg(…)]` on the whole block.
    pub(crate) cfgs: Vec<Attribute>,
    /// `trait = pub Registry`.
    pub(crate) facade: Option<(Visibility, Ident)>,
    pub(crate) connect: Connect,
    pub(crate) health: Option<Health>,
    pub(crate) close: Option<Close>,
    /// The methods that can be reached over the wire.
    pub(crate) methods: Vec<Method>,
}

/// A function with its mark.
struct Marked {
    found: Found,
    attrs: Vec<Attribute>,
    function: Function,
}

/// What the checks of methods need to know of the client.
struct Context {
    krate: TokenStream,
    /// The client's type.
    client: TokenStream,
    /// `error = …`.
    error: Option<Type>,
}

/// Checks everything. Methods with mistakes are left out; `None` where too little is right to
/// generate anything.
pub(crate) fn check(args: ClientArgs, source: Source, errors: &mut Errors) -> Option<Client> {
    let path = client_path(&source.header, errors)?;
    let ident = path.segments.last()?.ident.clone();
    let ty = path.to_token_stream();
    let krate = args.krate.map_or_else(|| quote!(::cluster_client), Path::into_token_stream);
    let codec = codec(args.codec, &krate, errors);
    let cfgs = attributes::carried(&source.header.attrs, errors).cfgs;
    let context = Context { krate, client: ty.clone(), error: args.error };

    let marked: Vec<_> =
        source.items.into_iter().filter_map(|item| marked(item, &ty, errors)).collect();
    if marked.iter().all(|marked| matches!(&*marked.found.name, "connect" | "health" | "close")) {
        errors.at(
            &ident,
            "no method can be called from other processes; mark those that should be with \
             `#[subscribe]`, `#[publish]` or `#[invoke]`",
        );
    }
    let methods = methods::check(&marked, &pairs::find(&marked, errors), &context, errors);
    let connect = the_connect(&marked, &ident, &ty, errors);
    let health = at_most_one("health", &marked, errors);
    let health = health.and_then(|marked| lifecycle::health(marked, errors));
    let close = at_most_one("close", &marked, errors);
    let close = close.and_then(|marked| lifecycle::close(marked, errors));
    Some(Client {
        connect: connect?,
        proxy: format_ident!("{}Proxy", ident),
        name: args.name.map_or_else(|| ident.unraw().to_string(), |name| name.value()),
        krate: context.krate,
        facade: args.facade,
        cfgs,
        ty,
        ident,
        codec,
        health,
        close,
        methods,
    })
}

/// The type of the client, which must be a plain path.
fn client_path<'a>(header: &'a ItemImpl, errors: &mut Errors) -> Option<&'a Path> {
    if let Some((path, _)) = &header.trait_ {
        errors.at(
            path,
            "`#[cluster_client]` goes on an inherent `impl`; for a trait with the methods that \
             are shared, write `#[cluster_client(trait = pub MyTrait)]`",
        );
        return None;
    }
    let before = errors.count();
    for param in &header.generics.params {
        errors.at(
            param,
            "a shared client cannot be generic: all processes must mean the same type by the \
             channel; write the `impl` for a concrete type, for example a newtype",
        );
    }
    if let (true, Some(clause)) = (errors.count() == before, &header.generics.where_clause) {
        errors.at(clause, "the `impl` of a shared client cannot have a `where` clause; remove it");
    }
    let path = match signature::ungrouped(&header.self_ty) {
        Type::Path(path) if path.qself.is_none() => Some(&path.path),
        _ => None,
    };
    let plain = path.filter(|path| path.segments.iter().all(|segment| segment.arguments.is_none()));
    if plain.is_none() && errors.count() == before {
        errors.at(
            &header.self_ty,
            "a shared client is a struct or enum without parameters, since its name names the \
             channel and the proxy; wrap this type in a newtype",
        );
    }
    plain.filter(|_| errors.count() == before)
}

fn codec(path: Option<Path>, krate: &TokenStream, errors: &mut Errors) -> TokenStream {
    const OURS: [&str; 3] = ["MessagePack", "Json", "Protobuf"];
    let default = quote!(#krate::__private::MessagePack);
    let Some(path) = path else { return default };
    let Some(ident) = path.get_ident() else { return path.into_token_stream() };
    if OURS.iter().any(|ours| ident == ours) {
        return quote!(#krate::__private::#ident);
    }
    let message = format!(
        "unknown codec `{ident}`: expected `MessagePack`, `Json`, `Protobuf`, or the path of your \
         own type with `::` in it, as `self::{ident}`"
    );
    errors.at(ident, message);
    default
}

fn marked(item: Item, client: &TokenStream, errors: &mut Errors) -> Option<Marked> {
    let found = marks::read(&item.attrs, errors)?;
    let Some(mut function) = item.function else {
        errors.at(&found.attr, format!("`#[{}]` goes on a method", found.name));
        return None;
    };
    let sig = signature::without_self(function.sig.to_token_stream(), client);
    function.sig = errors.ok(syn::parse2(sig))?;
    Some(Marked { found, attrs: item.attrs, function })
}

fn the_connect(
    marked: &[Marked],
    client: &Ident,
    ty: &TokenStream,
    errors: &mut Errors,
) -> Option<Connect> {
    let connect = at_most_one("connect", marked, errors);
    if connect.is_none() {
        errors.at(
            client,
            "no method says how the leader connects; mark it with `#[connect]`: \
             `#[connect] async fn connect(options: Options) -> Result<Self, Error>`",
        );
    }
    connect.and_then(|marked| lifecycle::connect(marked, ty, errors))
}

/// The method with this mark; more than one is a mistake.
fn at_most_one<'a>(mark: &str, marked: &'a [Marked], errors: &mut Errors) -> Option<&'a Marked> {
    let mut with_mark = marked.iter().filter(|marked| marked.found.name == mark);
    let first = with_mark.next();
    for second in with_mark {
        let message = format!("a client has one `#[{mark}]` method; remove this mark");
        errors.at(&second.found.attr, message);
    }
    first
}
