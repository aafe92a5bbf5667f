//! What the fixture can do about the order in which a process ends: the behaviour `order`. A worker has
//! a client of its own, which sends a message when it is closed; the agent says what comes.

use cluster_client::{Agent, Cluster, Messages, Messenger, Result, Role, Worker, cluster_client};

use crate::fixture::say;

/// A client that has something to say when it is closed.
struct Polite {
    name: String,
    messenger: Messenger,
}

#[cluster_client]
impl Polite {
    #[connect]
    async fn connect(of: (String, Messenger)) -> Result<Self> {
        let (name, messenger) = of;
        Ok(Self { name, messenger })
    }

    #[invoke]
    async fn greet(&self) -> Result<()> {
        Ok(())
    }

    #[close]
    async fn close(&self) {
        match self.messenger.send_to_agent("farewell", &self.name) {
            Ok(_) => say(&self.name, "closes its client, and says farewell"),
            Err(error) => say(&self.name, &format!("closes its client, and {error}")),
        }
    }
}

pub(crate) fn listen(agent: &Agent, behaviour: &str) -> Option<Messages<String>> {
    (behaviour == "order").then(|| agent.messenger().on("farewell"))
}

/// The workers are gone, and what they sent came before.
pub(crate) async fn hear(farewells: Option<Messages<String>>) {
    if let Some(mut farewells) = farewells {
        let farewell = farewells.recv().await;
        say(
            "agent",
            &format!("hears farewell of {}", farewell.map_or_else(|e| e.to_string(), |it| it.data)),
        );
    }
}

pub(crate) async fn worker(worker: &Worker, name: &str, behaviour: &str) -> Result<()> {
    if behaviour == "order" {
        let builder = Cluster::<Polite>::builder().role(Role::Single);
        let polite = builder.create((name.to_owned(), worker.messenger())).await?;
        std::mem::forget(polite);
    }
    Ok(())
}
