//! Generates tonic's client and server of the peer service, with no `.proto` file to parse.

fn main() {
    #[cfg(feature = "tonic")]
    tonic();
}

#[cfg(feature = "tonic")]
fn tonic() {
    use tonic_build::manual::{Builder, Method, Service};

    let method = |name: &str, route: &str, input: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::contestants::tonic::{input}"))
            .output_type("crate::contestants::tonic::Payload")
            .codec_path("tonic_prost::ProstCodec")
    };
    let service = Service::builder()
        .name("Peer")
        .package("peers")
        .method(method("echo", "Echo", "Payload").build())
        .method(method("large", "Large", "Wanted").build())
        .method(method("values", "Values", "Wanted").server_streaming().build())
        .build();
    Builder::new().compile(&[service]);
}
