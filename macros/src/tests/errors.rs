use super::*;

#[test]
fn all_mistakes_are_reported_at_once() {
    let args = quote!(nome = "x", codec = Cbor, crate);
    let item = quote! {
        impl Client {
            #[subscribe(deliver = "some", quiet = "soon")]
            fn values(&self) -> impl Stream<Item = u8> { stream::empty() }
            #[subscribe]
            fn no_stream(&self) -> u8 { 1 }
            #[publish(key = self.key())]
            async fn put(&self, value: &mut u8) -> Result<(), Error> { Ok(()) }
            #[unpublish(of = "push")]
            async fn remove(&self, value: u8) -> Result<(), Error> { Ok(()) }
            #[invoke(oneway, share, versoin = 1)]
            async fn log(&self) {}
            #[invoke]
            #[close]
            fn get<T>(self) -> &T {}
        }
    };
    insta::assert_debug_snapshot!(mistakes(args, item));
}

#[test]
fn what_is_right_is_generated_beside_the_errors() {
    let item = client_with(quote! {
        #[invoke]
        async fn right(&self) -> Result<u8, Error> { Ok(1) }
        #[invoke]
        fn wrong(&self) -> Result<u8, Error> { Ok(1) }
    });
    let text = expanded(quote!(unknown), item);
    assert_eq!(text.matches("compile_error!").count(), 2, "{text}");
    assert!(text.contains("async fn right(&self) -> Result<u8, Error>"), "{text}");
    assert!(
        text.contains("fn wrong(&self) -> Result<u8, Error>"),
        "the user's block stays: {text}"
    );
    assert!(!text.contains("__Method::wrong"), "{text}");
}

#[test]
fn a_mistake_in_a_publish_method_is_not_told_of_its_unpublish_method_too() {
    let item = client_with(quote! {
        #[publish(kye = 1)]
        async fn put(&self, value: u8) -> Result<(), Error> { Ok(()) }
        #[unpublish]
        async fn remove(&self, value: u8) -> Result<(), Error> { Ok(()) }
    });
    let told = mistakes(quote!(), item);
    assert_eq!(told.len(), 1, "{told:#?}");
}

#[test]
fn marks_are_removed_whatever_is_wrong() {
    for item in [
        quote!(
            trait Client {
                #[invoke]
                fn get(&self);
            }
        ),
        quote!(impl Get for Client { #[invoke(share)] fn get(&self) {} }),
        quote!(
            impl<T> Client<T> {
                #[cfg_attr(unix, invoke)]
                fn get(&self) {}
            }
        ),
        quote!(impl Client { #[invoke = 1] fn get(&self) {} }),
    ] {
        let text = cluster_client(quote!(), item).to_string();
        assert!(text.contains("compile_error"), "{text}");
        assert!(!text.contains("# [invoke") && !text.contains("cfg_attr"), "{text}");
    }
}

#[test]
fn what_is_no_impl_is_named() {
    for (item, word) in [
        (
            quote!(
                pub struct Client;
            ),
            "`struct`",
        ),
        (
            quote!(
                #[doc = "x"]
                pub trait Client {}
            ),
            "`trait`",
        ),
        (
            quote!(
                pub async fn client() {}
            ),
            "`fn`",
        ),
        (
            quote!(
                mod client {}
            ),
            "`mod`",
        ),
    ] {
        let told = mistakes(quote!(), item);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].contains(word), "{told:#?}");
    }
}

#[test]
fn every_mistake_has_a_way_out() {
    let told = [
        mistakes(quote!(name = ""), client_with(quote!())),
        mistakes(quote!(name = "a", name = "b"), client_with(quote!())),
        mistakes(quote!(oops oops, codec = 3), client_with(quote!())),
        mistakes(
            quote!(),
            client_with(quote! {
                #[connect] async fn again() -> Result<Self, Error> { Ok(Self) }
                #[invoke] async fn unit(&self) {}
                #[invoke] async fn nested(&self, name: Option<&str>) -> Result<(), Error> { Ok(()) }
                #[invoke] async fn taken_apart(&self, (a, b): (u8, u8)) -> Result<(), Error> { Ok(()) }
                #[invoke(oneway = true)] async fn flag(&self) {}
                #[invoke(version = 0)] async fn zero(&self) {}
                #[invoke(timeout)] async fn no_value(&self) {}
                #[health] async fn health(&self, x: u8) {}
                #[close] fn close(&self) -> u8 { 1 }
            }),
        ),
    ];
    insta::assert_debug_snapshot!(told);
}
