//! Serves axum on a listener that other processes share, and goes without losing a request.
//!
//! Nothing of it is about this crate; take it along.

use std::{convert::Infallible, io, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, header::CONNECTION},
    middleware::map_response,
    response::Response,
    serve::Listener,
};
use tokio::{net::TcpListener, sync::watch, time::sleep};

/// Serves until `shutdown`, and then drains:
///
/// - nothing is accepted any more, so that what waits on the listener is left to others;
/// - each answer says `Connection: close`, so that the client takes another connection for its next
///   request, which is another process's;
/// - idle connections are held open for the time of `drain`, because a request may be on its way on
///   each; after it they are closed;
/// - requests that are being worked on are finished, however long they take.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) -> io::Result<()> {
    let (begin, draining) = watch::channel(false);
    let listener = UntilDrain { listener, draining: draining.clone() };
    let app = app.layer(map_response(move |mut response: Response| {
        if *draining.borrow() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    let drained = async move {
        shutdown.await;
        begin.send_replace(true);
        sleep(drain).await;
    };
    axum::serve(listener, app).with_graceful_shutdown(drained).await
}

/// Accepts until the drain begins, and then nothing.
struct UntilDrain {
    listener: TcpListener,
    draining: watch::Receiver<bool>,
}

impl Listener for UntilDrain {
    type Io = <TcpListener as Listener>::Io;
    type Addr = <TcpListener as Listener>::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let drains = async {
            let _ = self.draining.wait_for(|draining| *draining).await;
        };
        tokio::select! {
            biased;
            () = drains => std::future::pending().await,
            accepted = Listener::accept(&mut self.listener) => accepted,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
