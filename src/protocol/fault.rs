//! [`Error`] and [`Failure`] as they stand on the wire.

use bytes::Bytes;

use super::pb;
use crate::{
    error::{Error, ErrorKind},
    spec::Failure,
};

/// Longest text of an error on the wire; the rest is cut, so that an error always fits.
const MAX_TEXT: usize = 4 << 10;

/// Largest value of an error on the wire; a larger one is left out.
const MAX_VALUE: usize = 32 << 10;

/// Causes beyond this are left out, so that an error without a value fits in one frame: a refusal
/// can't go in parts.
const MAX_CAUSES: usize = 8;

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl From<&Error> for pb::Error {
    fn from(error: &Error) -> Self {
        let causes = std::iter::successors(error.cause(), |cause| cause.cause());
        Self {
            kind: error.kind().name().to_owned(),
            message: cut(error.message()),
            name: error.name().map(cut).unwrap_or_default(),
            code: error.code().map(cut).unwrap_or_default(),
            chain: causes.take(MAX_CAUSES).map(|cause| cut(&cause.to_string())).collect(),
            value: Bytes::new(),
        }
    }
}

impl From<&Failure> for pb::Error {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Cluster(error) => error.into(),
            Failure::Client(error, value) => {
                let value = value.clone().filter(|value| value.len() <= MAX_VALUE);
                Self { value: value.unwrap_or_default(), ..error.into() }
            }
        }
    }
}

impl From<pb::Error> for Error {
    fn from(error: pb::Error) -> Self {
        let kind = ErrorKind::from_name(&error.kind);
        let given = |text: String| (!text.is_empty()).then_some(text);
        let source = error.chain.into_iter().take(MAX_CAUSES).rev().fold(None, |inner, text| {
            let cause = Self::new(kind, text);
            Some(match inner {
                Some(inner) => cause.with_source(inner),
                None => cause,
            })
        });
        let told = Self::new(kind, error.message).with_client(given(error.name), given(error.code));
        match source {
            Some(source) => told.with_source(source),
            None => told,
        }
    }
}

impl From<pb::Error> for Failure {
    fn from(mut error: pb::Error) -> Self {
        let value = std::mem::take(&mut error.value);
        let error = Error::from(error);
        if error.kind() == ErrorKind::Client {
            Self::Client(error, (!value.is_empty()).then_some(value))
        } else {
            Self::Cluster(error)
        }
    }
}

/// In a packet an error is boxed, so that the many packets without one are small to move.
macro_rules! boxed {
    ($($from:ty => $to:ty: $turn:expr),*) => {$(
        impl From<$from> for $to {
            fn from(error: $from) -> Self {
                $turn(error)
            }
        }
    )*};
}

boxed!(
    &Error => Box<pb::Error>: |error| Box::new(pb::Error::from(error)),
    &Failure => Box<pb::Error>: |failure| Box::new(pb::Error::from(failure)),
    Box<pb::Error> => Error: |boxed: Box<pb::Error>| Self::from(*boxed),
    Box<pb::Error> => Failure: |boxed: Box<pb::Error>| Self::from(*boxed)
);

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn name_code_message_chain_and_value_cross() {
        let error = Error::new(ErrorKind::Client, "no such key")
            .with_client(Some("RegistryError".into()), Some("E404".into()))
            .with_source(
                Error::new(ErrorKind::Client, "outer").with_source(Error::new(ErrorKind::Io, "in")),
            );
        let failure = Failure::Client(error, Some(Bytes::from_static(b"v")));
        let Failure::Client(back, value) = Failure::from(pb::Error::from(&failure)) else {
            panic!("not an error of the client");
        };
        assert_eq!(value.as_deref(), Some(&b"v"[..]));
        assert_eq!(back.to_string(), "RegistryError: no such key (code E404)");
        let outer = back.cause().unwrap();
        assert_eq!(outer.message(), "outer");
        assert_eq!(outer.cause().unwrap().message(), "in");
    }

    #[test]
    fn the_largest_error_fits_in_one_frame() {
        let huge = || "x".repeat(2 * MAX_TEXT);
        let error = (0..20).fold(Error::new(ErrorKind::Client, huge()), |inner, _| {
            Error::new(ErrorKind::Client, huge())
                .with_client(Some(huge()), Some(huge()))
                .with_source(inner)
        });
        let refused = Some(pb::Error::from(&error));
        let body = pb::RegisteredBody { refused, ..<_>::default() }.encode_to_vec();
        assert!(body.len() + 256 < crate::protocol::PART, "{}", body.len());
    }

    #[test]
    fn a_huge_text_is_cut_at_a_character() {
        let error = Error::new(ErrorKind::Io, "ü".repeat(10_000));
        assert!(pb::Error::from(&error).message.len() <= MAX_TEXT);
    }
}
