//! Checks the marked methods, one kind after the other.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Expr, Ident, ReturnType, Signature, Type, Visibility};

use super::{
    Context, Marked,
    attributes::{self, Carried},
    pairs::Pair,
    signature::{self, MOST_PARAMS, Origin, Param},
    stream::{self, Yield},
};
use crate::{
    diagnostics::Errors,
    marks::{self, Mark},
};

/// A method that can be reached over the wire.
pub(crate) struct Method {
    pub(crate) ident: Ident,
    pub(crate) vis: Visibility,
    pub(crate) carried: Carried,
    pub(crate) is_async: bool,
    pub(crate) params: Vec<Param>,
    /// 0: none given.
    pub(crate) version: u32,
    pub(crate) timeout: Option<Duration>,
    pub(crate) kind: Kind,
}

impl Method {
    /// The key of a publish method.
    pub(crate) fn key(&self) -> &Key {
        match &self.kind {
            Kind::Publish { key, .. } => key,
            _ => &Key::Arguments,
        }
    }
}

/// What a method does.
pub(crate) enum Kind {
    Subscribe(Subscribe),
    Publish {
        key: Key,
        /// The place of its `#[unpublish]` method.
        unpublish: Option<usize>,
        answer: Answer,
    },
    Unpublish {
        /// The place of its `#[publish]` method, whose key it has.
        publish: usize,
        answer: Answer,
    },
    /// `#[invoke(oneway)]`, with what it returns.
    Oneway(Option<Type>),
    Invoke {
        idempotent: bool,
        share: bool,
        answer: Answer,
    },
}

/// A subscribe method.
pub(crate) struct Subscribe {
    pub(crate) one: bool,
    pub(crate) quiet: Option<Duration>,
    pub(crate) yields: Yield,
    /// What the proxy returns where the method answers: `Result<Subscription<T>, E>`.
    pub(crate) answered: Option<TokenStream>,
}

/// The key of a publication.
#[derive(Clone)]
pub(crate) enum Key {
    /// All arguments.
    Arguments,
    /// `key = …`, the parts of a tuple one by one.
    Parts(Vec<Expr>),
}

/// What a method answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// A `Result`, or an alias of one.
    Result(Type),
    /// A value, and the type of `error = …` for what can go wrong between processes.
    Plain(TokenStream, Type),
}

/// Checks all methods that can be reached over the wire, and leaves out those with mistakes.
pub(super) fn check(
    marked: &[Marked],
    pairs: &[Pair],
    context: &Context,
    errors: &mut Errors,
) -> Vec<Method> {
    let mut checked: Vec<Option<Method>> =
        marked.iter().map(|marked| method(marked, context, errors)).collect();
    for unpublish in 0..checked.len() {
        let is_unpublish = matches!(&checked[unpublish], Some(method) if matches!(method.kind, Kind::Unpublish { .. }));
        let pair = pairs.iter().find(|pair| pair.unpublish == unpublish);
        if is_unpublish && pair.is_none_or(|pair| checked[pair.publish].is_none()) {
            checked[unpublish] = None;
        }
    }
    let places = places(&checked);
    let mut methods: Vec<Method> = checked.into_iter().flatten().collect();
    for pair in pairs {
        if let (Some(publish), Some(unpublish)) = (places[pair.publish], places[pair.unpublish]) {
            join(&mut methods, publish, unpublish);
        }
    }
    methods
}

/// Where each method stands once those that are not right are left out.
fn places(checked: &[Option<Method>]) -> Vec<Option<usize>> {
    let mut next = 0;
    let place = |method: &Option<Method>| {
        method.as_ref().map(|_| {
            next += 1;
            next - 1
        })
    };
    checked.iter().map(place).collect()
}

/// Tells a pair of each other. An unpublish method is there only where its publish method is.
fn join(methods: &mut [Method], publish: usize, unpublish: usize) {
    let cfgs = methods[publish].carried.cfgs.clone();
    methods[unpublish].carried.cfgs.extend(cfgs);
    if let Kind::Publish { unpublish: partner, .. } = &mut methods[publish].kind {
        *partner = Some(unpublish);
    }
    if let Kind::Unpublish { publish: partner, .. } = &mut methods[unpublish].kind {
        *partner = publish;
    }
}

fn method(marked: &Marked, context: &Context, errors: &mut Errors) -> Option<Method> {
    let sig = &marked.function.sig;
    let before = errors.count();
    let (kind, timeout, version) = match marked.found.mark.as_ref()? {
        Mark::Connect | Mark::Health | Mark::Close => return None,
        Mark::Subscribe(args) => (subscribe(sig, args, context, errors), None, args.version),
        Mark::Publish(args) => (publish(sig, args, context, errors), args.timeout, args.version),
        Mark::Unpublish(args) => (unpublish(sig, context, errors), args.timeout, args.version),
        Mark::Invoke(args) => (invoke(sig, args, context, errors), args.timeout, args.version),
    };
    signature::check_shape(sig, errors);
    signature::check_receiver(sig, errors);
    let params = signature::params(sig, Origin::Wire, errors);
    let carried = attributes::carried(&marked.attrs, errors);
    if errors.count() > before {
        return None;
    }
    Some(Method {
        ident: sig.ident.clone(),
        vis: marked.function.vis.clone(),
        is_async: sig.asyncness.is_some(),
        kind: kind?,
        carried,
        params,
        version,
        timeout,
    })
}

fn subscribe(
    sig: &Signature,
    args: &marks::Subscribe,
    context: &Context,
    errors: &mut Errors,
) -> Option<Kind> {
    let krate = &context.krate;
    let ReturnType::Type(_, ty) = &sig.output else {
        let message = "a subscribe method returns the stream: `-> impl Stream<Item = T>`";
        errors.at(&sig.ident, message);
        return None;
    };
    let (yields, answered) = if sig.asyncness.is_some() {
        let subscription = |yields: &Yield| {
            let value = yields.value(krate);
            let subscription = subscription(args.one);
            quote!(#krate::#subscription<#value>)
        };
        let Some((yields, returns)) = stream::in_result(ty, subscription) else {
            errors.at(
                ty,
                "an async subscribe method answers first, then streams: return \
                 `Result<impl Stream<Item = T>, E>`, or remove `async` and return \
                 `impl Stream<Item = T>`",
            );
            return None;
        };
        signature::check_not_borrowed(&returns, errors);
        (yields, Some(returns))
    } else if let Some(yields) = stream::yields(ty) {
        (yields, None)
    } else {
        errors.at(ty, no_stream(ty));
        return None;
    };
    signature::check_not_borrowed(yields.item(), errors);
    signature::check_named(yields.item(), errors);
    let quiet = args.quiet.as_ref().map(|(_, quiet)| *quiet);
    Some(Kind::Subscribe(Subscribe { one: args.one, quiet, yields, answered }))
}

/// The type of the main crate that the proxy returns for a stream.
pub(crate) fn subscription(one: bool) -> Ident {
    Ident::new(if one { "Deliveries" } else { "Subscription" }, Span::call_site())
}

fn no_stream(ty: &Type) -> &'static str {
    if stream::in_result(ty, |_| TokenStream::new()).is_some() {
        "whether the stream is refused is known after a round trip; make it an `async fn`, or \
         return `impl Stream<Item = Result<T, E>>`"
    } else if stream::is_stream_without_item(ty) {
        "say what the stream yields: `impl Stream<Item = T>`"
    } else {
        "a subscribe method returns a stream whose item can be read here: \
         `impl Stream<Item = T>`, `BoxStream<'_, T>` or `Pin<Box<dyn Stream<Item = T> + Send>>`"
    }
}

fn publish(
    sig: &Signature,
    args: &marks::Publish,
    context: &Context,
    errors: &mut Errors,
) -> Option<Kind> {
    check_async(sig, errors);
    let key = match &args.key {
        None => Key::Arguments,
        Some(key) => Key::Parts(key_parts(key, context, errors)?),
    };
    Some(Kind::Publish { key, unpublish: None, answer: answer(sig, context, errors)? })
}

/// The parts of a key: those of a tuple, or the one expression.
fn key_parts(key: &Expr, context: &Context, errors: &mut Errors) -> Option<Vec<Expr>> {
    let tokens = key.to_token_stream();
    if signature::mentions(&tokens, &Ident::new("self", Span::call_site())) {
        errors.at(
            key,
            "a key is taken in the process that publishes, where the client is not; use the \
             arguments alone",
        );
        return None;
    }
    let key: Expr = errors.ok(syn::parse2(signature::without_self(tokens, &context.client)))?;
    let parts = match key {
        Expr::Tuple(tuple) => tuple.elems.into_iter().collect(),
        one => vec![one],
    };
    if let Some(first_too_many) = parts.get(MOST_PARAMS) {
        errors.at(first_too_many, format!("a key has at most {MOST_PARAMS} parts; nest a tuple"));
        return None;
    }
    Some(parts)
}

fn unpublish(sig: &Signature, context: &Context, errors: &mut Errors) -> Option<Kind> {
    check_async(sig, errors);
    // The partner is filled in when both are known to be right.
    Some(Kind::Unpublish { publish: usize::MAX, answer: answer(sig, context, errors)? })
}

fn invoke(
    sig: &Signature,
    args: &marks::Invoke,
    context: &Context,
    errors: &mut Errors,
) -> Option<Kind> {
    if args.oneway {
        return Some(Kind::Oneway(match &sig.output {
            ReturnType::Default => None,
            ReturnType::Type(_, ty) => {
                signature::check_not_borrowed(ty, errors);
                Some((**ty).clone())
            }
        }));
    }
    check_async(sig, errors);
    let answer = answer(sig, context, errors)?;
    Some(Kind::Invoke { idempotent: args.idempotent, share: args.share, answer })
}

fn check_async(sig: &Signature, errors: &mut Errors) {
    if sig.asyncness.is_none() {
        errors.at(
            sig.fn_token,
            "the answer may come from another process, and must be awaited; make it an `async fn`",
        );
    }
}

fn answer(sig: &Signature, context: &Context, errors: &mut Errors) -> Option<Answer> {
    let ty = match &sig.output {
        ReturnType::Type(_, ty) if !is_unit(ty) => ty,
        _ => {
            if context.error.is_none() {
                errors.at(
                    &sig.ident,
                    "the call can fail between the processes; return `Result<(), E>` where \
                     `E: From<cluster_client::Error>`, or give `error = E` to `#[cluster_client]`",
                );
            }
            return context.error.clone().map(|error| Answer::Plain(quote!(()), error));
        }
    };
    signature::check_not_borrowed(ty, errors);
    signature::check_named(ty, errors);
    let is_result = stream::last_segment(ty).is_some_and(|last| last.ident == "Result");
    Some(match &context.error {
        Some(error) if !is_result => Answer::Plain(ty.to_token_stream(), error.clone()),
        _ => Answer::Result((**ty).clone()),
    })
}

pub(super) fn is_unit(ty: &Type) -> bool {
    matches!(signature::ungrouped(ty), Type::Tuple(tuple) if tuple.elems.is_empty())
}
