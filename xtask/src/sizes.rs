//! How long the files and functions of the repository are.

use syn::visit::{self, Visit};

use crate::tree::Tree;

/// What a length belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    File,
    Function,
}

impl Kind {
    /// Returns the most lines it may have.
    pub(crate) fn limit(self) -> usize {
        match self {
            Self::File => 600,
            Self::Function => 70,
        }
    }
}

/// The length of a file or of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) kind: Kind,
    pub(crate) path: String,
    /// Name of the function with its type or module before it; empty for a file.
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// Returns the length of every Rust file and of every function with a body.
pub(crate) fn all(tree: &Tree) -> Vec<Size> {
    let mut sizes = Vec::new();
    for file in tree.files.iter().filter(|file| file.rust.is_some()) {
        let lines = file.text.lines().count();
        sizes.push(Size { kind: Kind::File, path: file.path.clone(), name: String::new(), line: 1, lines });
    }
    for (file, rust) in tree.rust() {
        let mut walk = Functions { path: &file.path, around: Vec::new(), sizes: &mut sizes };
        walk.visit_file(&rust.ast);
    }
    sizes
}

struct Functions<'a> {
    path: &'a str,
    /// Names of the modules, types and functions around the place of the walk.
    around: Vec<String>,
    sizes: &'a mut Vec<Size>,
}

impl Functions<'_> {
    fn inside(&mut self, name: String, walk: impl FnOnce(&mut Self)) {
        self.around.push(name);
        walk(self);
        self.around.pop();
    }

    /// Notes a function; it counts from its name to its closing brace, its attributes and documents do not.
    fn note(&mut self, sig: &syn::Signature, block: &syn::Block) {
        let line = sig.ident.span().start().line;
        let end = block.brace_token.span.close().end().line;
        let mut name = self.around.join("::");
        if !name.is_empty() {
            name.push_str("::");
        }
        name.push_str(&sig.ident.to_string());
        let path = self.path.to_owned();
        self.sizes.push(Size { kind: Kind::Function, path, name, line, lines: end - line + 1 });
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.inside(module.ident.to_string(), |walk| visit::visit_item_mod(walk, module));
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let mut name = "impl".to_owned();
        if let syn::Type::Path(own) = &*item.self_ty {
            name = last(&own.path);
        }
        if let Some((path, _)) = &item.trait_ {
            name = format!("{name}.{}", last(path));
        }
        self.inside(name, |walk| visit::visit_item_impl(walk, item));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.inside(item.ident.to_string(), |walk| visit::visit_item_trait(walk, item));
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.note(&function.sig, &function.block);
        self.inside(function.sig.ident.to_string(), |walk| visit::visit_item_fn(walk, function));
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.note(&function.sig, &function.block);
        self.inside(function.sig.ident.to_string(), |walk| visit::visit_impl_item_fn(walk, function));
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.note(&function.sig, block);
        }
        self.inside(function.sig.ident.to_string(), |walk| visit::visit_trait_item_fn(walk, function));
    }
}

fn last(path: &syn::Path) -> String {
    path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_by_what_is_around_them() {
        let text = "mod m {\n    impl fmt::Display for A<'_> {\n        /// Doc.\n        #[inline]\n        fn fmt(&self) {\n            fn inner() {}\n        }\n    }\n}\ntrait T { fn only(&self); }\n";
        let functions: Vec<_> = all(&Tree::of(&[("a.rs", text)]))
            .into_iter()
            .filter(|size| size.kind == Kind::Function)
            .map(|size| (size.name, size.line, size.lines))
            .collect();
        let expect = [("m::A.Display::fmt", 5, 3), ("m::A.Display::fmt::inner", 6, 1)];
        assert_eq!(functions, expect.map(|(name, line, lines)| (name.to_owned(), line, lines)));
    }

    #[test]
    fn a_file_counts_all_its_lines() {
        let sizes = all(&Tree::of(&[("a.rs", "//! A.\n\nfn a() {}\n"), ("b.md", "text\n")]));
        let files: Vec<_> = sizes.iter().filter(|size| size.kind == Kind::File).collect();
        assert_eq!((files.len(), files[0].lines), (1, 3));
    }
}
