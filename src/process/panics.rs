//! Panics of this process that do not end it: those of tasks and threads, counted for the master.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, PanicHookInfo},
    pin::pin,
    task::Poll,
};

use tokio::sync::watch;

use super::control::clip;
use crate::protocol::pb::Panicked;

thread_local! {
    /// Whether this thread polls the role function, or a run of a job. What panics there ends the
    /// process or the run, and the master is told in its last words or as the run's outcome.
    static IN_ROLE: Cell<bool> = const { Cell::new(false) };
}

/// Counts each panic of this process from now on, but for those of the role function itself and of
/// jobs. The hook that was there before runs too.
///
/// It makes no difference who catches a panic: the runtime of a task, the leader of a channel around
/// a method of the client, or the user's own `catch_unwind`.
pub(super) fn count(panics: watch::Sender<Panicked>) {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // Before the other hook, which writes to stderr and can block there.
        if !IN_ROLE.try_with(Cell::get).unwrap_or(false) {
            panics.send_modify(|panics| {
                panics.count += 1;
                panics.message = clip(message(info));
            });
        }
        previous(info);
    }));
}

fn message(info: &PanicHookInfo<'_>) -> String {
    let text = text(info.payload());
    info.location().map_or_else(|| text.clone(), |location| format!("{text} ({location})"))
}

/// What a panic says.
pub(super) fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("with a value that is no text").to_owned()
}

/// Runs the role function, or a job, so that its panics can be told from those of others.
pub(super) async fn run_role<F: Future>(function: F) -> F::Output {
    /// Resets the mark, also when the function panics.
    struct Marked;
    impl Drop for Marked {
        fn drop(&mut self) {
            IN_ROLE.set(false);
        }
    }

    let mut function = pin!(function);
    std::future::poll_fn(|context| -> Poll<F::Output> {
        IN_ROLE.set(true);
        let _marked = Marked;
        function.as_mut().poll(context)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_tells_its_message_whatever_its_type() {
        let catch = |panics: fn()| panic::catch_unwind(panics).unwrap_err();
        assert_eq!(text(&*catch(|| panic::resume_unwind(Box::new("plain")))), "plain");
        let formatted = catch(|| panic::resume_unwind(Box::new(format!("{}!", 1))));
        assert_eq!(text(&*formatted), "1!");
        let number = catch(|| panic::resume_unwind(Box::new(7)));
        assert_eq!(text(&*number), "with a value that is no text");
    }

    #[tokio::test]
    async fn the_mark_is_there_while_the_function_runs_and_at_no_other_time() {
        let function = async {
            assert!(IN_ROLE.get());
            tokio::task::yield_now().await;
            assert!(IN_ROLE.get());
        };
        let mut function = pin!(run_role(function));
        assert!(futures::poll!(&mut function).is_pending());
        assert!(!IN_ROLE.get());
        function.await;

        let panics = async { panic::resume_unwind(Box::new("no")) };
        let panics = panic::AssertUnwindSafe(run_role::<_>(panics));
        let caught: Result<(), _> = futures::FutureExt::catch_unwind(panics).await;
        assert!(caught.is_err() && !IN_ROLE.get());
    }
}
