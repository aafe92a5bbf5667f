//! Reads the `impl` block. Bodies of functions stay unread, so that whatever rustc can parse is
//! fine, and the block is emitted as it came, without our marks.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Attribute, Ident, ItemImpl, Signature, Token, Visibility,
    parse::{Parse, ParseStream, Parser},
    token::Brace,
};

use crate::marks::{MARKS, names_a_mark};

/// An `impl` block.
pub(crate) struct Source {
    /// All but the items.
    pub(crate) header: ItemImpl,
    /// The items in the braces.
    pub(crate) items: Vec<Item>,
}

/// An item of the block.
pub(crate) struct Item {
    /// Its attributes, with the marks.
    pub(crate) attrs: Vec<Attribute>,
    /// The function, if it is one.
    pub(crate) function: Option<Function>,
}

/// A function without its body.
pub(crate) struct Function {
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
}

impl Source {
    /// Reads an `impl` block.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub(crate) fn read(item: TokenStream) -> syn::Result<Self> {
        let mut header: Vec<TokenTree> = item.into_iter().collect();
        if let Some(wrong) = not_an_impl(&header) {
            return Err(wrong);
        }
        let body = match header.pop() {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => group,
            _ => return Err(syn::Error::new(Span::call_site(), "expected an `impl` block")),
        };
        let mut empty = Group::new(Delimiter::Brace, TokenStream::new());
        empty.set_span(body.span());
        header.push(empty.into());
        Ok(Self {
            header: syn::parse2(header.into_iter().collect())?,
            items: items.parse2(body.stream())?,
        })
    }
}

fn not_an_impl(tokens: &[TokenTree]) -> Option<syn::Error> {
    const ITEMS: [&str; 8] = ["struct", "enum", "union", "trait", "fn", "mod", "type", "const"];
    for token in tokens {
        let TokenTree::Ident(word) = token else { continue };
        if word == "impl" {
            return None;
        }
        if let Some(found) = ITEMS.iter().find(|item| word == *item) {
            let message = format!(
                "`#[cluster_client]` goes on the `impl` block that has the client's methods, not \
                 on a `{found}`"
            );
            return Some(syn::Error::new(word.span(), message));
        }
    }
    let message = "`#[cluster_client]` goes on the `impl` block that has the client's methods";
    Some(syn::Error::new(Span::call_site(), message))
}

fn items(input: ParseStream<'_>) -> syn::Result<Vec<Item>> {
    input.call(Attribute::parse_inner)?;
    let mut items = Vec::new();
    while !input.is_empty() {
        items.push(input.parse()?);
    }
    Ok(items)
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis: Visibility = input.parse()?;
        if input.fork().parse::<Signature>().is_ok() {
            let sig = input.parse()?;
            input.parse::<Group>()?;
            return Ok(Self { attrs, function: Some(Function { vis, sig }) });
        }
        skip_item(input)?;
        Ok(Self { attrs, function: None })
    }
}

/// Skips an associated constant or type, or a macro call.
fn skip_item(input: ParseStream<'_>) -> syn::Result<()> {
    let ends_with_semicolon = input.peek(Token![const]) || input.peek(Token![type]);
    while !input.is_empty() {
        let ends = input.peek(Token![;]) || (input.peek(Brace) && !ends_with_semicolon);
        input.parse::<TokenTree>()?;
        if ends {
            break;
        }
    }
    Ok(())
}

/// The item as it came, without our marks on what is in its braces.
pub(crate) fn without_marks(item: TokenStream) -> TokenStream {
    item.into_iter()
        .map(|token| match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                let mut stripped = Group::new(Delimiter::Brace, strip(group.stream()));
                stripped.set_span(group.span());
                TokenTree::Group(stripped)
            }
            token => token,
        })
        .collect()
}

fn strip(tokens: TokenStream) -> TokenStream {
    let mut out = TokenStream::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_pound = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '#');
        match tokens.peek() {
            Some(TokenTree::Group(group)) if is_pound && is_mark(group) => {
                tokens.next();
            }
            _ => token.to_tokens(&mut out),
        }
    }
    out
}

fn is_mark(group: &Group) -> bool {
    if group.delimiter() != Delimiter::Bracket {
        return false;
    }
    let mut tokens = group.stream().into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(name)), Some(TokenTree::Group(list))) if name == "cfg_attr" => {
            names_a_mark(list.stream())
        }
        (Some(TokenTree::Ident(name)), None | Some(TokenTree::Group(_))) => is_mark_name(&name),
        (Some(TokenTree::Ident(name)), Some(TokenTree::Punct(punct))) => {
            punct.as_char() == '=' && is_mark_name(&name)
        }
        _ => false,
    }
}

fn is_mark_name(name: &Ident) -> bool {
    MARKS.iter().any(|mark| name == mark)
}
