//! The user's two functions, and the life of a child, which is the life of its function.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};

use super::{
    agent::Agent,
    control::clip,
    name::ProcessName,
    panics,
    place::Place,
    reason::{BoxError, chain},
    worker::Worker,
};
use crate::{
    cluster::{Role, leave_all},
    error::{Error, ErrorKind, Result},
    protocol::pb::{Done, Early, Ended, control::Body, ended::How},
};

/// A role function, whatever its types.
pub(super) type RoleFn<T> =
    Arc<dyn Fn(T) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

/// Erases the types of a role function. The function is called when the future is polled, so that
/// a panic of either is the same.
pub(super) fn role_fn<T, F, Fut, E>(function: F) -> RoleFn<T>
where
    T: Send + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let function = Arc::new(function);
    Arc::new(move |role| {
        let function = Arc::clone(&function);
        let called = move || function(role);
        async move { called().await.map_err(Into::into) }.boxed()
    })
}

/// What a child can be. Where another program has a role, there is no function for it.
#[derive(Clone)]
pub(super) struct Roles {
    pub(super) agent: Option<RoleFn<Agent>>,
    pub(super) worker: Option<RoleFn<Worker>>,
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roles").finish_non_exhaustive()
    }
}

/// How long the last words to the master may take. They need no answer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Lives the life of a child: runs its function, waits for the runs of its jobs, leaves the channels,
/// and tells the master how it ended, in this order.
pub(super) async fn live(place: Arc<Place>, roles: Roles) -> Result<()> {
    let missing = || Error::config(format!("{}: this program has no function for it", place.name));
    let function = match place.name {
        ProcessName::Worker(_) => {
            let function = roles.worker.as_ref().ok_or_else(missing)?;
            function(Worker::new(Arc::clone(&place)))
        }
        ProcessName::Master | ProcessName::Agent => {
            let function = roles.agent.as_ref().ok_or_else(missing)?;
            function(Agent::new(Arc::clone(&place)).await?)
        }
    };
    tokio::spawn(Arc::clone(&place).answer_for_runtime());
    let outcome = AssertUnwindSafe(panics::run_role(function)).catch_unwind().await;
    #[cfg(feature = "schedule")]
    match &outcome {
        Ok(Ok(())) if place.is_stopping() => place.jobs.finish().await,
        _ => place.jobs.cut_off(),
    }
    let name = place.name;
    let (how, outcome) = match outcome {
        Ok(Ok(())) if place.is_stopping() => (How::Done(Done {}), Ok(())),
        Ok(Ok(())) => {
            let text = format!("{name}: its function returned before it was asked to stop");
            (How::Early(Early {}), Err(Error::new(ErrorKind::Process, text)))
        }
        // What it waited for never came, and nothing is wrong with it.
        Ok(Err(_)) if place.is_stopping() && place.waited_in_vain() => (How::Done(Done {}), Ok(())),
        Ok(Err(error)) => {
            let text = clip(chain(&*error));
            let error = Error::new(ErrorKind::Process, format!("{name} failed: {text}"));
            (How::Failed(text), Err(error))
        }
        Err(panic) => {
            let text = clip(panics::text(&*panic));
            let error = Error::new(ErrorKind::Panicked, format!("{name} panicked: {text}"));
            (How::Panicked(text), Err(error))
        }
    };
    // The runtime ends soon, and nothing that was left to the background would be done. A client that
    // closes may still have something to send.
    let role = if name == ProcessName::Agent { Role::Leader } else { Role::Follower };
    leave_all(role).await;
    // What was sent goes out before the last words; nothing more comes in.
    place.hub.close();
    place.say_within(Body::Ended(Ended { how: Some(how) }), LAST_WORDS).await;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_function_that_panics_before_its_future_exists_panics_inside_it() {
        fn early(_: u8) -> std::future::Ready<Result<(), Error>> {
            std::panic::resume_unwind(Box::new("early"))
        }
        let erased = role_fn(early);
        assert!(AssertUnwindSafe(erased(1)).catch_unwind().await.is_err());
    }
}
