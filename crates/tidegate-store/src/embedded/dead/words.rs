//! Signatures and event types of dead letters, each stored once and counted.

use std::{collections::HashMap, sync::Arc};

use tidegate_core::limits;

/// What words beyond the limit are counted under.
const OTHER: &str = "other";

/// Words by number. A word that nobody uses any more makes room.
#[derive(Debug)]
pub(super) struct Words {
    texts: Vec<(Arc<str>, u64)>,
    numbers: HashMap<Arc<str>, u32>,
    free: Vec<u32>,
}

impl Default for Words {
    fn default() -> Self {
        // The first one is never given back.
        Self { texts: vec![(Arc::from(OTHER), 1)], numbers: HashMap::new(), free: Vec::new() }
    }
}

impl Words {
    /// Returns the number of a word for one more user of it.
    pub(super) fn take(&mut self, text: &str) -> u32 {
        let known = self.numbers.get(text).copied();
        let number = match known.or_else(|| self.free.pop()) {
            Some(number) => number,
            None if self.texts.len() > limits::DEAD_WORDS_MAX => 0,
            None => {
                self.texts.push((Arc::from(text), 0));
                (self.texts.len() - 1) as u32
            }
        };
        if known.is_none() && number > 0 {
            let text: Arc<str> = Arc::from(text);
            self.texts[number as usize].0 = Arc::clone(&text);
            self.numbers.insert(text, number);
        }
        self.texts[number as usize].1 += 1;
        number
    }

    /// Takes note that one user less needs the word.
    pub(super) fn give_back(&mut self, number: u32) {
        let Some((text, uses)) = self.texts.get_mut(number as usize) else { return };
        *uses = uses.saturating_sub(1);
        if *uses == 0 && number > 0 {
            self.numbers.remove(&**text);
            *text = Arc::from("");
            self.free.push(number);
        }
    }

    pub(super) fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", |(text, _)| text)
    }

    /// Returns how many numbers are in use or were.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_stored_once_and_make_room() {
        let mut words = Words::default();
        let one = words.take("one");
        assert_eq!((words.take("one"), words.text(one)), (one, "one"));
        let two = words.take("two");
        words.give_back(one);
        assert_eq!(words.text(one), "one", "one more uses it");
        words.give_back(one);
        assert_eq!(words.take("three"), one, "its room is used again");
        assert_eq!((words.text(one), words.text(two)), ("three", "two"));
    }

    #[test]
    fn too_many_words_are_counted_together() {
        let mut words = Words::default();
        for index in 0..limits::DEAD_WORDS_MAX {
            assert_ne!(words.take(&format!("word {index}")), 0);
        }
        let beyond = words.take("one more");
        assert_eq!((beyond, words.text(beyond)), (0, OTHER));
        words.give_back(beyond);
        assert_eq!(words.text(0), OTHER);
    }
}
