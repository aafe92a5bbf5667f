//! `ClusterClient` for the user's type: how the leader calls it with bytes.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use super::{local, proxy::key_part, show_at, shown_at, signature, spec};
use crate::model::{Answer, Client, Key, Kind, Method, Param, Subscribe};

/// The implementation of `ClusterClient`.
pub(super) fn implementation(client: &Client) -> TokenStream {
    let Client { ty, proxy, .. } = client;
    let options = options_type(client);
    let spec = spec::spec(client);
    let connect = connect(client);
    let call = call(client);
    let open = open(client);
    let key = key(client);
    let health = health(client);
    let close = close(client);
    let core = local("core");
    quote! {
        #[automatically_derived]
        impl __cluster::ClusterClient for #ty {
            type Options = #options;
            type Proxy = #proxy;
            #spec

            fn proxy(#core: __cluster::ProxyCore) -> #proxy {
                #proxy { core: #core }
            }

            #connect
            #call
            #open
            #key
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

fn connect(client: &Client) -> TokenStream {
    let krate = &client.krate;
    let connect = &client.connect;
    let ident = &connect.ident;
    let idents = connect.params.iter().map(|param| &param.ident);
    let pattern = match &*connect.params {
        [only] => {
            let ident = &only.ident;
            quote!(#ident)
        }
        _ => quote!((#(#idents,)*)),
    };
    let values = connect.params.iter().map(passed);
    let error = signature::error_of(&connect.returns);
    let (options, result, failure) = (local("options"), local("result"), local("error"));
    let described = quote_spanned! {shown_at(connect.returns.span())=>
        __cluster::Outcome::into_result(#result)
            .map_err(|#failure| #krate::__describe!(#error)(&#failure))
    };
    let future = quote_spanned! {shown_at(ident.span())=>
        __cluster::boxed(async move {
            let #pattern = #options;
            let #result = Self::#ident(#(#values),*).await;
            #described
        })
    };
    quote! {
        fn connect(
            #options: Self::Options,
        ) -> __cluster::BoxFuture<::core::result::Result<Self, __cluster::Failure>> {
            #future
        }
    }
}

fn call(client: &Client) -> TokenStream {
    let (method, args) = (local("method"), local("args"));
    let arms = client.methods.iter().filter_map(|method| {
        let future = match &method.kind {
            Kind::Subscribe(_) => return None,
            Kind::Publish { answer, .. }
            | Kind::Unpublish { answer, .. }
            | Kind::Invoke { answer, .. } => call_answered(client, method, answer),
            Kind::Oneway(_) => call_oneway(client, method),
        };
        let decode = decode(method);
        Some(arm(method, &quote!(#decode ::core::result::Result::Ok(#future))))
    });
    quote! {
        fn call(
            self: __cluster::Arc<Self>,
            #method: usize,
            #args: __cluster::Bytes,
        ) -> ::core::result::Result<__cluster::BoxFuture<__cluster::Reply>, __cluster::Error> {
            match __Method::ALL.get(#method) {
                #(#arms)*
                _ => ::core::result::Result::Err(__cluster::no_such_method(#method)),
            }
        }
    }
}

fn call_answered(client: &Client, method: &Method, answer: &Answer) -> TokenStream {
    let krate = &client.krate;
    let call = users_call(method);
    let (place, result) = match answer {
        Answer::Result(ty) => (ty.span(), quote!(__cluster::Outcome::into_result(#call))),
        Answer::Plain(ty, _) => (ty.span(), quote!(::core::result::Result::Ok(#call))),
    };
    let error = signature::error(answer);
    let reply = local("result");
    let answered = quote_spanned! {shown_at(place)=>
        __cluster::reply::<__Codec, _, _>(#reply, #krate::__describe!(#error))
    };
    quote_spanned! {shown_at(method.ident.span())=>
        __cluster::boxed(async move {
            let #reply = #result;
            #answered
        })
    }
}

fn call_oneway(client: &Client, method: &Method) -> TokenStream {
    let krate = &client.krate;
    let call = users_call(method);
    let output = signature::output(client, method);
    let error = quote!(<#output as __cluster::OnewayOutcome>::Error);
    quote_spanned! {shown_at(method.ident.span())=>
        __cluster::boxed(async move {
            __cluster::reply::<__Codec, _, _>(
                __cluster::OnewayOutcome::into_result(#call),
                #krate::__describe!(#error),
            )
        })
    }
}

fn open(client: &Client) -> TokenStream {
    let (method, args, sink) = (local("method"), local("args"), local("sink"));
    let arms = client.methods.iter().filter_map(|method| {
        let Kind::Subscribe(subscribe) = &method.kind else { return None };
        let decode = decode(method);
        let future = open_one(client, method, subscribe);
        Some(arm(method, &quote!(#decode ::core::result::Result::Ok(#future))))
    });
    quote! {
        fn open(
            self: __cluster::Arc<Self>,
            #method: usize,
            #args: __cluster::Bytes,
            #sink: __cluster::Sink,
        ) -> ::core::result::Result<__cluster::BoxFuture<__cluster::End>, __cluster::Error> {
            match __Method::ALL.get(#method) {
                #(#arms)*
                _ => ::core::result::Result::Err(__cluster::no_such_method(#method)),
            }
        }
    }
}

/// The stream borrows the client and its arguments, so it lives and ends in the future.
fn open_one(client: &Client, method: &Method, subscribe: &Subscribe) -> TokenStream {
    let krate = &client.krate;
    let call = users_call(method);
    let (stream, error) = (local("stream"), local("error"));
    let run = run(client, subscribe, &stream);
    let body = match &subscribe.answered {
        None => quote! {
            let #stream = #call;
            #run
        },
        Some(returns) => {
            let error_type = signature::error_of(returns);
            quote! {
                match #call {
                    ::core::result::Result::Ok(#stream) => #run,
                    ::core::result::Result::Err(#error) => {
                        __cluster::End::Refused(#krate::__describe!(#error_type)(&#error))
                    }
                }
            }
        }
    };
    quote_spanned!(shown_at(method.ident.span())=> __cluster::boxed(async move { #body }))
}

fn run(client: &Client, subscribe: &Subscribe, stream: &syn::Ident) -> TokenStream {
    let krate = &client.krate;
    let item = subscribe.yields.item();
    let sink = local("sink");
    let span = shown_at(item.span());
    if subscribe.yields.is_result {
        let error = signature::error_of(item);
        quote_spanned! {span=>
            #sink.run_results::<__Codec, _, _, _>(#stream, #krate::__describe!(#error)).await
        }
    } else {
        quote_spanned!(span=> #sink.run::<__Codec, _, _>(#stream).await)
    }
}

fn key(client: &Client) -> TokenStream {
    let (method, args) = (local("method"), local("args"));
    let arms = client.methods.iter().filter_map(|method| {
        let parts = key_parts(client, method)?;
        let decode = decode(method);
        Some(arm(method, &quote!(#decode #parts)))
    });
    quote! {
        fn key(
            #method: usize,
            #args: __cluster::Bytes,
        ) -> ::core::result::Result<__cluster::Bytes, __cluster::Error> {
            match __Method::ALL.get(#method) {
                #(#arms)*
                _ => ::core::result::Result::Err(__cluster::no_such_method(#method)),
            }
        }
    }
}

/// The key of a method that has one, out of its decoded arguments.
fn key_parts(client: &Client, method: &Method) -> Option<TokenStream> {
    let key = match &method.kind {
        Kind::Subscribe(_) | Kind::Invoke { share: true, .. } => &Key::Arguments,
        Kind::Publish { key, .. } => key,
        Kind::Unpublish { publish, .. } => match &client.methods[*publish].kind {
            Kind::Publish { key, .. } => key,
            _ => return None,
        },
        Kind::Invoke { .. } | Kind::Oneway(_) => return None,
    };
    let (bindings, parts): (Option<TokenStream>, Vec<_>) = match key {
        Key::Arguments => (None, method.params.iter().map(key_argument).collect()),
        Key::Parts(parts) => {
            let assert = |part: &syn::Expr| {
                let part_of_key = key_part(part);
                let assert = show_at(part.span(), quote!(__cluster::assert_key));
                quote!(#assert(#part_of_key))
            };
            (Some(as_written(method)), parts.iter().map(assert).collect())
        }
    };
    Some(quote! {
        #bindings
        __cluster::encode_args::<__Codec, _>((#(#parts,)*))
    })
}

fn key_argument(param: &Param) -> TokenStream {
    let ident = &param.ident;
    let assert = show_at(param.ty.span(), quote!(__cluster::assert_key));
    quote!(#assert(&#ident))
}

/// The key's expression was written for the method's own arguments: what is a reference there is
/// one here.
fn as_written(method: &Method) -> TokenStream {
    let references = method.params.iter().filter(|param| param.is_ref);
    references.map(|Param { ident, ty, .. }| quote!(let #ident: #ty = &#ident;)).collect()
}

fn health(client: &Client) -> Option<TokenStream> {
    let health = client.health.as_ref()?;
    let (cfgs, ident) = (&health.carried.cfgs, &health.ident);
    let report = local("report");
    let future = quote_spanned! {shown_at(ident.span())=>
        __cluster::boxed(async move { __cluster::run_health(Self::#ident(&self), #report).await })
    };
    Some(quote! {
        #(#cfgs)*
        fn health(
            self: __cluster::Arc<Self>,
            #report: __cluster::HealthReport,
        ) -> ::core::option::Option<__cluster::BoxFuture<()>> {
            ::core::option::Option::Some(#future)
        }
    })
}

fn close(client: &Client) -> Option<TokenStream> {
    let close = client.close.as_ref()?;
    let (cfgs, ident) = (&close.carried.cfgs, &close.ident);
    let wait = close.is_async.then(|| quote!(.await));
    let future = quote_spanned! {shown_at(ident.span())=>
        __cluster::boxed(async move { Self::#ident(&self) #wait; })
    };
    Some(quote! {
        #(#cfgs)*
        fn close(self: __cluster::Arc<Self>) -> __cluster::BoxFuture<()> {
            #future
        }
    })
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

fn decode(method: &Method) -> TokenStream {
    let args = local("args");
    let idents = method.params.iter().map(|param| &param.ident);
    let types = method.params.iter().map(|param| &param.owned);
    let span = shown_at(
        method.params.first().map_or_else(|| method.ident.span(), |param| param.ty.span()),
    );
    quote_spanned! {span=>
        let (#(#idents,)*) = __cluster::decode_args::<__Codec, (#(#types,)*)>(#args)?;
    }
}

/// `Self::method(&self, …)`, awaited where it is async.
fn users_call(method: &Method) -> TokenStream {
    let ident = &method.ident;
    let values = method.params.iter().map(passed);
    let wait = method.is_async.then(|| quote!(.await));
    quote_spanned!(shown_at(ident.span())=> Self::#ident(&self #(, #values)*) #wait)
}

/// A decoded argument as the method takes it.
fn passed(param: &Param) -> TokenStream {
    let Param { ident, is_ref, .. } = param;
    let borrow = is_ref.then(|| quote!(&));
    quote!(#borrow #ident)
}
