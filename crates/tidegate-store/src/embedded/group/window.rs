//! What a group knows of the events that it has not settled, by sequence number.
//!
//! Most of them lie close together: they came one after the other and are settled soon. Those stand in chunks of
//! consecutive numbers, found by a division. The few that stay behind move into a map when most of their chunk is gone, so
//! that memory follows what waits and not how far apart it lies.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Bound, RangeBounds},
};

/// Numbers in one chunk.
const CHUNK: u64 = 64;
/// A chunk with so few left is not worth its room.
const FEW: usize = 16;

/// A map of sequence numbers in which neighbours lie together.
#[derive(Debug)]
pub(crate) struct Window<T> {
    /// By the first number that they can hold, divided by [`CHUNK`].
    chunks: BTreeMap<u64, Box<Chunk<T>>>,
    /// Those whose chunk was given up. **Invariant:** a number whose chunk exists is not in here.
    few: BTreeMap<u64, T>,
    /// Highest chunk that was given up: it and those before it are not made again.
    given_up: Option<u64>,
    len: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    /// How many slots are taken.
    taken: usize,
    slots: [Option<T>; CHUNK as usize],
}

fn place(seq: u64) -> (u64, usize) {
    (seq / CHUNK, (seq % CHUNK) as usize)
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { chunks: BTreeMap::new(), few: BTreeMap::new(), given_up: None, len: 0 }
    }
}

impl<T> Window<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&T> {
        let (chunk, slot) = place(seq);
        match self.chunks.get(&chunk) {
            Some(chunk) => chunk.slots[slot].as_ref(),
            None => self.few.get(&seq),
        }
    }

    pub(crate) fn get_mut(&mut self, seq: u64) -> Option<&mut T> {
        let (chunk, slot) = place(seq);
        match self.chunks.get_mut(&chunk) {
            Some(chunk) => chunk.slots[slot].as_mut(),
            None => self.few.get_mut(&seq),
        }
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.get(seq).is_some()
    }

    pub(crate) fn insert(&mut self, seq: u64, value: T) {
        let (number, slot) = place(seq);
        if !self.chunks.contains_key(&number) {
            if self.given_up >= Some(number) {
                self.len += usize::from(self.few.insert(seq, value).is_none());
                return;
            }
            let newest = self.chunks.last_key_value().map(|(newest, _)| *newest);
            let chunk = Box::new(Chunk { taken: 0, slots: [const { None }; CHUNK as usize] });
            self.chunks.insert(number, chunk);
            // The one that was the newest gets no more.
            if let Some(before) = newest.filter(|newest| *newest < number) {
                self.give_up_if_few(before);
            }
        }
        if let Some(chunk) = self.chunks.get_mut(&number) {
            let is_new = chunk.slots[slot].replace(value).is_none();
            chunk.taken += usize::from(is_new);
            self.len += usize::from(is_new);
        }
    }

    pub(crate) fn remove(&mut self, seq: u64) -> Option<T> {
        let (number, slot) = place(seq);
        let Some(chunk) = self.chunks.get_mut(&number) else {
            let gone = self.few.remove(&seq)?;
            self.len -= 1;
            return Some(gone);
        };
        let gone = chunk.slots[slot].take()?;
        chunk.taken -= 1;
        self.len -= 1;
        if chunk.taken == 0 {
            self.chunks.remove(&number);
        } else if chunk.taken <= FEW {
            let is_newest = self.chunks.last_key_value().is_some_and(|(newest, _)| *newest == number);
            if !is_newest {
                self.give_up_if_few(number);
            }
        }
        Some(gone)
    }

    fn give_up_if_few(&mut self, number: u64) {
        let btree_map::Entry::Occupied(chunk) = self.chunks.entry(number) else { return };
        if chunk.get().taken > FEW {
            return;
        }
        let left = chunk.remove().slots.into_iter().enumerate();
        self.few.extend(left.filter_map(|(slot, value)| Some((number * CHUNK + slot as u64, value?))));
        self.given_up = self.given_up.max(Some(number));
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the lowest number.
    pub(crate) fn first(&self) -> Option<u64> {
        self.iter().next().map(|(seq, _)| seq)
    }

    /// Returns all in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.range(..)
    }

    /// Returns those in a range in the order of their numbers.
    pub(crate) fn range(&self, range: impl RangeBounds<u64>) -> impl Iterator<Item = (u64, &T)> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let end = end.max(from);
        let mut few = self.few.range(from..end).map(|(seq, value)| (*seq, value)).peekable();
        let mut near = self
            .chunks
            .range(from / CHUNK..end.div_ceil(CHUNK).max(from / CHUNK))
            .flat_map(|(number, chunk)| chunk.iter(*number))
            .skip_while(move |(seq, _)| *seq < from)
            .take_while(move |(seq, _)| *seq < end)
            .peekable();
        std::iter::from_fn(move || {
            let of_few = match (few.peek(), near.peek()) {
                (Some((few, _)), Some((near, _))) => few < near,
                (few, _) => few.is_some(),
            };
            if of_few { few.next() } else { near.next() }
        })
    }
}

impl<T> Chunk<T> {
    fn iter(&self, number: u64) -> impl Iterator<Item = (u64, &T)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(move |(slot, value)| Some((number * CHUNK + slot as u64, value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Numbers that lie together, and now and then one that does not.
    fn seq() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 0..400_u64, 1 => 0..100_000_u64, 1 => u64::MAX - 200..u64::MAX]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64),
        Remove(u64),
        /// A run of numbers comes or goes, as it does in life.
        InsertRun(u64, u64),
        RemoveRun(u64, u64),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => seq().prop_map(Step::Insert),
            20 => seq().prop_map(Step::Remove),
            6 => (0..400_u64, 1..200_u64).prop_map(|(from, count)| Step::InsertRun(from, count)),
            6 => (0..400_u64, 1..200_u64).prop_map(|(from, count)| Step::RemoveRun(from, count)),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_an_ordered_map_holds(steps in vec(step(), 1..120), (from, to) in (seq(), seq())) {
            let (mut window, mut model, mut value) = (Window::default(), BTreeMap::new(), 0);
            for step in steps {
                value += 1;
                match step {
                    Step::Insert(seq) => {
                        window.insert(seq, value);
                        model.insert(seq, value);
                    }
                    Step::Remove(seq) => prop_assert_eq!(window.remove(seq), model.remove(&seq)),
                    Step::InsertRun(from, count) => for seq in from..from + count {
                        window.insert(seq, value);
                        model.insert(seq, value);
                    },
                    Step::RemoveRun(from, count) => for seq in from..from + count {
                        prop_assert_eq!(window.remove(seq), model.remove(&seq));
                    },
                    Step::Clear => {
                        window.clear();
                        model.clear();
                    }
                }
                prop_assert_eq!(window.len(), model.len());
            }
            prop_assert_eq!(window.first(), model.first_key_value().map(|(seq, _)| *seq));
            let all: Vec<_> = window.iter().map(|(seq, value)| (seq, *value)).collect();
            prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
            let (from, to) = (from.min(to), from.max(to));
            let some: Vec<_> = window.range(from..=to).map(|(seq, value)| (seq, *value)).collect();
            prop_assert_eq!(some, model.range(from..=to).map(|(seq, value)| (*seq, *value)).collect::<Vec<_>>());
            for seq in model.keys() {
                prop_assert_eq!(window.get(*seq), model.get(seq));
                prop_assert_eq!(window.get_mut(*seq).copied(), model.get(seq).copied());
            }
            prop_assert!(!window.contains(200_000));
        }
    }

    #[test]
    fn what_stays_behind_does_not_hold_the_room_of_its_neighbours() {
        let mut window = Window::default();
        for seq in 0..100_000_u64 {
            window.insert(seq, seq);
            if seq % 1_000 > 0 {
                window.remove(seq);
            }
        }
        assert_eq!((window.len(), window.chunks.len() <= 1), (100, true), "{} chunks", window.chunks.len());
        // As a checkpoint gives them back.
        let mut again = Window::default();
        for (seq, value) in window.iter() {
            again.insert(seq, *value);
        }
        assert_eq!((again.len(), again.chunks.len()), (100, 1));
    }
}
