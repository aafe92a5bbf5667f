//! Which `#[unpublish]` withdraws what which `#[publish]` did.

use quote::ToTokens;
use syn::{FnArg, Ident, Pat, Type, ext::IdentExt};

use super::{Marked, signature};
use crate::{
    diagnostics::Errors,
    marks::{Mark, Unpublish},
};

/// An `#[unpublish]` method and its `#[publish]`, as places in the list of marked methods.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) publish: usize,
    pub(crate) unpublish: usize,
}

/// Finds the pairs; what has no partner, or one that does not fit, is reported and left out.
pub(super) fn find(marked: &[Marked], errors: &mut Errors) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (unpublish, method) in marked.iter().enumerate() {
        let Some(Mark::Unpublish(args)) = &method.found.mark else { continue };
        let Some(publish) = partner(method, args, marked, errors) else { continue };
        if pairs.iter().any(|pair| pair.publish == publish) {
            let message = format!(
                "`{}` has an `#[unpublish]` method already; remove this mark",
                marked[publish].function.sig.ident
            );
            errors.at(&method.found.attr, message);
        } else if fits(&marked[publish], method, errors) {
            pairs.push(Pair { publish, unpublish });
        }
    }
    pairs
}

fn partner(
    method: &Marked,
    args: &Unpublish,
    marked: &[Marked],
    errors: &mut Errors,
) -> Option<usize> {
    let publishes: Vec<_> =
        marked.iter().enumerate().filter(|(_, marked)| marked.found.name == "publish").collect();
    let names: Vec<_> =
        publishes.iter().map(|(_, marked)| marked.function.sig.ident.unraw().to_string()).collect();
    match (&args.of, &*publishes) {
        (_, []) => {
            errors.at(
                &method.found.attr,
                "there is no `#[publish]` method that this could withdraw; mark one, or use \
                 `#[invoke]`",
            );
            None
        }
        (None, [(only, _)]) => Some(*only),
        (None, _) => {
            let message = format!(
                "there are several `#[publish]` methods; say which one this withdraws: \
                 `#[unpublish(of = \"{}\")]`",
                names.join("\")]` or `#[unpublish(of = \"")
            );
            errors.at(&method.found.attr, message);
            None
        }
        (Some(of), _) => {
            let place = names.iter().position(|name| *name == of.value());
            if place.is_none() {
                let message = format!(
                    "no `#[publish]` method has this name; expected \"{}\"",
                    names.join("\" or \"")
                );
                errors.at(of, message);
            }
            place.map(|place| publishes[place].0)
        }
    }
}

/// Whether the second takes what the first takes. Types are compared by rustc.
fn fits(publish: &Marked, unpublish: &Marked, errors: &mut Errors) -> bool {
    let (first, second) = (inputs(publish), inputs(unpublish));
    let publish_name = &publish.function.sig.ident;
    if first.len() != second.len() {
        let message = format!(
            "takes {} and `{publish_name}` takes {}; take the same arguments, which say what is \
             withdrawn",
            count(second.len()),
            count(first.len()),
        );
        errors.at(&unpublish.function.sig.ident, message);
        return false;
    }
    let Some(Mark::Publish(args)) = &publish.found.mark else { return false };
    let Some(key) = args.key.as_ref().map(ToTokens::to_token_stream) else { return true };
    let before = errors.count();
    for (first, second) in first.iter().zip(second) {
        let (Some((first, first_ty)), Some((second, second_ty))) = (named(first), named(second))
        else {
            continue;
        };
        if !signature::mentions(&key, first) {
            continue;
        }
        let fits = format!("the key of `{publish_name}` is taken here too, and reads `{first}`");
        if first != second {
            errors.at(second, format!("{fits}; name this argument `{first}`"));
        } else if is_reference(first_ty) != is_reference(second_ty) {
            let text = first_ty.to_token_stream();
            errors.at(second_ty, format!("{fits}; take it as there: `{text}`"));
        }
    }
    errors.count() == before
}

fn inputs(marked: &Marked) -> Vec<&FnArg> {
    let inputs = marked.function.sig.inputs.iter();
    inputs.filter(|input| matches!(input, FnArg::Typed(_))).collect()
}

fn named(input: &FnArg) -> Option<(&Ident, &Type)> {
    match input {
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(pat) => Some((&pat.ident, &typed.ty)),
            _ => None,
        },
        FnArg::Receiver(_) => None,
    }
}

fn is_reference(ty: &Type) -> bool {
    matches!(signature::ungrouped(ty), Type::Reference(_))
}

fn count(arguments: usize) -> String {
    match arguments {
        0 => "no argument".to_owned(),
        1 => "one argument".to_owned(),
        more => format!("{more} arguments"),
    }
}
