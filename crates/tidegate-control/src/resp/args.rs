//! The words behind the name of a command, read one after the other.

use bytes::Bytes;
use tidegate_core::{
    delivery::Position,
    fault::{Fault, FaultKind, Retry},
    names::{GroupName, StreamName},
};

use super::wire::Words;

/// Why something is not done: a code that clients know, and words.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

impl Refusal {
    pub(super) fn new(why: impl AsRef<str>) -> Self {
        Self(format!("ERR {}", why.as_ref()))
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let code = match fault.kind {
            FaultKind::Invalid | FaultKind::Missing | FaultKind::Conflict => "ERR",
            FaultKind::Denied => "NOPERM",
            FaultKind::Limited if fault.retry == Retry::Never => "ERR",
            // Clients take these for something that passes, and try again.
            FaultKind::Limited => "OOM",
            FaultKind::Unavailable | FaultKind::Timeout => "LOADING",
            FaultKind::Corrupt | FaultKind::Bug => {
                tracing::error!(%fault, "a command of the Redis protocol failed");
                return Self::new("the node met a fault of its own; its log has the details");
            }
        };
        Self(format!("{code} {}", fault.note()))
    }
}

pub(super) type Result<T, E = Refusal> = std::result::Result<T, E>;

/// The words of a command that are left to read.
#[derive(Debug)]
pub(super) struct Args {
    name: &'static str,
    words: std::vec::IntoIter<Bytes>,
}

/// Whether a word is a keyword, whatever its case.
fn is(word: &Bytes, keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

impl Args {
    /// Takes the words of a request; the first is the name.
    pub(super) fn new(name: &'static str, words: Words) -> Self {
        let mut words = words.into_iter();
        words.next();
        Self { name, words }
    }

    pub(super) fn left(&self) -> usize {
        self.words.len()
    }

    pub(super) fn missing(&self) -> Refusal {
        Refusal::new(format!("wrong number of arguments for {}", self.name))
    }

    pub(super) fn wrong(&self, what: &str) -> Refusal {
        Refusal::new(format!("{} {what}", self.name))
    }

    pub(super) fn word(&mut self) -> Result<Bytes> {
        self.words.next().ok_or_else(|| self.missing())
    }

    pub(super) fn text(&mut self) -> Result<String> {
        let word = self.word()?;
        String::from_utf8(word.into()).map_err(|_| self.wrong("takes text here, and this is not UTF-8"))
    }

    pub(super) fn number<N: std::str::FromStr>(&mut self) -> Result<N> {
        let text = self.text()?;
        text.parse().map_err(|_| Refusal::new(format!("{}: {text:?} is not a number that fits here", self.name)))
    }

    /// Takes a keyword if it is the next word.
    pub(super) fn takes(&mut self, keyword: &str) -> bool {
        let is_next = self.words.as_slice().first().is_some_and(|word| is(word, keyword));
        if is_next {
            self.words.next();
        }
        is_next
    }

    /// Refuses words that nothing was made of.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.words.next() {
            None => Ok(()),
            Some(word) => Err(self.wrong(&format!("does not know {:?} here", String::from_utf8_lossy(&word)))),
        }
    }

    pub(super) fn stream(&mut self) -> Result<StreamName> {
        Ok(StreamName::new(&self.text()?)?)
    }

    pub(super) fn group(&mut self) -> Result<GroupName> {
        Ok(GroupName::new(&self.text()?)?)
    }

    pub(super) fn id(&mut self) -> Result<Position> {
        let text = self.text()?;
        id(&text, 0).ok_or_else(|| Refusal::new(format!("{}: {text:?} is not an id", self.name)))
    }

    pub(super) fn ids(&mut self) -> Result<Vec<Position>> {
        let mut all = Vec::with_capacity(self.left());
        while self.left() > 0 {
            all.push(self.id()?);
        }
        Ok(all)
    }
}

/// Reads an id; the second half may be missing.
pub(super) fn id(text: &str, otherwise: u64) -> Option<Position> {
    let (high, low) = match text.split_once('-') {
        Some((high, low)) => (high.parse().ok()?, low.parse().ok()?),
        None => (text.parse().ok()?, otherwise),
    };
    Some(Position { high, low })
}

/// Writes a position as clients know ids: two numbers with a dash between them.
pub(super) fn id_text(position: Position) -> String {
    format!("{}-{}", position.high, position.low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_their_order_and_none_is_overlooked() {
        let words = ["XCLAIM", "s", "g", "7", "minid", "0-3", "9", "x"].map(|word| Bytes::from_static(word.as_bytes()));
        let mut args = Args::new("XCLAIM", words.into());
        assert_eq!(args.stream().unwrap().as_str(), "s");
        assert_eq!(args.group().unwrap().as_str(), "g");
        assert_eq!(args.number::<u64>().unwrap(), 7);
        assert!(!args.takes("LIMIT") && args.takes("MINID"));
        assert_eq!(args.id().unwrap(), Position::number(3));
        assert_eq!(args.id().unwrap(), Position { high: 9, low: 0 });
        assert_eq!(args.end().unwrap_err().0, "ERR XCLAIM does not know \"x\" here");
        assert_eq!(args.word().unwrap_err().0, "ERR wrong number of arguments for XCLAIM");
    }

    #[test]
    fn faults_get_codes_that_clients_know() {
        use tidegate_core::fault::Origin;
        let check = |fault: Fault, code: &str| assert!(Refusal::from(fault).0.starts_with(code), "{code}");
        check(Fault::invalid("x"), "ERR x");
        check(Fault::denied("x"), "NOPERM x");
        check(Fault::limited("x", std::time::Duration::ZERO), "OOM x");
        check(Fault::unavailable(Origin::Store, "x"), "LOADING x");
        check(Fault::bug("secret"), "ERR the node");
    }
}
