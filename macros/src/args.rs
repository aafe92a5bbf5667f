//! Reads lists of arguments: those of `#[cluster_client(…)]` here, those of the marks on methods
//! in [`marks`](crate::marks).

use std::time::Duration;

use proc_macro2::TokenTree;
use syn::{
    Ident, LitInt, LitStr, Path, Token, Type, Visibility,
    ext::IdentExt,
    parse::{Parse, ParseStream},
};

use crate::diagnostics::Errors;

/// The arguments of `#[cluster_client(…)]`, as far as they are right.
#[derive(Default)]
pub(crate) struct ClientArgs {
    /// `name = "…"`: the name of the channel.
    pub(crate) name: Option<LitStr>,
    /// `codec = …`.
    pub(crate) codec: Option<Path>,
    /// `error = …`: the error type of methods that return no `Result`.
    pub(crate) error: Option<Type>,
    /// `trait = pub Registry`.
    pub(crate) facade: Option<(Visibility, Ident)>,
    /// `crate = …`: where to find the main crate.
    pub(crate) krate: Option<Path>,
}

impl ClientArgs {
    const KNOWN: &[&str] = &["name", "codec", "error", "trait", "crate"];

    /// Reads them all; what is wrong is reported and left out.
    pub(crate) fn read(input: ParseStream<'_>, errors: &mut Errors) -> Self {
        let mut args = Self::default();
        each(input, "cluster_client", Self::KNOWN, errors, |name, input| {
            match name.unraw().to_string().as_str() {
                "name" => args.name = Some(channel_name(name, input)?),
                "codec" => args.codec = Some(value(name, input, "Json")?),
                "error" => args.error = Some(value(name, input, "MyError")?),
                "trait" => {
                    let Named(vis, ident) = value(name, input, "pub Registry")?;
                    args.facade = Some((vis, ident));
                }
                "crate" => args.krate = Some(module(name, input)?),
                _ => unreachable_name(name)?,
            }
            Ok(())
        });
        args
    }
}

/// `pub Registry`
struct Named(Visibility, Ident);

impl Parse for Named {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        Ok(Self(input.parse()?, input.parse()?))
    }
}

fn channel_name(name: &Ident, input: ParseStream<'_>) -> syn::Result<LitStr> {
    let text: LitStr = value(name, input, "\"registry\"")?;
    if text.value().trim().is_empty() {
        let message =
            "the name of a channel cannot be empty; leave `name` out to take the name of the type";
        return Err(syn::Error::new(text.span(), message));
    }
    Ok(text)
}

fn module(name: &Ident, input: ParseStream<'_>) -> syn::Result<Path> {
    equals(name, input, "my_reexports::cluster_client")?;
    // `crate` and `self` are keywords, which only a path in module style may begin with.
    input.call(Path::parse_mod_style)
}

/// Reads `name` or `name = value`, with commas between, and goes on after a mistake. `take` reads
/// the value of one argument, whose name is one of `known`.
pub(crate) fn each(
    input: ParseStream<'_>,
    attribute: &str,
    known: &[&str],
    errors: &mut Errors,
    mut take: impl FnMut(&Ident, ParseStream<'_>) -> syn::Result<()>,
) {
    let mut seen: Vec<String> = Vec::new();
    while !input.is_empty() {
        let taken = input.call(Ident::parse_any).map_err(|error| {
            syn::Error::new(
                error.span(),
                format!("expected the name of an argument: {}", takes(attribute, known)),
            )
        });
        let taken = taken.and_then(|name| {
            let text = name.unraw().to_string();
            if !known.contains(&text.as_str()) {
                let message = format!("unknown argument `{text}`: {}", takes(attribute, known));
                return Err(syn::Error::new(name.span(), message));
            }
            if seen.contains(&text) {
                let message = format!("`{text}` is given twice; leave one out");
                return Err(syn::Error::new(name.span(), message));
            }
            seen.push(text);
            take(&name, input)?;
            end_of_argument(&name, input)
        });
        if errors.ok(taken).is_none() {
            skip_to_comma(input);
        }
        // Only a comma can be here.
        let _comma: Option<Token![,]> = input.parse().unwrap_or_default();
    }
}

fn takes(attribute: &str, known: &[&str]) -> String {
    let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
    match known.split_last() {
        None => format!("`#[{attribute}]` takes none, write it without parentheses"),
        Some((last, [])) => format!("`#[{attribute}]` takes {last}"),
        Some((last, rest)) => format!("`#[{attribute}]` takes {} and {last}", rest.join(", ")),
    }
}

fn end_of_argument(name: &Ident, input: ParseStream<'_>) -> syn::Result<()> {
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(());
    }
    let message = if input.peek(Token![=]) {
        format!("`{}` takes no value; write it alone", name.unraw())
    } else {
        format!("expected a comma after `{}`", name.unraw())
    };
    Err(input.error(message))
}

fn skip_to_comma(input: ParseStream<'_>) {
    while !input.is_empty() && !input.peek(Token![,]) {
        // A token tree is always there, since the input is not empty.
        let _skipped: syn::Result<TokenTree> = input.parse();
    }
}

/// A name that is listed as known and not read is a mistake of this crate, told as such.
pub(crate) fn unreachable_name(name: &Ident) -> syn::Result<()> {
    Err(syn::Error::new(name.span(), "this argument is not supported here; leave it out"))
}

fn equals(name: &Ident, input: ParseStream<'_>, example: &str) -> syn::Result<()> {
    if input.peek(Token![=]) {
        return input.parse::<Token![=]>().map(drop);
    }
    let name = name.clone();
    let message = format!("`{0}` needs a value: `{0} = {example}`", name.unraw());
    Err(syn::Error::new(name.span(), message))
}

/// Reads `= value`; `example` is shown where there is none.
pub(crate) fn value<T: Parse>(
    name: &Ident,
    input: ParseStream<'_>,
    example: &str,
) -> syn::Result<T> {
    equals(name, input, example)?;
    input.parse().map_err(|error| {
        // What is missing at the end has no place of its own.
        let span = if input.is_empty() { name.span() } else { error.span() };
        syn::Error::new(span, format!("{error}; write `{} = {example}`", name.unraw()))
    })
}

/// Reads `= "5s"`.
pub(crate) fn duration(name: &Ident, input: ParseStream<'_>) -> syn::Result<Duration> {
    let text: LitStr = value(name, input, "\"5s\"")?;
    parse_duration(&text.value()).ok_or_else(|| {
        let message =
            "expected a number above zero and a unit, as \"500ms\", \"5s\", \"2m\" or \"1h\"";
        syn::Error::new(text.span(), message)
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let millis = number.parse::<u64>().ok()?.checked_mul(millis)?;
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// Reads `= 2`.
pub(crate) fn version(name: &Ident, input: ParseStream<'_>) -> syn::Result<u32> {
    let number: LitInt = value(name, input, "2")?;
    match number.base10_parse::<u32>() {
        Ok(version) if version > 0 => Ok(version),
        _ => {
            let message = "a version is a number from 1 to 4294967295; leave it out for a method that never changed";
            Err(syn::Error::new(number.span(), message))
        }
    }
}

/// Reads `= "text"` where only some texts are allowed, and gives the place of the one that it is.
pub(crate) fn one_of(name: &Ident, input: ParseStream<'_>, texts: &[&str]) -> syn::Result<usize> {
    let listed: Vec<_> = texts.iter().map(|text| format!("\"{text}\"")).collect();
    let text: LitStr = value(name, input, &listed[0])?;
    texts
        .iter()
        .position(|known| *known == text.value())
        .ok_or_else(|| syn::Error::new(text.span(), format!("expected {}", listed.join(" or "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_are_above_zero() {
        let cases = [
            ("500ms", Some(500)),
            ("5s", Some(5_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("5 s", Some(5_000)),
            ("5", None),
            ("s", None),
            ("", None),
            ("0s", None),
            ("-5s", None),
            ("1.5s", None),
            ("1d", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text:?}");
        }
    }
}
