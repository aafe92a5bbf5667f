//! Why user code failed, in one line.

use std::error::Error as StdError;

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
}
