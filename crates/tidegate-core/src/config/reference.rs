//! References to values that stand outside the document: `${env:NAME}` and `${file:PATH}`.

use std::borrow::Cow;

/// The door to the environment and to files, for references.
pub trait Environment {
    /// Returns the value of a variable, or why there is none, without a period.
    fn variable(&self, name: &str) -> Result<String, String>;

    /// Returns the text of a file, or why there is none, without a period. One line break at its end is not part of
    /// the value. With `secret`, a file that everybody may read is refused.
    fn file(&self, path: &str, secret: bool) -> Result<String, String>;
}

/// No references are allowed: for documents that come over the network.
#[derive(Debug, Clone, Copy)]
pub struct NoReferences;

impl Environment for NoReferences {
    fn variable(&self, _: &str) -> Result<String, String> {
        Err("references are not allowed in this document".to_owned())
    }

    fn file(&self, _: &str, _: bool) -> Result<String, String> {
        Err("references are not allowed in this document".to_owned())
    }
}

const OPEN: &str = "${";
const ESCAPED_OPEN: &str = "$${";

/// A scalar after its references were resolved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved<'a> {
    /// The text.
    pub(super) text: Cow<'a, str>,
    /// The values that were put in; they must not be printed.
    pub(super) values: Vec<String>,
    /// Whether the whole scalar is one reference.
    pub(super) whole: bool,
}

/// Resolves all references in a scalar.
pub(super) fn resolve<'a>(text: &'a str, secret: bool, environment: &dyn Environment) -> Result<Resolved<'a>, String> {
    if !text.contains(OPEN) {
        return Ok(Resolved { text: text.into(), values: Vec::new(), whole: false });
    }
    let mut out = String::new();
    let mut values = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        let (before, reference) = rest.split_at(at);
        if before.ends_with('$') {
            // Of `$${`, one dollar was only there to say that this is no reference.
            out.push_str(before);
            out.push('{');
            rest = reference.strip_prefix(OPEN).unwrap_or_default();
            continue;
        }
        out.push_str(before);
        let (inside, after) = reference
            .strip_prefix(OPEN)
            .and_then(|inside| inside.split_once('}'))
            .ok_or_else(|| format!("a reference is not closed; write {ESCAPED_OPEN} for a literal {OPEN}"))?;
        let value = look_up(inside, secret, environment)?;
        out.push_str(&value);
        values.push(value);
        rest = after;
    }
    let whole = values.len() == 1 && rest.is_empty() && text.starts_with(OPEN) && text.matches(OPEN).count() == 1;
    out.push_str(rest);
    Ok(Resolved { text: out.into(), values, whole })
}

fn look_up(inside: &str, secret: bool, environment: &dyn Environment) -> Result<String, String> {
    match inside.split_once(':') {
        Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => environment.variable(name),
        Some(("file", path)) if !path.is_empty() && !path.contains('\0') => {
            let mut text = environment.file(path, secret)?;
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            Ok(text)
        }
        Some(_) | None => Err(format!(
            "{OPEN}{inside}}} is no reference; known are ${{env:NAME}} and ${{file:PATH}}, and {ESCAPED_OPEN} writes a literal {OPEN}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Environment for Fixed {
        fn variable(&self, name: &str) -> Result<String, String> {
            if name == "HOST" { Ok("harbour".to_owned()) } else { Err(format!("variable {name} is not set")) }
        }
        fn file(&self, path: &str, secret: bool) -> Result<String, String> {
            if path == "open" && secret { Err("everybody may read it".to_owned()) } else { Ok("line\r\n".to_owned()) }
        }
    }

    #[test]
    fn references_are_put_in() {
        let check = |text: &str, expect: &str, whole: bool| {
            let resolved = resolve(text, false, &Fixed).unwrap();
            assert_eq!((&*resolved.text, resolved.whole), (expect, whole), "{text}");
        };
        check("plain $ { text }", "plain $ { text }", false);
        check("${env:HOST}", "harbour", true);
        check("http://${env:HOST}/${env:HOST}", "http://harbour/harbour", false);
        check("${env:HOST}x", "harbourx", false);
        check("$${env:HOST}", "${env:HOST}", false);
        check("$${a} ${env:HOST}", "${a} harbour", false);
        check("${file:open}", "line", true);
    }

    #[test]
    fn wrong_references_are_named() {
        let check = |text: &str, word: &str| {
            let refused = resolve(text, true, &Fixed).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        };
        check("${env:NONE}", "NONE is not set");
        check("${env:}", "no reference");
        check("${HOST}", "no reference");
        check("${vault:x}", "${file:PATH}");
        check("${env:HOST", "not closed");
        check("${file:open}", "everybody");
    }
}
