//! Signatures: fault messages without what varies in them, so that like failures group together.
//!
//! Numbers become `<n>`, identifiers `<id>`, quoted text `<text>` and paths `<path>`. What is left are the words that
//! somebody wrote into a program, which is what two failures of one cause have in common.

use crate::limits;

/// Takes the variable parts out of a fault message.
pub fn signature(message: &str) -> String {
    let chars: Vec<char> = message.chars().collect();
    let mut out = String::with_capacity(message.len().min(limits::SIGNATURE_BYTES_MAX));
    let mut at = 0;
    while let Some(c) = chars.get(at).copied() {
        if out.len() >= limits::SIGNATURE_BYTES_MAX {
            break;
        }
        let before = at.checked_sub(1).and_then(|before| chars.get(before)).copied();
        at = if c.is_whitespace() {
            if !out.ends_with(' ') {
                out.push(' ');
            }
            at + 1
        } else if let Some(end) = quoted(&chars, at, before) {
            out.push_str("<text>");
            end
        } else if let Some(end) = path(&chars, at, before) {
            out.push_str("<path>");
            end
        } else if is_word(c) {
            word(&chars, at, &mut out)
        } else {
            out.push(c);
            at + 1
        };
    }
    let end = out.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= limits::SIGNATURE_BYTES_MAX);
    out.truncate(end.last().unwrap_or(0));
    out.truncate(out.trim_end().len());
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_')
}

fn is_at(chars: &[char], at: usize, wanted: impl Fn(char) -> bool) -> bool {
    chars.get(at).is_some_and(|c| wanted(*c))
}

/// Returns the end of quoted text that begins here. An apostrophe inside of a word is none.
fn quoted(chars: &[char], at: usize, before: Option<char>) -> Option<usize> {
    let open = *chars.get(at)?;
    let close = match open {
        '"' | '`' => open,
        '\'' if before.is_none_or(|c| !c.is_alphanumeric()) => open,
        '\u{201c}' => '\u{201d}',
        '\u{2018}' => '\u{2019}',
        _ => return None,
    };
    let ends = |end: &usize| {
        chars[*end] == close
            && (close != '\'' || !is_at(chars, end + 1, char::is_alphanumeric))
            && chars[end - 1] != '\\'
    };
    (at + 1..chars.len()).find(ends).map(|end| end + 1)
}

/// Returns the end of a path, or of the path of a URL, that begins here.
fn path(chars: &[char], at: usize, before: Option<char>) -> Option<usize> {
    if chars.get(at) != Some(&'/') {
        return None;
    }
    // In "and/or" and "application/json" the slash belongs to the words. After the host of a URL it begins its path.
    let is_free = before.is_none_or(|c| !is_word(c) && !matches!(c, '/' | '.' | ':') || matches!(c, '~'));
    if !(is_free || in_url(chars, at)) || !is_at(chars, at + 1, |c| is_word(c) || matches!(c, '.' | '%' | '~')) {
        return None;
    }
    let goes_on =
        |c: char| is_word(c) || matches!(c, '/' | '.' | '%' | '~' | '?' | '=' | '&' | '+' | '@' | ':' | '$' | '*');
    let mut end = (at..chars.len()).find(|end| !goes_on(chars[*end])).unwrap_or(chars.len());
    // What ends a sentence does not belong to the path.
    while end > at + 1 && matches!(chars[end - 1], '.' | ':' | '?') {
        end -= 1;
    }
    Some(end)
}

fn in_url(chars: &[char], at: usize) -> bool {
    let host =
        chars[..at].iter().rev().take_while(|c| is_word(**c) || matches!(c, '.' | ':' | '@' | '[' | ']')).count();
    let start = at - host;
    host > 0 && start >= 2 && chars[start - 1] == '/' && chars[start - 2] == '/'
}

/// Writes the word that begins here without what varies in it; returns its end.
fn word(chars: &[char], at: usize, out: &mut String) -> usize {
    let mut end = (at..chars.len()).find(|end| !is_word(chars[*end])).unwrap_or(chars.len());
    let word = &chars[at..end];
    if is_id(word) {
        out.push_str("<id>");
        return end;
    }
    for (index, part) in word.split(|c| matches!(c, '-' | '_')).enumerate() {
        if index > 0 {
            let separator = at + word_offset(word, index);
            out.push(chars[separator]);
        }
        if is_id(part) {
            out.push_str("<id>");
        } else {
            numbers(part, out);
        }
    }
    // Decimals, versions and addresses are one number.
    if word.last().is_some_and(char::is_ascii_digit) && out.ends_with("<n>") {
        while is_at(chars, end, |c| matches!(c, '.' | ',' | ':')) && is_at(chars, end + 1, |c| c.is_ascii_digit()) {
            end = (end + 1..chars.len()).find(|end| !chars[*end].is_ascii_digit()).unwrap_or(chars.len());
        }
    }
    end
}

/// Returns where in the word its `index`-th separator stands.
fn word_offset(word: &[char], index: usize) -> usize {
    let separators = word.iter().enumerate().filter(|(_, c)| matches!(c, '-' | '_'));
    separators.map(|(at, _)| at).nth(index - 1).unwrap_or(0)
}

/// Tells whether somebody generated this: hexadecimal of eight digits and more, or a long mix of letters and digits.
fn is_id(word: &[char]) -> bool {
    if let ['0', 'x' | 'X', rest @ ..] = word {
        return !rest.is_empty() && rest.iter().all(char::is_ascii_hexdigit);
    }
    let digits = word.iter().filter(|c| c.is_ascii_digit()).count();
    let has_letter = word.iter().any(char::is_ascii_alphabetic);
    let hex = word.len() >= 8 && word.iter().all(|c| c.is_ascii_hexdigit() || *c == '-');
    let mixed = word.len() >= 16 && digits >= 2 && word.iter().all(char::is_ascii_alphanumeric);
    digits > 0 && has_letter && (hex || mixed)
}

/// Writes text with each run of digits as one number.
fn numbers(text: &[char], out: &mut String) {
    let mut in_digits = false;
    for c in text {
        if !c.is_ascii_digit() {
            out.push(*c);
        } else if !in_digits {
            out.push_str("<n>");
        }
        in_digits = c.is_ascii_digit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, expect: &str) {
        assert_eq!(signature(given), expect, "{given}");
    }

    #[test]
    fn words_stay() {
        check("plain words", "plain words");
        check("deadbeef", "deadbeef");
        check("a  b\n c ", "a b c");
        check("", "");
        check("can't read and/or write application/json", "can't read and/or write application/json");
        check("größe falsch: ok", "größe falsch: ok");
    }

    #[test]
    fn numbers_are_one_word() {
        check("status 503 after 12ms", "status <n> after <n>ms");
        check("took 1.5s of 2s", "took <n>s of <n>s");
        check("order-17 and order_18b", "order-<n> and order_<n>b");
        check("connect to 10.0.0.17:5432 refused", "connect to <n> refused");
        check("order 12345678 of 1234567", "order <n> of <n>");
        check("line 3, column 4.", "line <n>, column <n>.");
    }

    #[test]
    fn generated_names_are_ids() {
        check("no user 0f9b2c3d-aaaa-4bbb-8ccc-1234567890ab here", "no user <id> here");
        check("at 0x7ffe and 0xdeadbeefcafe", "at <id> and <id>");
        check("key usr_9f8a7b6c is gone", "key usr_<id> is gone");
        check("event 01ARZ3NDEKTSV4RRFFQ69G5FAV", "event <id>");
        check("commit 3f4bb53aa is bad", "commit <id> is bad");
    }

    #[test]
    fn quoted_text_is_one_word() {
        check("field \"name\" of order 17 is empty", "field <text> of order <n> is empty");
        check("key 'a b' and `c` and “d”", "key <text> and <text> and <text>");
        check("said \"a \\\" b\" twice", "said <text> twice");
        check("an open \" quote 5 stays", "an open \" quote <n> stays");
    }

    #[test]
    fn paths_are_one_word() {
        check("open /var/lib/x-1/y.json: not found", "open <path>: not found");
        check(
            "POST https://partner.example/hook/17?a=b answered 503",
            "POST https://partner.example<path> answered <n>",
        );
        check("in ~/a/b.", "in ~<path>.");
        check("a / b", "a / b");
    }

    #[test]
    fn a_signature_is_short_and_stays_as_it_is() {
        let long = signature(&"ä word ".repeat(1000));
        assert!(long.len() <= limits::SIGNATURE_BYTES_MAX, "{}", long.len());
        for text in ["open /a/b 12 of \"x\"", "key 0xff of 9f8a7b6c", "took 1.5s"] {
            let once = signature(text);
            assert_eq!(signature(&once), once);
        }
    }
}
