use super::*;

/// The example of the documentation.
fn registry() -> TokenStream {
    quote! {
        /// A client of the registry.
        impl RegistryClient {
            /// Connects.
            #[connect]
            pub async fn connect(options: RegistryOptions) -> Result<Self, RegistryError> {
                Ok(Self { options })
            }

            /// The addresses of a service.
            #[subscribe]
            pub fn subscribe(&self, data_id: &str) -> impl Stream<Item = Vec<Url>> {
                self.watch(data_id)
            }

            /// Registers an address.
            ///
            /// # Errors
            ///
            /// The registry refused it.
            #[publish(key = (&reg.data_id, &reg.url))]
            pub async fn publish(&self, reg: Registration) -> Result<(), RegistryError> {
                self.put(reg).await
            }

            /// Withdraws an address.
            #[unpublish]
            pub async fn unpublish(&self, reg: Registration) -> Result<(), RegistryError> {
                self.remove(reg).await
            }

            #[invoke]
            pub async fn get_config(&self, data_id: &str) -> Result<Option<Vec<String>>, RegistryError> {
                self.get(data_id).await
            }

            #[health]
            fn health(&self) -> impl Stream<Item = Health> {
                self.sessions()
            }

            #[close]
            async fn close(&self) {
                self.end().await;
            }

            fn unmarked(&mut self) -> usize {
                1
            }
        }
    }
}

#[test]
fn the_example_of_the_documentation() {
    insta::assert_snapshot!(expanded(quote!(), registry()));
}

#[test]
fn trait_crate_codec_name_and_error() {
    let args = quote! {
        name = "registry-eu",
        codec = Json,
        error = ConfigError,
        trait = pub(crate) Configs,
        crate = crate::reexports::cluster,
    };
    let item = client_with(quote! {
        /// The text of a config.
        #[must_use]
        #[invoke]
        pub async fn text(&self, id: u64) -> String {
            String::new()
        }
        #[invoke]
        pub(crate) async fn touch(&self) {}
        #[invoke]
        pub async fn size(&self, id: u64) -> io::Result<u64> {
            Ok(0)
        }
        #[subscribe]
        pub fn texts(&self, id: u64) -> impl Stream<Item = String> {
            stream::empty()
        }
    });
    insta::assert_snapshot!(expanded(args, item));
}

#[test]
fn a_codec_of_the_users_own() {
    let item = client_with(quote! {
        #[invoke]
        async fn get(&self) -> Result<u8, Error> { Ok(1) }
    });
    let text = expanded(quote!(codec = crate::codecs::Cbor), item);
    assert!(text.contains("type __Codec = crate::codecs::Cbor;"), "{text}");
}

#[test]
fn kinds_of_streams() {
    let item = client_with(quote! {
        #[subscribe(quiet = "30s")]
        fn rows(&self, table: &str, columns: &[String]) -> impl Stream<Item = Result<Row, Error>> + Send + use<'_> {
            self.rows_of(table)
        }
        #[subscribe(deliver = "one")]
        fn jobs(&self, queue: String) -> BoxStream<'static, Job> {
            self.jobs_of(queue)
        }
        #[subscribe(deliver = "all", version = 3)]
        async fn watch(&self, filter: &Filter) -> io::Result<impl Stream<Item = Event>> {
            self.watch_with(filter).await
        }
        #[subscribe(deliver = "one")]
        async fn leases(&self) -> Result<Pin<Box<dyn Stream<Item = io::Result<Lease>> + Send>>, Error> {
            self.leases_of().await
        }
    });
    insta::assert_snapshot!(expanded(quote!(), item));
}

#[test]
fn kinds_of_calls() {
    let item = client_with(quote! {
        #[invoke(oneway)]
        async fn log(&self, line: &str) {}
        #[invoke(oneway)]
        fn count(&self, name: &str, by: u64) -> Result<(), Error> { Ok(()) }
        #[invoke(idempotent, timeout = "500ms")]
        async fn set(&self, mut key: String, value: &[u8]) -> Result<(), Error> { Ok(()) }
        #[invoke(share, idempotent, timeout = "2m", version = 2)]
        async fn get(&self, key: &Key<u8>) -> Result<Option<Self>, Error> { Ok(None) }
    });
    insta::assert_snapshot!(expanded(quote!(), item));
}

#[test]
fn a_cfg_goes_on_all_that_is_generated() {
    let item = client_with(quote! {
        #[cfg(feature = "watch")]
        #[subscribe]
        fn values(&self) -> impl Stream<Item = u64> { stream::empty() }
        #[cfg(feature = "put")]
        #[publish(timeout = "1h")]
        async fn put(&self, key: &str, value: u64) -> Result<(), Error> { Ok(()) }
        #[cfg(unix)]
        #[unpublish(of = "put")]
        async fn remove(&self, key: &str, value: u64) -> Result<(), Error> { Ok(()) }
        #[deprecated = "use `values`"]
        #[expect(non_snake_case)]
        #[cfg_attr(docsrs, doc = "Old.")]
        #[tracing::instrument]
        #[invoke(share)]
        async fn Old(&self) -> Result<u64, Error> { Ok(1) }
        #[cfg(windows)]
        #[close]
        fn close(&self) {}
    });
    insta::assert_snapshot!(expanded(quote!(trait = Values), item));
}

#[test]
fn self_means_the_client_in_the_proxy() {
    let item = quote! {
        impl clients::Client {
            #[connect]
            async fn connect(a: &str, b: [u8; Self::LEN]) -> Result<Self, Error> { todo() }
            #[publish(key = (Self::key_of(&value), value.id + 1, "k"))]
            async fn put(&self, value: [u8; Self::LEN]) -> Result<(), Error> { todo() }
        }
    };
    let text = expanded(quote!(), item);
    assert!(text.contains("pub struct ClientProxy"), "{text}");
    assert!(text.contains("value: [u8; clients::Client::LEN]"), "{text}");
    assert!(text.contains("&clients::Client::key_of(&value)"), "{text}");
    assert!(text.contains("&(value.id + 1)"), "{text}");
    assert!(
        text.contains("type Options = (::std::string::String, [u8; clients::Client::LEN]);"),
        "{text}"
    );
}

#[test]
fn the_users_block_comes_out_as_it_went_in() {
    let item = quote! {
        #[cfg(unix)]
        impl Client {
            #![allow(dead_code)]
            const LIMIT: Limit = Limit { most: 3 };
            #[connect]
            async fn connect() -> Result<Self, Error> { #[invoke] let x = 1; Ok(Self) }
            macro_call!();
            other_macro! { with braces }
            #[cfg(unix)]
            #[invoke(oneway)]
            async fn log(&self, #[allow(unused)] line: &str) {}
        }
    };
    let expected = quote! {
        #[cfg(unix)]
        impl Client {
            #![allow(dead_code)]
            const LIMIT: Limit = Limit { most: 3 };
            async fn connect() -> Result<Self, Error> { #[invoke] let x = 1; Ok(Self) }
            macro_call!();
            other_macro! { with braces }
            #[cfg(unix)]
            async fn log(&self, #[allow(unused)] line: &str) {}
        }
    };
    let text = cluster_client(quote!(), item).to_string();
    assert!(text.starts_with(&expected.to_string()), "{text}");
    assert!(!text.contains("compile_error"), "{text}");
}

#[test]
fn generated_code_names_no_other_crate() {
    let item = client_with(quote! {
        #[subscribe]
        async fn values(&self, id: &str) -> Result<impl Stream<Item = Result<u64, Error>>, Error> {}
        #[publish(key = id)]
        async fn put(&self, id: &str, rest: &[u8]) -> Result<(), Error> {}
        #[unpublish]
        async fn remove(&self, id: &str, rest: &[u8]) -> Result<(), Error> {}
        #[invoke(oneway)]
        fn log(&self) {}
        #[health]
        fn health(&self) -> impl Stream<Item = Health> {}
        #[close]
        async fn close(&self) {}
    });
    let text = expanded(quote!(trait = Methods), item);
    let text: String = text.split_whitespace().collect();
    let roots = text.match_indices("::").filter(|(place, _)| {
        let before = text[..*place].chars().next_back().unwrap_or(' ');
        !before.is_alphanumeric() && !"_>)}".contains(before)
    });
    for (place, _) in roots {
        let root = &text[place + 2..];
        assert!(
            ["core::", "std::", "cluster_client::", "<"]
                .iter()
                .any(|known| root.starts_with(known)),
            "{}",
            &text[place.saturating_sub(40)..(place + 40).min(text.len())]
        );
    }
}
