use cluster_client::cluster_client;

#[cluster_client]
struct Client;

fn main() {}
