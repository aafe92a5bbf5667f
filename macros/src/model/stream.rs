//! Finds what a stream yields in the type that a method returns.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{
    AngleBracketedGenericArguments, GenericArgument, Path, PathArguments, PathSegment, Token, Type,
    TypeParamBound, punctuated::Punctuated,
};

/// What a stream yields.
pub(crate) struct Yield {
    /// The item as the user wrote it.
    item: Type,
    /// Whether it is a `Result`, whose `Ok` is the value.
    pub(crate) is_result: bool,
}

impl Yield {
    fn new(item: &Type) -> Self {
        Self {
            item: item.clone(),
            is_result: last_segment(item).is_some_and(|last| last.ident == "Result"),
        }
    }

    /// The item as the user wrote it.
    pub(crate) fn item(&self) -> &Type {
        &self.item
    }

    /// The type of the values.
    pub(crate) fn value(&self, krate: &TokenStream) -> TokenStream {
        let item = &self.item;
        if self.is_result {
            quote!(<#item as #krate::__private::Outcome>::Value)
        } else {
            item.to_token_stream()
        }
    }
}

/// What the stream type `ty` yields: `impl Stream<Item = X>`, `BoxStream<'_, X>` or
/// `Pin<Box<dyn Stream<Item = X>>>`.
pub(crate) fn yields(ty: &Type) -> Option<Yield> {
    match ty {
        Type::Group(group) => yields(&group.elem),
        Type::Paren(paren) => yields(&paren.elem),
        Type::ImplTrait(imp) => item_of_bounds(&imp.bounds),
        Type::TraitObject(object) => item_of_bounds(&object.bounds),
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            if last.ident == "BoxStream" {
                return type_arguments(last).last().map(Yield::new);
            }
            if last.ident == "Pin" || last.ident == "Box" {
                return type_arguments(last).next().and_then(yields);
            }
            None
        }
        _ => None,
    }
}

/// Whether it is an `impl Stream` that does not say what it yields.
pub(crate) fn is_stream_without_item(ty: &Type) -> bool {
    match ty {
        Type::ImplTrait(imp) => {
            imp.bounds.iter().any(
                |bound| matches!(bound, TypeParamBound::Trait(bound) if is_stream(&bound.path)),
            ) && item_of_bounds(&imp.bounds).is_none()
        }
        _ => false,
    }
}

/// Takes `Result<impl Stream<Item = X>, E>` apart: what the stream yields, and the type with
/// `replacement` in the place of the stream.
pub(crate) fn in_result(
    ty: &Type,
    replacement: impl FnOnce(&Yield) -> TokenStream,
) -> Option<(Yield, TokenStream)> {
    let mut ty = super::signature::ungrouped(ty).clone();
    let last = match &mut ty {
        Type::Path(path) => path.path.segments.last_mut()?,
        _ => return None,
    };
    let PathArguments::AngleBracketed(AngleBracketedGenericArguments { args, .. }) =
        &mut last.arguments
    else {
        return None;
    };
    let (place, found) = args.iter_mut().find_map(|argument| match argument {
        GenericArgument::Type(inner) => yields(inner).map(|found| (inner, found)),
        _ => None,
    })?;
    *place = Type::Verbatim(replacement(&found));
    Some((found, ty.into_token_stream()))
}

fn item_of_bounds(bounds: &Punctuated<TypeParamBound, Token![+]>) -> Option<Yield> {
    bounds.iter().find_map(|bound| match bound {
        TypeParamBound::Trait(bound) if is_stream(&bound.path) => {
            item_of(bound.path.segments.last()?)
        }
        _ => None,
    })
}

fn is_stream(path: &Path) -> bool {
    path.segments.last().is_some_and(|last| last.ident == "Stream")
}

fn item_of(stream: &PathSegment) -> Option<Yield> {
    let PathArguments::AngleBracketed(arguments) = &stream.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(assoc) if assoc.ident == "Item" => Some(Yield::new(&assoc.ty)),
        _ => None,
    })
}

fn type_arguments(segment: &PathSegment) -> impl Iterator<Item = &Type> {
    let arguments = match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => Some(&arguments.args),
        _ => None,
    };
    arguments.into_iter().flatten().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// The last segment of a path type.
pub(crate) fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(path) => path.path.segments.last(),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}
