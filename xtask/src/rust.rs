//! What the rules need to know of a Rust file: its tree, its tokens with their places, its test lines.

use std::{ops::RangeInclusive, str::FromStr as _};

use proc_macro2::{LineColumn, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::tree::ParseError;

/// A parsed Rust file.
pub(crate) struct Rust {
    pub(crate) ast: syn::File,
    /// All tokens in order, with the brackets left out.
    pub(crate) tokens: Vec<Token>,
}

/// A token and where it stands; lines count from 1, columns from 0.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) start: LineColumn,
    pub(crate) end: LineColumn,
    pub(crate) is_literal: bool,
}

impl Rust {
    /// Parses the text of a file.
    pub(crate) fn parse(text: &str) -> Result<Self, ParseError> {
        let refused = |span: Span, reason: String| ParseError { line: span.start().line, reason };
        let stream = TokenStream::from_str(text).map_err(|error| refused(error.span(), error.to_string()))?;
        let mut tokens = Vec::new();
        flatten(stream.clone(), &mut tokens);
        let ast = syn::parse2(stream).map_err(|error| refused(error.span(), error.to_string()))?;
        Ok(Self { ast, tokens })
    }

    /// Returns the lines that only exist in test builds: `#[cfg(test)]` modules and test functions.
    pub(crate) fn test_lines(&self) -> Vec<RangeInclusive<usize>> {
        let mut found = TestLines(Vec::new());
        found.visit_file(&self.ast);
        found.0
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let (text, is_literal) = match &tree {
            TokenTree::Group(group) => {
                flatten(group.stream(), tokens);
                continue;
            }
            TokenTree::Ident(ident) => (ident.to_string(), false),
            TokenTree::Punct(punct) => (punct.as_char().to_string(), false),
            TokenTree::Literal(literal) => (literal.to_string(), true),
        };
        tokens.push(Token { text, start: tree.span().start(), end: tree.span().end(), is_literal });
    }
}

struct TestLines(Vec<RangeInclusive<usize>>);

impl<'ast> Visit<'ast> for TestLines {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if let Some((brace, _)) = &module.content
            && module.attrs.iter().any(is_cfg_test)
        {
            self.0.push(module.ident.span().start().line..=brace.span.close().end().line);
        }
        visit::visit_item_mod(self, module);
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if function.attrs.iter().any(|attr| is_test(attr) || is_cfg_test(attr)) {
            let end = function.block.brace_token.span.close().end().line;
            self.0.push(function.sig.ident.span().start().line..=end);
        }
        visit::visit_item_fn(self, function);
    }
}

/// Tells whether an attribute is `#[test]`, `#[tokio::test]` or another of that name.
fn is_test(attr: &syn::Attribute) -> bool {
    attr.path().segments.last().is_some_and(|last| last.ident == "test")
}

fn is_cfg_test(attr: &syn::Attribute) -> bool {
    let Ok(list) = attr.meta.require_list() else { return false };
    let words = list.tokens.to_string();
    attr.path().is_ident("cfg") && words.contains("test") && !words.contains("not")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_lines_are_modules_and_functions_of_tests() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[tokio::test]\nasync fn c() {\n}\n";
        let rust = Rust::parse(text).unwrap_or_else(|error| panic!("{}", error.reason));
        assert_eq!(rust.test_lines(), [3..=5, 7..=8]);
    }

    #[test]
    fn a_broken_file_says_where() {
        let error = Rust::parse("fn a() {}\nfn b( {}\n").err().map(|error| error.line);
        assert_eq!(error, Some(2));
    }
}
