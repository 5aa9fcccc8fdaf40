//! Events that wait for others: who waits and for what, and letting them go by hand.

use tidegate_core::{
    after::{self, EventName},
    delivery::Position,
    event::Event,
    fault::Result,
    limits,
    store::{Blocked, Page, Unblock, UnblockHow},
};

use super::{
    RedisStore,
    entry::parse,
    registry::GroupHead,
    script::{Ask, SCRIPTS},
    settle::letter,
    whereabouts::stored,
};
use crate::served::facts::too_much;

/// Bytes of a fingerprint.
const MARK: usize = 16;

impl RedisStore {
    /// The events of those that an event names whose fingerprints are given, one behind the other.
    pub(crate) fn names_of(&self, marks: &[u8], event: Option<&Event>) -> Vec<EventName> {
        let names = event.map(|event| after::names(event).unwrap_or_default()).unwrap_or_default();
        let is_given = |name: &EventName| {
            let mark = self.mark(&name.source, &name.id);
            marks.chunks(MARK).any(|given| *given == mark)
        };
        names.into_iter().filter(is_given).collect()
    }

    pub(crate) async fn list_blocked(&self, head: &GroupHead, from: Position, max: usize) -> Result<Page<Blocked>> {
        let max = max.clamp(1, limits::PAGE_MAX);
        let mut ask = self.ask(&SCRIPTS.blocked);
        ask.number(head.id).position(from).number(max).number(limits::CLAIM_BYTES_MAX);
        let mut answer = self.run(ask, "list what waits").await?;
        let next = answer.maybe_position()?;
        let items = answer.list()?.each(|one| {
            let mut one = one.list()?;
            let parsed = parse(&one.entry()?, &head.spec.stream)?;
            let waits_for = self.names_of(&one.bytes()?, Some(&parsed.event));
            Ok(Blocked { stored: stored(parsed), waits_for })
        })?;
        Ok(Page { items, next })
    }

    /// Lets deliveries go or buries them, those that wait.
    pub(crate) async fn unblock_some(&self, head: &GroupHead, ask: &Unblock) -> Result<Vec<bool>> {
        let status = self.group_status_of(head).await?;
        // Nobody has looked at it, and what lies before it has to be looked at too.
        let unseen = ask.positions.iter().filter(|position| status.unseen > 0 && **position >= status.next);
        if let Some(last) = unseen.max() {
            self.look_up_to(head, *last).await?;
        }
        let mut words = self.ask(&SCRIPTS.unblock);
        words.number(head.id).number(self.options.clock.now().as_millis());
        match &ask.how {
            UnblockHow::Run => {
                words.text("").number(ask.positions.len());
                for position in &ask.positions {
                    words.position(*position);
                }
            }
            UnblockHow::Bury { .. } => self.pass_burials(&mut words, head, ask).await?,
        }
        let answer = self.run(words, "let go what waits").await?.each(super::Reply::flag);
        self.wake.ring(&[head.id]);
        answer
    }

    /// Passes the letters of those that are buried; of what is not kept there is none, and nothing waits.
    async fn pass_burials(&self, words: &mut Ask, head: &GroupHead, ask: &Unblock) -> Result<()> {
        let UnblockHow::Bury { failure, config } = &ask.how else { return Ok(()) };
        let (stream, now) = (self.stream_head(&head.spec.stream).await?, self.options.clock.now());
        words.number(self.dead_head(&head.spec.stream).await?.id).number(ask.positions.len());
        let mut bytes = 0;
        for position in &ask.positions {
            words.position(*position);
            let Some(parsed) = self.kept_at(&stream, *position).await? else {
                words.text("").number(0);
                continue;
            };
            bytes += parsed.event.size();
            if bytes > limits::STEP_BYTES_MAX {
                return Err(too_much(format!("{} events are too large for one step", ask.positions.len())));
            }
            let (known, fields) = letter(&parsed.event, failure, config, *position, now)?;
            fields.pass(words.text(&known));
        }
        Ok(())
    }
}
