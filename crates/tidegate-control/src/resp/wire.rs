//! Requests and answers as the Redis protocol, version 2, has them. A request is a list of words; nothing else is taken, so
//! that nobody can make a browser speak here.

use bytes::{Bytes, BytesMut};
use tidegate_core::limits;

/// The words of a request; there is at least one.
pub(super) type Words = Vec<Bytes>;

/// Digits of the longest length.
const LINE_MAX: usize = 20;

/// Why what came is no request. The connection cannot go on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("a request is a list of strings, as every client library sends it")]
    NoList,
    #[error("a length is not a number")]
    NoLength,
    #[error("a request may have at most {} words", limits::RESP_WORDS_MAX)]
    Words,
    #[error("a request may have at most {} bytes", limits::BODY_BYTES_MAX)]
    Bytes,
}

/// Reads lengths and words from the front of what came.
struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// Returns the number in a line that begins with `mark`; none while the line is not complete.
    fn length(&mut self, mark: u8) -> Result<Option<usize>, Wrong> {
        let rest = &self.input[self.at..];
        match rest.first() {
            None => return Ok(None),
            Some(first) if *first != mark => return Err(Wrong::NoList),
            Some(_) => {}
        }
        let Some(end) = rest.iter().take(LINE_MAX + 2).position(|byte| *byte == b'\r') else {
            return if rest.len() > LINE_MAX { Err(Wrong::NoLength) } else { Ok(None) };
        };
        let Some(line_feed) = rest.get(end + 1) else { return Ok(None) };
        let digits = &rest[1..end];
        let is_number = *line_feed == b'\n' && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(digits).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
        self.at += end + 2;
        number.map(Some).ok_or(Wrong::NoLength)
    }
}

/// Takes a request from the front of what came; none while it is not complete.
pub(super) fn take(input: &mut BytesMut) -> Result<Option<Words>, Wrong> {
    let mut cursor = Cursor { input, at: 0 };
    let Some(count) = cursor.length(b'*')? else { return Ok(None) };
    if count > limits::RESP_WORDS_MAX {
        return Err(Wrong::Words);
    }
    if count == 0 {
        return Err(Wrong::NoList);
    }
    let (mut places, mut bytes) = (Vec::new(), 0_usize);
    for _ in 0..count {
        let Some(length) = cursor.length(b'$')? else { return Ok(None) };
        bytes = bytes.saturating_add(length);
        if bytes > limits::BODY_BYTES_MAX {
            return Err(Wrong::Bytes);
        }
        let start = cursor.at;
        let end = start + length;
        match cursor.input.get(end..end + 2) {
            None => return Ok(None),
            Some(b"\r\n") => {}
            Some(_) => return Err(Wrong::NoLength),
        }
        places.push(start..end);
        cursor.at = end + 2;
    }
    let whole = cursor.at;
    let taken = input.split_to(whole).freeze();
    Ok(Some(places.into_iter().map(|place| taken.slice(place)).collect()))
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// A word of the protocol, such as `OK`.
    Word(&'static str),
    Number(i64),
    Bytes(Bytes),
    List(Vec<Self>),
    /// No list.
    Nothing,
    /// What was asked for is not done; the first word is the code.
    Refused(String),
}

impl Reply {
    pub(super) const OK: Self = Self::Word("OK");

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Bytes(Bytes::from(text.into()))
    }

    pub(super) fn count(count: impl TryInto<i64>) -> Self {
        Self::Number(count.try_into().unwrap_or(i64::MAX))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let line = |out: &mut Vec<u8>, mark: u8, text: &str| {
            out.push(mark);
            out.extend(text.bytes().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
            out.extend_from_slice(b"\r\n");
        };
        match self {
            Self::Word(word) => line(out, b'+', word),
            Self::Number(number) => line(out, b':', &number.to_string()),
            Self::Bytes(bytes) => {
                line(out, b'$', &bytes.len().to_string());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::List(all) => {
                line(out, b'*', &all.len().to_string());
                all.iter().for_each(|one| one.write(out));
            }
            Self::Nothing => out.extend_from_slice(b"*-1\r\n"),
            Self::Refused(why) => line(out, b'-', why),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(words: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        Reply::List(words.iter().map(|word| Reply::Bytes(Bytes::copy_from_slice(word))).collect()).write(&mut out);
        out
    }

    #[test]
    fn what_is_no_request_is_told_from_what_is_not_complete() {
        let check = |input: &[u8], expected| {
            assert_eq!(take(&mut BytesMut::from(input)), expected, "{:?}", String::from_utf8_lossy(input));
        };
        for incomplete in
            [&b""[..], b"*", b"*1", b"*1\r", b"*1\r\n", b"*1\r\n$3\r\n", b"*1\r\n$3\r\nabc", b"*1\r\n$3\r\nabc\r"]
        {
            check(incomplete, Ok(None));
        }
        check(b"GET / HTTP/1.1\r\n\r\n", Err(Wrong::NoList));
        check(b"PING\r\n", Err(Wrong::NoList));
        check(b"*0\r\n", Err(Wrong::NoList));
        check(b"*1\r\n:1\r\n", Err(Wrong::NoList));
        check(b"*-1\r\n", Err(Wrong::NoLength));
        check(b"*+1\r\n", Err(Wrong::NoLength));
        check(b"*1\rx", Err(Wrong::NoLength));
        check(b"*111111111111111111111", Err(Wrong::NoLength));
        check(b"*1\r\n$3\r\nabcde", Err(Wrong::NoLength));
        check(format!("*{}\r\n", limits::RESP_WORDS_MAX + 1).as_bytes(), Err(Wrong::Words));
        check(format!("*1\r\n${}\r\n", limits::BODY_BYTES_MAX + 1).as_bytes(), Err(Wrong::Bytes));
    }

    #[test]
    fn answers_are_written_as_the_protocol_has_them() {
        let mut out = Vec::new();
        let all =
            [Reply::OK, Reply::Number(-7), Reply::Nothing, Reply::Refused("ERR a\r\nb".to_owned()), Reply::text("x")];
        Reply::List(all.into()).write(&mut out);
        assert_eq!(out, b"*5\r\n+OK\r\n:-7\r\n*-1\r\n-ERR a  b\r\n$1\r\nx\r\n");
    }

    proptest! {
        #[test]
        fn requests_are_read_as_they_were_written(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8), cut in any::<prop::sample::Index>()) {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let bytes = [written(&words), written(&[b"PING"])].concat();
            let cut = cut.index(bytes.len());
            let mut input = BytesMut::from(&bytes[..cut]);
            let mut all = Vec::new();
            while let Some(request) = take(&mut input).unwrap() { all.push(request); }
            input.extend_from_slice(&bytes[cut..]);
            while let Some(request) = take(&mut input).unwrap() { all.push(request); }
            prop_assert!(input.is_empty());
            prop_assert_eq!(&all[0], &words);
            prop_assert_eq!(&all[1], &vec![Bytes::from_static(b"PING")]);
        }

        #[test]
        fn nothing_that_comes_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), digits in "[*$0-9\r\n]{0,60}") {
            drop(take(&mut BytesMut::from(&*bytes)));
            drop(take(&mut BytesMut::from(digits.as_bytes())));
        }
    }
}
