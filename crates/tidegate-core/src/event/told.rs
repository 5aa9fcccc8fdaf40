//! The stored form of an event inside of what nodes say to each other.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use super::Event;

/// The stored form, between nodes that share an engine. Formats for people get none: an event for the outside has the
/// forms of CloudEvents.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() {
            return Err(S::Error::custom("an event for the outside has the forms of CloudEvents"));
        }
        let mut stored = Vec::with_capacity(self.size() + 64);
        self.encode(&mut stored);
        to.serialize_bytes(&stored)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let stored = <&[u8]>::deserialize(from)?;
        Self::decode(Bytes::copy_from_slice(stored)).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Data;

    #[test]
    fn an_event_reads_back_and_is_nothing_for_people() {
        let event = Event::new("1", "/test", "made").with_data(Data::Text("words".into()));
        let told = postcard::to_stdvec(&event).unwrap();
        assert_eq!(postcard::from_bytes::<Event>(&told).unwrap(), event);
        assert!(serde_json::to_string(&event).is_err());
    }
}
