//! Cuts what is read into lines, with their places, and holds no more of a line than is allowed.

use bytes::{Buf as _, Bytes, BytesMut};

/// A line of input, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source) struct Line {
    /// Where it begins, in bytes from the start of the input.
    pub(in crate::source) at: u64,
    /// Where the next one begins.
    pub(in crate::source) end: u64,
    /// Its number, from 1.
    pub(in crate::source) number: u64,
    /// Its text; the beginning of it when it is cut.
    pub(in crate::source) text: Bytes,
    /// Whether it is longer than allowed.
    pub(in crate::source) is_cut: bool,
}

impl Line {
    /// Tells whether it holds nothing.
    pub(in crate::source) fn is_blank(&self) -> bool {
        !self.is_cut && super::is_blank(&self.text)
    }
}

/// Cuts input into lines.
#[derive(Debug)]
pub(in crate::source) struct Splitter {
    buffer: BytesMut,
    /// Bytes of the buffer that hold no end of a line.
    looked: usize,
    /// The beginning of a line that is too long, while the rest of it is dropped.
    cut: Option<Cut>,
    line_max: usize,
    /// Where the buffer begins in the input.
    at: u64,
    /// Lines before the buffer.
    number: u64,
}

#[derive(Debug)]
struct Cut {
    at: u64,
    head: Bytes,
}

impl Splitter {
    /// Begins at a place of the input that is the beginning of a line.
    pub(in crate::source) fn new(at: u64, number: u64, line_max: usize) -> Self {
        Self { buffer: BytesMut::new(), looked: 0, cut: None, line_max, at, number }
    }

    /// Takes what was read.
    pub(in crate::source) fn push(&mut self, read: &[u8]) {
        self.buffer.extend_from_slice(read);
    }

    /// Returns how far the input was read.
    pub(in crate::source) fn read_to(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    /// Returns the next line that is whole.
    pub(in crate::source) fn next_line(&mut self) -> Option<Line> {
        let fresh = self.buffer.get(self.looked..).unwrap_or_default();
        match fresh.iter().position(|byte| *byte == b'\n') {
            Some(found) => {
                let length = self.looked + found;
                let mut text = self.buffer.split_to(length).freeze();
                self.buffer.advance(1);
                if text.ends_with(b"\r") {
                    text.truncate(text.len() - 1);
                }
                Some(self.line(text, length as u64 + 1))
            }
            None => {
                self.looked = self.buffer.len();
                if self.buffer.len() > self.line_max {
                    self.drop_read();
                }
                None
            }
        }
    }

    /// Returns what stands behind the last end of a line, when the input ends there.
    pub(in crate::source) fn rest(&mut self) -> Option<Line> {
        if self.buffer.is_empty() && self.cut.is_none() {
            return None;
        }
        let length = self.buffer.len() as u64;
        let text = self.buffer.split().freeze();
        Some(self.line(text, length))
    }

    fn line(&mut self, text: Bytes, length: u64) -> Line {
        self.looked = 0;
        self.number += 1;
        let began = self.at;
        self.at += length;
        let (at, text, is_cut) = match self.cut.take() {
            Some(cut) => (cut.at, cut.head, true),
            None if text.len() > self.line_max => (began, text.slice(..self.line_max), true),
            None => (began, text, false),
        };
        Line { at, end: self.at, number: self.number, text, is_cut }
    }

    /// Drops what was read of a line that is too long, but for its beginning.
    fn drop_read(&mut self) {
        let length = self.buffer.len();
        let read = self.buffer.split().freeze();
        let at = self.at;
        self.cut.get_or_insert_with(|| Cut { at, head: read.slice(..self.line_max.min(length)) });
        self.at += length as u64;
        self.looked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts a text that comes in pieces of a size; returns place, number and text of each line.
    fn cut(text: &str, piece: usize, line_max: usize) -> Vec<(u64, u64, String)> {
        let mut splitter = Splitter::new(0, 0, line_max);
        let mut lines = Vec::new();
        for read in text.as_bytes().chunks(piece) {
            splitter.push(read);
            lines.extend(std::iter::from_fn(|| splitter.next_line()));
        }
        lines.extend(splitter.rest());
        assert_eq!(splitter.read_to(), text.len() as u64);
        let show = |line: Line| {
            let mark = if line.is_cut { "…" } else { "" };
            (line.at, line.number, format!("{}{mark}", String::from_utf8_lossy(&line.text)))
        };
        lines.into_iter().map(show).collect()
    }

    #[test]
    fn lines_are_cut_alike_however_they_come() {
        let text = "one\ntwo\r\n\nabcdefghijklm\nlast";
        let expect = [(0, 1, "one"), (4, 2, "two"), (9, 3, ""), (10, 4, "abcdefgh…"), (24, 5, "last")];
        let expect = expect.map(|(at, number, text)| (at, number, text.to_owned()));
        for piece in 1..text.len() + 1 {
            assert_eq!(cut(text, piece, 8), expect, "pieces of {piece}");
        }
        assert!(cut("", 1, 8).is_empty());
        assert_eq!(cut("abcdefghijk", 3, 8), [(0, 1, "abcdefgh…".to_owned())]);
    }

    #[test]
    fn a_line_without_end_is_not_held_whole() {
        let mut splitter = Splitter::new(0, 0, 100);
        for _ in 0..10_000 {
            splitter.push(&[b'x'; 50]);
            assert_eq!(splitter.next_line(), None);
            assert!(splitter.buffer.len() <= 150);
        }
        splitter.push(b"\nshort\n");
        let line = splitter.next_line().unwrap();
        assert_eq!((line.is_cut, line.text.len(), line.end), (true, 100, 500_001));
        assert_eq!(splitter.next_line().unwrap().text, "short");
    }
}
