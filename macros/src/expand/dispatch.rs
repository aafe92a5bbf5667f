//! `ClusterClient` for the user's type: how the leader calls it with bytes.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;

use super::{local, proxy::key_part, show_at, shown_at, signature, spec};
use crate::model::{Answer, Client, Key, Kind, Method, Param, Subscribe};

/// The implementation of `ClusterClient`.
pub(super) fn implementation(client: &Client) -> TokenStream {
    let Client { ty, proxy, .. } = client;
    let options = options_type(client);
    let place =
        client.connect.params.first().map_or(client.connect.ident.span(), |param| param.ty.span());
    let options_item = show_at(place, quote!(type Options = #options;));
    let spec = spec::spec(client);
    let connect = connect(client, &options);
    let call = call(client);
    let open = open(client);
    let key = key(client);
    let unit = unit(client);
    let health = health(client);
    let close = close(client);
    quote! {
        #[automatically_derived]
        impl __cluster::ClusterClient for #ty {
            #options_item
            type Proxy = #proxy;
            #spec

            fn proxy(core: __cluster::ProxyCore) -> #proxy {
                #proxy { core }
            }

            #connect
            #call
            #open
            #key
            #unit
            #health
            #close
        }
    }
}

fn options_type(client: &Client) -> TokenStream {
    let types = client.connect.params.iter().map(|param| &param.owned);
    match &*client.connect.params {
        [only] => only.owned.clone(),
        _ => quote!((#(#types,)*)),
    }
}

fn connect(client: &Client, options_type: &TokenStream) -> TokenStream {
    let connect = &client.connect;
    let ident = &connect.ident;
    let place = ident.span();
    let idents = connect.params.iter().map(|param| &param.ident);
    let pattern = match &*connect.params {
        [only] => only.ident.to_token_stream(),
        _ => quote!((#(#idents,)*)),
    };
    let values = connect.params.iter().map(|param| passed(param, place));
    let options = local("options", place);
    let describe = describe(client, &connect.returns);
    let returned = shown_at(connect.returns.span());
    let connected = quote_spanned!(shown_at(place)=> Self::#ident(#(#values),*).await);
    let connected = quote_spanned!(returned=> __cluster::connected(#connected, #describe));
    let future = quote_spanned! {shown_at(place)=>
        __cluster::boxed(async move {
            let #pattern = #options;
            #connected
        })
    };
    quote! {
        fn connect(
            #options: #options_type,
        ) -> __cluster::BoxFuture<::core::result::Result<Self, __cluster::Failure>> {
            #future
        }
    }
}

fn call(client: &Client) -> TokenStream {
    let arms = client.methods.iter().filter_map(|method| {
        let reply = match &method.kind {
            Kind::Subscribe(_) => return None,
            Kind::Publish { answer, .. }
            | Kind::Unpublish { answer, .. }
            | Kind::Invoke { answer, .. } => reply(client, method, answer),
            Kind::Oneway(_) => reply_oneway(client, method),
        };
        Some(arm(method, &run_decoded(method, &reply)))
    });
    quote! {
        fn call(
            self: __cluster::Arc<Self>,
            __method: usize,
            __args: __cluster::Bytes,
        ) -> ::core::result::Result<__cluster::BoxFuture<__cluster::Reply>, __cluster::Error> {
            match __Method::ALL.get(__method) {
                #(#arms)*
                _ => ::core::result::Result::Err(__cluster::no_such_method(__method)),
            }
        }
    }
}

fn reply(client: &Client, method: &Method, answer: &Answer) -> TokenStream {
    let call = users_call(method);
    let output = signature::output(client, method);
    let (place, result) = match answer {
        Answer::Result(ty) => (ty.span(), call),
        Answer::Plain(value, _) => {
            let span = shown_at(value.span());
            (value.span(), quote_spanned!(span=> ::core::result::Result::Ok(#call)))
        }
    };
    let describe = describe(client, &output);
    quote_spanned! {shown_at(place)=>
        __cluster::reply::<__Codec, #output>(#result, #describe)
    }
}

fn reply_oneway(client: &Client, method: &Method) -> TokenStream {
    let Client { krate, .. } = client;
    let call = users_call(method);
    let output = signature::output(client, method);
    let place = match &method.kind {
        Kind::Oneway(Some(ty)) => ty.span(),
        _ => method.ident.span(),
    };
    let describe = show_at(place, quote!(#krate::__describe!()));
    quote_spanned! {shown_at(place)=>
        __cluster::reply_oneway::<#output>(#call, #describe)
    }
}

fn open(client: &Client) -> TokenStream {
    let arms = client.methods.iter().filter_map(|method| {
        let Kind::Subscribe(subscribe) = &method.kind else { return None };
        Some(arm(method, &run_decoded(method, &run(client, method, subscribe))))
    });
    quote! {
        fn open(
            self: __cluster::Arc<Self>,
            __method: usize,
            __args: __cluster::Bytes,
            __sink: __cluster::Sink,
        ) -> ::core::result::Result<__cluster::BoxFuture<__cluster::End>, __cluster::Error> {
            match __Method::ALL.get(__method) {
                #(#arms)*
                _ => ::core::result::Result::Err(__cluster::no_such_method(__method)),
            }
        }
    }
}

/// The stream borrows the client and its arguments, so it lives and ends in the future.
fn run(client: &Client, method: &Method, subscribe: &Subscribe) -> TokenStream {
    let call = users_call(method);
    let Some(returns) = &subscribe.answered else {
        let stream = local("stream", method.ident.span());
        let pour = pour(client, subscribe);
        return quote_spanned! {shown_at(method.ident.span())=>
            let #stream = #call;
            #pour
        };
    };
    let place = returns.span();
    let (stream, error) = (local("stream", place), local("error", place));
    let pour = pour(client, subscribe);
    let describe = describe(client, returns);
    quote_spanned! {shown_at(place)=>
        match __cluster::Outcome::into_result(#call) {
            ::core::result::Result::Ok(#stream) => #pour,
            ::core::result::Result::Err(#error) => __cluster::refused(&#error, #describe),
        }
    }
}

fn pour(client: &Client, subscribe: &Subscribe) -> TokenStream {
    let item = subscribe.yields.item();
    let place = item.span();
    let (sink, stream) = (local("sink", place), local("stream", place));
    if subscribe.yields.is_result {
        let describe = describe(client, item);
        quote_spanned! {shown_at(place)=>
            #sink.run_results::<__Codec, _, _, _>(#stream, #describe).await
        }
    } else {
        quote_spanned!(shown_at(place)=> #sink.run::<__Codec, _, _>(#stream).await)
    }
}

fn key(client: &Client) -> TokenStream {
    let arms = client.methods.iter().filter_map(|method| {
        let key = key_of(client, method)?;
        let decode = decode(method);
        Some(arm(method, &quote!(#decode #key)))
    });
    quote! {
        fn key(
            __method: usize,
            __args: __cluster::Bytes,
        ) -> ::core::result::Result<__cluster::Bytes, __cluster::Error> {
            match __Method::ALL.get(__method) {
                #(#arms)*
                _ => ::core::result::Result::Err(__cluster::no_such_method(__method)),
            }
        }
    }
}

/// The key of a method that has one, out of its decoded arguments.
fn key_of(client: &Client, method: &Method) -> Option<TokenStream> {
    let key = match &method.kind {
        Kind::Subscribe(_) | Kind::Invoke { share: true, .. } => &Key::Arguments,
        Kind::Publish { key, .. } => key,
        Kind::Unpublish { publish, .. } => client.methods[*publish].key(),
        Kind::Invoke { .. } | Kind::Oneway(_) => return None,
    };
    let place = method.ident.span();
    Some(match key {
        Key::Arguments => signature::encode(place, method.params.iter().map(key_argument)),
        Key::Parts(parts) => {
            let bindings = as_written(method);
            let key = signature::encode(place, parts.iter().map(|part| assert_part(method, part)));
            quote!(#bindings #key)
        }
    })
}

fn key_argument(Param { ident, ty, .. }: &Param) -> (Span, TokenStream) {
    let place = ty.span();
    let ident = show_at(place, ident);
    // One kind of span for `&` and what it borrows; see `shown_at`.
    let span = ident.span();
    let reference = quote_spanned!(span=> &#ident);
    (place, quote_spanned!(shown_at(place)=> __cluster::assert_key(#reference)))
}

fn assert_part(method: &Method, part: &syn::Expr) -> (Span, TokenStream) {
    let place = part.span();
    let reference = key_part(method, part);
    (place, quote_spanned!(shown_at(place)=> __cluster::assert_key(#reference)))
}

/// The key's expression was written for the method's own arguments: what is a reference there is
/// one here.
fn as_written(method: &Method) -> TokenStream {
    let references = method.params.iter().filter(|param| param.is_ref);
    references.map(|Param { ident, ty, .. }| quote!(let #ident: #ty = &#ident;)).collect()
}

/// What a publication is answered with where the client is not called.
fn unit(client: &Client) -> TokenStream {
    let publishes = client.methods.iter().any(|method| matches!(method.kind, Kind::Publish { .. }));
    let unit = if publishes {
        quote!(__cluster::unit::<__Codec>())
    } else {
        // Not used; the codec need not know `()`.
        quote!(__cluster::Bytes::new())
    };
    quote! {
        fn unit() -> __cluster::Bytes {
            #unit
        }
    }
}

fn health(client: &Client) -> Option<TokenStream> {
    let health = client.health.as_ref()?;
    let (cfgs, ident) = (&health.carried.cfgs, &health.ident);
    let report = local("report", ident.span());
    let future = quote_spanned! {shown_at(ident.span())=>
        __cluster::boxed(async move { __cluster::run_health(Self::#ident(&self), #report).await })
    };
    Some(quote! {
        #(#cfgs)*
        fn health(
            self: __cluster::Arc<Self>,
            __report: __cluster::HealthReport,
        ) -> ::core::option::Option<__cluster::BoxFuture<()>> {
            ::core::option::Option::Some(#future)
        }
    })
}

fn close(client: &Client) -> Option<TokenStream> {
    let close = client.close.as_ref()?;
    let (cfgs, ident) = (&close.carried.cfgs, &close.ident);
    let span = shown_at(ident.span());
    let wait = close.is_async.then(|| quote_spanned!(span=> .await));
    let future = quote_spanned! {span=>
        __cluster::boxed(async move { Self::#ident(&self) #wait; })
    };
    Some(quote! {
        #(#cfgs)*
        fn close(self: __cluster::Arc<Self>) -> __cluster::BoxFuture<()> {
            #future
        }
    })
}

/// What tells all that can be told of an error of this result type.
fn describe(Client { krate, .. }: &Client, returns: &impl ToTokens) -> TokenStream {
    show_at(returns.span(), quote!(#krate::__describe!()))
}

fn arm(method: &Method, body: &TokenStream) -> TokenStream {
    let (cfgs, ident) = (&method.carried.cfgs, &method.ident);
    quote! {
        #(#cfgs)*
        ::core::option::Option::Some(__Method::#ident) => {
            #body
        }
    }
}

/// Decodes the arguments at once, and runs the body in a future.
fn run_decoded(method: &Method, body: &TokenStream) -> TokenStream {
    let decode = decode(method);
    let span = shown_at(method.ident.span());
    let future = quote_spanned!(span=> __cluster::boxed(async move { #body }));
    quote!(#decode ::core::result::Result::Ok(#future))
}

fn decode(method: &Method) -> TokenStream {
    let args = local("args", method.ident.span());
    let reads = method.params.iter().map(|Param { ident, ty, owned, .. }| {
        let place = ty.span();
        let args = local("args", place);
        let read = show_at(place, quote!(#args.arg::<__Codec, #owned>()));
        quote!(let #ident = #read?;)
    });
    quote_spanned! {shown_at(method.ident.span())=>
        let mut #args = __cluster::ArgsReader::new(#args);
        #(#reads)*
        #args.finish()?;
    }
}

/// `Self::method(&self, …)`, awaited where it is async.
fn users_call(method: &Method) -> TokenStream {
    let ident = &method.ident;
    let span = shown_at(ident.span());
    let values = method.params.iter().map(|param| passed(param, ident.span()));
    let wait = method.is_async.then(|| quote_spanned!(span=> .await));
    quote_spanned!(span=> Self::#ident(&self #(, #values)*) #wait)
}

/// A decoded argument as the method takes it.
fn passed(param: &Param, place: Span) -> TokenStream {
    let ident = show_at(place, &param.ident);
    let span = ident.span();
    let borrow = param.is_ref.then(|| quote_spanned!(span=> &));
    quote_spanned!(span=> #borrow #ident)
}
