//! The marks on methods: `#[connect]`, `#[subscribe]`, `#[publish]`, `#[unpublish]`, `#[invoke]`,
//! `#[health]` and `#[close]`, with their arguments.

use std::time::Duration;

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Expr, Ident, LitStr, Meta,
    ext::IdentExt,
    parse::{ParseStream, Parser},
};

use crate::{
    args::{duration, each, one_of, unreachable_name, value, version},
    diagnostics::Errors,
};

/// The names of all marks.
pub(crate) const MARKS: [&str; 7] =
    ["connect", "subscribe", "publish", "unpublish", "invoke", "health", "close"];

/// What a method is marked as.
pub(crate) enum Mark {
    Connect,
    Subscribe(Subscribe),
    Publish(Publish),
    Unpublish(Unpublish),
    Invoke(Invoke),
    Health,
    Close,
}

/// `#[subscribe(…)]`
#[derive(Default)]
pub(crate) struct Subscribe {
    /// `deliver = "one"`.
    pub(crate) one: bool,
    /// `quiet = "30s"`, and its name for messages.
    pub(crate) quiet: Option<(Ident, Duration)>,
    /// `version = 2`, or 0.
    pub(crate) version: u32,
}

/// `#[publish(…)]`
#[derive(Default)]
pub(crate) struct Publish {
    /// `key = …`; without it the key is all arguments.
    pub(crate) key: Option<Expr>,
    /// `timeout = "5s"`.
    pub(crate) timeout: Option<Duration>,
    /// `version = 2`, or 0.
    pub(crate) version: u32,
}

/// `#[unpublish(…)]`
#[derive(Default)]
pub(crate) struct Unpublish {
    /// `of = "publish"`; needed where there are several.
    pub(crate) of: Option<LitStr>,
    /// `timeout = "5s"`.
    pub(crate) timeout: Option<Duration>,
    /// `version = 2`, or 0.
    pub(crate) version: u32,
}

/// `#[invoke(…)]`
#[derive(Default)]
pub(crate) struct Invoke {
    /// Nobody waits for the answer.
    pub(crate) oneway: bool,
    /// It may be sent again when the leader is lost.
    pub(crate) idempotent: bool,
    /// Equal calls in flight become one.
    pub(crate) share: bool,
    /// `timeout = "5s"`.
    pub(crate) timeout: Option<Duration>,
    /// `version = 2`, or 0.
    pub(crate) version: u32,
}

/// A mark as it was found on a method.
pub(crate) struct Found {
    /// The attribute, to point at.
    pub(crate) attr: Attribute,
    /// Its name.
    pub(crate) name: String,
    /// What it says, unless its arguments are wrong.
    pub(crate) mark: Option<Mark>,
}

/// The mark among these attributes, if any; a second one is a mistake.
pub(crate) fn read(attrs: &[Attribute], errors: &mut Errors) -> Option<Found> {
    for attr in attrs.iter().filter(|attr| hides_a_mark(attr)) {
        errors.at(
            attr,
            "a mark cannot be conditional; mark the method, and put `#[cfg(…)]` beside the mark",
        );
    }
    let mut marks = attrs.iter().filter_map(|attr| Some((attr, mark_name(attr)?)));
    let (attr, name) = marks.next()?;
    for (second, _) in marks {
        errors.at(second, "a method has one mark; remove this one, or write a method for each");
    }
    let before = errors.count();
    let mark = with_arguments(attr, &name, errors);
    // What is read from wrong arguments would give errors that only follow from the first.
    let mark = (errors.count() == before).then_some(mark).flatten();
    Some(Found { attr: attr.clone(), name, mark })
}

/// The name of the mark that this attribute is.
fn mark_name(attr: &Attribute) -> Option<String> {
    let name = attr.path().get_ident()?.unraw().to_string();
    MARKS.contains(&name.as_str()).then_some(name)
}

/// Whether it is `#[cfg_attr(…, invoke)]`: only rustc knows whether the mark is there.
fn hides_a_mark(attr: &Attribute) -> bool {
    let Meta::List(list) = &attr.meta else { return false };
    attr.path().is_ident("cfg_attr") && names_a_mark(list.tokens.clone())
}

/// Whether an identifier after a comma is a mark: `feature = "x", invoke(share)`.
pub(crate) fn names_a_mark(tokens: TokenStream) -> bool {
    let mut after_comma = false;
    for token in tokens {
        match token {
            TokenTree::Ident(ident) if after_comma && MARKS.iter().any(|mark| ident == mark) => {
                return true;
            }
            TokenTree::Punct(punct) => after_comma = punct.as_char() == ',',
            _ => after_comma = false,
        }
    }
    false
}

fn with_arguments(attr: &Attribute, mark: &str, errors: &mut Errors) -> Option<Mark> {
    let tokens = match &attr.meta {
        Meta::Path(_) => TokenStream::new(),
        Meta::List(list) => list.tokens.clone(),
        Meta::NameValue(pair) => {
            errors.at(&pair.value, format!("write arguments in parentheses: `#[{mark}(…)]`"));
            return None;
        }
    };
    let parser = |input: ParseStream<'_>| {
        Ok(match mark {
            "connect" => none(input, mark, errors, Mark::Connect),
            "subscribe" => Mark::Subscribe(Subscribe::read(input, errors)),
            "publish" => Mark::Publish(Publish::read(input, errors)),
            "unpublish" => Mark::Unpublish(Unpublish::read(input, errors)),
            "invoke" => Mark::Invoke(Invoke::read(input, errors)),
            "health" => none(input, mark, errors, Mark::Health),
            _ => none(input, mark, errors, Mark::Close),
        })
    };
    let mark = parser.parse2(tokens);
    errors.ok(mark)
}

fn none(input: ParseStream<'_>, attribute: &str, errors: &mut Errors, mark: Mark) -> Mark {
    each(input, attribute, &[], errors, |name, _| unreachable_name(name));
    mark
}

impl Subscribe {
    fn read(input: ParseStream<'_>, errors: &mut Errors) -> Self {
        let mut args = Self::default();
        each(input, "subscribe", &["deliver", "quiet", "version"], errors, |name, input| {
            match name.unraw().to_string().as_str() {
                "deliver" => args.one = one_of(name, input, &["one", "all"])? == 0,
                "quiet" => args.quiet = Some((name.clone(), duration(name, input)?)),
                "version" => args.version = version(name, input)?,
                _ => unreachable_name(name)?,
            }
            Ok(())
        });
        if let (true, Some((quiet, _))) = (args.one, &args.quiet) {
            errors.at(
                quiet,
                "`quiet` bounds how long a value stays live, and work items are no values that \
                 stay; leave out `quiet` or `deliver = \"one\"`",
            );
        }
        args
    }
}

impl Publish {
    fn read(input: ParseStream<'_>, errors: &mut Errors) -> Self {
        let mut args = Self::default();
        each(input, "publish", &["key", "timeout", "version"], errors, |name, input| {
            match name.unraw().to_string().as_str() {
                "key" => args.key = Some(value(name, input, "&argument.field")?),
                "timeout" => args.timeout = Some(duration(name, input)?),
                "version" => args.version = version(name, input)?,
                _ => unreachable_name(name)?,
            }
            Ok(())
        });
        args
    }
}

impl Unpublish {
    fn read(input: ParseStream<'_>, errors: &mut Errors) -> Self {
        let mut args = Self::default();
        each(input, "unpublish", &["of", "timeout", "version"], errors, |name, input| {
            match name.unraw().to_string().as_str() {
                "of" => args.of = Some(value(name, input, "\"publish\"")?),
                "timeout" => args.timeout = Some(duration(name, input)?),
                "version" => args.version = version(name, input)?,
                _ => unreachable_name(name)?,
            }
            Ok(())
        });
        args
    }
}

impl Invoke {
    const KNOWN: &[&str] = &["oneway", "idempotent", "share", "timeout", "version"];

    fn read(input: ParseStream<'_>, errors: &mut Errors) -> Self {
        let mut args = Self::default();
        // The names that make no sense beside `oneway`.
        let mut waiting: Vec<Ident> = Vec::new();
        each(input, "invoke", Self::KNOWN, errors, |name, input| {
            match name.unraw().to_string().as_str() {
                "oneway" => args.oneway = true,
                "idempotent" => args.idempotent = true,
                "share" => args.share = true,
                "timeout" => args.timeout = Some(duration(name, input)?),
                "version" => args.version = version(name, input)?,
                _ => unreachable_name(name)?,
            }
            if name != "oneway" && name != "version" {
                waiting.push(name.clone());
            }
            Ok(())
        });
        for name in waiting.iter().filter(|_| args.oneway) {
            errors.at(
                name,
                format!(
                    "nobody waits for the answer of a `oneway` call, so that `{name}` means \
                     nothing; leave out one of the two"
                ),
            );
        }
        args
    }
}
