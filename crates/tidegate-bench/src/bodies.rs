//! Events to publish: unique ids, and random bodies that are slices of one pool, so that making one costs little.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use bytestring::ByteString;
use tidegate_core::event::{Data, Event};

const POOL_BYTES: usize = 4 << 20;

/// Makes events. Cheap to clone; clones never make the same id.
#[derive(Debug, Clone)]
pub(crate) struct Bodies {
    pool: Bytes,
    size: usize,
    source: ByteString,
    kind: ByteString,
    next: Arc<AtomicU64>,
    /// Events are spread over so many subjects; 0 = no subject.
    keys: u64,
    /// Whether bodies are JSON with the random bytes inside.
    json: bool,
}

impl Bodies {
    /// Makes events with `size` random bytes each.
    pub(crate) fn new(size: usize) -> Self {
        let mut pool = vec![0; POOL_BYTES.max(size * 2)];
        fastrand::Rng::new().fill(&mut pool);
        Self {
            pool: pool.into(),
            size,
            source: ByteString::from_static("/bench"),
            kind: ByteString::from_static("bench.event"),
            next: Arc::default(),
            keys: 0,
            json: false,
        }
    }

    /// Gives each event one of so many subjects.
    #[must_use]
    pub(crate) fn keyed(mut self, keys: u64) -> Self {
        self.keys = keys;
        self
    }

    /// Makes the bodies JSON: a number, a customer, and random letters up to the size.
    #[must_use]
    pub(crate) fn json(mut self) -> Self {
        let letters: Vec<u8> = self.pool.iter().map(|byte| b'a' + byte % 26).collect();
        self.pool = letters.into();
        self.json = true;
        self
    }

    /// Makes the next event.
    pub(crate) fn event(&self) -> Event {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let data = if self.json { Data::Json(self.json_body(number)) } else { Data::Binary(self.body(number)) };
        let mut event = Event::new(format!("e-{number:014x}"), self.source.clone(), self.kind.clone()).with_data(data);
        if self.keys > 0 {
            event.subject = Some(format!("k-{:07}", number % self.keys).into());
        }
        event
    }

    /// Returns the number of an event that was made here.
    pub(crate) fn number(event: &Event) -> Option<usize> {
        usize::from_str_radix(event.id.strip_prefix("e-")?, 16).ok()
    }

    /// Makes the next `count` events.
    pub(crate) fn events(&self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.event()).collect()
    }

    fn json_body(&self, number: u64) -> Bytes {
        let mut body = format!("{{\"total\":{number},\"customer\":{{\"id\":\"c-{number}\"}},\"text\":\"").into_bytes();
        let rest = self.size.saturating_sub(body.len() + 2);
        body.extend_from_slice(self.body(number).get(..rest).unwrap_or_default());
        body.extend_from_slice(b"\"}");
        body.into()
    }

    fn body(&self, number: u64) -> Bytes {
        let room = (self.pool.len() - self.size) as u64;
        let start = usize::try_from(number.wrapping_mul(4099) % room.max(1)).unwrap_or_default();
        self.pool.slice(start..start + self.size)
    }
}
