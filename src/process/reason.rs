//! Why user code failed, in one line.

use std::{any::Any, error::Error as StdError};

/// Any error that a function of the user may return.
pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// An error and its causes, in one line. A cause that its error quotes already is not repeated.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("with a value that is no text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn a_chain_names_each_cause_once() {
        let inner = Error::new(ErrorKind::Io, "connection refused");
        let outer = Error::new(ErrorKind::Connect, "no registry").with_source(inner.clone());
        assert_eq!(chain(&outer), "no registry: connection refused");
        let quoting = Error::new(ErrorKind::Connect, "no registry: connection refused");
        assert_eq!(chain(&quoting.with_source(inner)), "no registry: connection refused");
    }

    #[test]
    fn a_panic_tells_its_message_whatever_its_type() {
        let catch = |panics: fn()| std::panic::catch_unwind(panics).unwrap_err();
        assert_eq!(panic_text(&*catch(|| std::panic::resume_unwind(Box::new("plain")))), "plain");
        let formatted = catch(|| std::panic::resume_unwind(Box::new(format!("{}!", 1))));
        assert_eq!(panic_text(&*formatted), "1!");
        let number = catch(|| std::panic::resume_unwind(Box::new(7)));
        assert_eq!(panic_text(&*number), "with a value that is no text");
    }
}
