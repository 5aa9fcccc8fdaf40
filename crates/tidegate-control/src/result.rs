//! Finds the result of an event, and else says how far the event is.
//!
//! With the source of an event its result costs one question to an index. Without, the newest events are looked at too,
//! at most [`limits::RESULT_LOOK_MAX`] of each stream.

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::Event,
    fault::{Fault, FaultClass, FaultKind, Result},
    limits,
    names::{GroupName, StreamName},
    result::{request_source, result_source},
    store::{DeadLetter, DeadState, Stored},
    whereabouts::{Find, Place},
};
use tidegate_engine::Keeper;

use crate::api::Api;

/// Which result is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) id: ByteString,
    pub(crate) source: Option<ByteString>,
    pub(crate) stream: Option<StreamName>,
    pub(crate) group: Option<GroupName>,
    pub(crate) position: Option<Position>,
}

/// An event whose result is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) keeper: Keeper,
    pub(crate) id: ByteString,
    /// None: the event is no longer kept, and nobody said it.
    pub(crate) source: Option<ByteString>,
    /// None: only the result is known.
    pub(crate) position: Option<Position>,
}

/// What is known of a result.
#[derive(Debug)]
pub(crate) enum Look {
    /// Here it is.
    Kept(Box<Stored>),
    /// Not yet.
    Open {
        /// `waiting`, `blocked`, `scheduled` or `in_flight`.
        state: &'static str,
        /// When it goes on, when it waits for a time.
        until: Option<Timestamp>,
    },
    /// There will be none, unless somebody sends a dead letter back.
    Ended(Ended),
    /// There is none any more, or never was.
    Gone(String),
}

/// How an event ended that has no answer.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// `dead`, `expired`, `dropped`, `skipped` or, when the answer was too large, `done`.
    pub(crate) state: &'static str,
    pub(crate) group: GroupName,
    pub(crate) stream: StreamName,
    pub(crate) class: Option<FaultClass>,
    pub(crate) dead_letter: Option<Position>,
    pub(crate) detail: String,
}

impl Ask {
    /// Finds the event; what it says when there is none is for the caller.
    pub(crate) async fn locate(&self, api: &Api) -> Result<Found> {
        let keepers = self.keepers(api)?;
        let mut all = Vec::new();
        for keeper in &keepers {
            all.extend(self.locate_for(api, keeper).await?);
        }
        let mut all = all.into_iter();
        match (all.next(), all.next()) {
            (Some(found), None) => Ok(found),
            (Some(one), Some(two)) => Err(Fault::invalid(format!(
                "groups {} and {} both know an event with the id {:?}: say which with group",
                one.keeper.group, two.keeper.group, &*self.id
            ))),
            (None, _) => Err(Fault::missing(self.in_vain(&keepers))),
        }
    }

    fn is_of(&self, event: &Event) -> bool {
        event.id == self.id && self.source.as_ref().is_none_or(|source| *source == event.source)
    }

    /// Returns the groups that may have the result.
    fn keepers(&self, api: &Api) -> Result<Vec<Keeper>> {
        let fits = |keeper: &Keeper| {
            self.group.as_ref().is_none_or(|group| *group == keeper.group)
                && self.stream.as_ref().is_none_or(|stream| *stream == keeper.stream)
        };
        if let Some(group) = &self.group {
            api.groups.glance(group)?;
        }
        let keepers: Vec<Keeper> = api.groups.keepers().into_iter().filter(fits).collect();
        if !keepers.is_empty() {
            return Ok(keepers);
        }
        let who = match (&self.group, &self.stream) {
            (Some(group), _) => format!("group {group} does not keep results"),
            (None, Some(stream)) => format!("no group that reads stream {stream} keeps results"),
            (None, None) => "no group keeps results".to_owned(),
        };
        Err(Fault::missing(format!("{who}: a group does with results: {{ keep: 1h }} in its configuration")))
    }

    fn in_vain(&self, keepers: &[Keeper]) -> String {
        let groups: Vec<&str> = keepers.iter().map(|keeper| keeper.group.as_str()).collect();
        let (id, groups, most) = (&*self.id, groups.join(", "), limits::RESULT_LOOK_MAX);
        if self.source.is_some() || self.position.is_some() {
            return format!("no event {id:?} and no result of it is known to {groups}, or both are no longer kept");
        }
        format!(
            "no event {id:?} and no result of it is among the newest {most} of {groups}, nor in the indexes for their \
             sources; say source, or stream and position, to find an older one"
        )
    }

    async fn locate_for(&self, api: &Api, keeper: &Keeper) -> Result<Option<Found>> {
        let found = |source: Option<ByteString>, position| Found {
            keeper: keeper.clone(),
            id: self.id.clone(),
            source,
            position,
        };
        if let Some(position) = self.position.filter(|_| self.stream.is_some()) {
            let read = api.store.read(&keeper.stream, position, 1).await?.items.into_iter().next();
            match read.filter(|stored| stored.position == position).map(|stored| stored.event) {
                Some(event) if self.is_of(&event) => return Ok(Some(found(Some(event.source), Some(position)))),
                // Another event is none; one that is no longer kept is found by its result, if at all.
                Some(_) | None => {}
            }
        }
        let known = found(self.source.clone(), None);
        if known.kept(api).await?.is_some() {
            return Ok(Some(known));
        }
        if self.source.is_none()
            && let Some(source) = self.source_in_results(api, keeper).await?
        {
            return Ok(Some(found(Some(source), None)));
        }
        let (id, source, stream) = (self.id.clone(), self.source.clone(), Some(keeper.stream.clone()));
        let finding = api.store.find(&Find { id, source, stream, look_max: limits::RESULT_LOOK_MAX }).await?;
        let mut places = Vec::new();
        for sighting in finding.sightings {
            let (position, source) = if sighting.stream.is_dead_letters() {
                let letter = api.store.dead_letter(&sighting.stream, sighting.position).await?;
                (letter.position, Some(letter.event.source))
            } else {
                let source = sighting.stored.map(|stored| stored.event.source);
                (sighting.position, source.or_else(|| self.source.clone()))
            };
            places.push((source, position));
        }
        self.only_source(places.iter().filter_map(|(source, _)| source.as_ref()))?;
        Ok(places.into_iter().next().map(|(source, position)| found(source, Some(position))))
    }

    /// Looks at the newest results for one with this id, and returns the source of its event.
    async fn source_in_results(&self, api: &Api, keeper: &Keeper) -> Result<Option<ByteString>> {
        let (id, stream, look_max) = (self.id.clone(), Some(keeper.results.clone()), limits::RESULT_LOOK_MAX);
        let finding = api.store.find(&Find { id, source: None, stream, look_max }).await?;
        let kept = finding.sightings.into_iter().filter_map(|sighting| sighting.stored);
        let sources: Vec<ByteString> =
            kept.filter_map(|stored| Some(request_source(&keeper.group, &stored.event)?.into())).collect();
        self.only_source(sources.iter())
    }

    /// An id alone does not name an event: two sources may both have one.
    fn only_source<'a>(&self, mut sources: impl Iterator<Item = &'a ByteString>) -> Result<Option<ByteString>> {
        let Some(first) = sources.next() else { return Ok(None) };
        match sources.find(|other| *other != first) {
            None => Ok(Some(first.clone())),
            Some(other) => Err(Fault::invalid(format!(
                "events of {first:?} and of {other:?} both have the id {:?}: say which with source",
                &*self.id
            ))),
        }
    }
}

impl Found {
    /// Asks the index for the result.
    pub(crate) async fn kept(&self, api: &Api) -> Result<Option<Box<Stored>>> {
        let Some(source) = &self.source else { return Ok(None) };
        let (source, stream) = (result_source(&self.keeper.group, source), self.keeper.results.clone());
        let ask = Find { id: self.id.clone(), source: Some(source), stream: Some(stream), look_max: 0 };
        let found = api.store.find(&ask).await?.sightings;
        Ok(found.into_iter().find_map(|sighting| sighting.stored).map(Box::new))
    }

    /// Looks for the result, and else where the event stands; follows a dead letter to where it was sent back to.
    pub(crate) async fn look(&mut self, api: &Api) -> Result<Look> {
        if let Some(kept) = self.kept(api).await? {
            return Ok(Look::Kept(kept));
        }
        for _ in 0..limits::FIND_PLACES_MAX {
            let Some(position) = self.position else { break };
            let place = api.store.standing(&self.keeper.group, position).await?.place;
            let open = |state| Ok(Look::Open { state, until: None });
            return match place {
                Place::Waiting { .. } => open("waiting"),
                Place::Blocked { .. } | Place::After { .. } => open("blocked"),
                Place::Scheduled { until, .. } => Ok(Look::Open { state: "scheduled", until: Some(until) }),
                Place::Lent { .. } | Place::Settling => open("in_flight"),
                Place::Done { .. } | Place::Duplicate { .. } | Place::Settled => self.done(api).await,
                Place::Absent | Place::Foreign => Ok(Look::Gone(format!(
                    "position {position} of stream {} is no event for group {}",
                    self.keeper.stream, self.keeper.group
                ))),
                Place::Skipped => {
                    Ok(Look::Ended(self.ended("skipped", "the stages of the group did not let it through")))
                }
                Place::Expired => {
                    Ok(Look::Ended(self.ended("expired", "it was past its expirytime before its turn came")))
                }
                Place::Dropped => {
                    let why = "it was removed before it was done, by the policy of its stream or by damage";
                    Ok(Look::Ended(self.ended("dropped", why)))
                }
                Place::Dead { id, state, .. } => match self.letter(api, id).await? {
                    Some(DeadLetter { state: DeadState::Reprocessed, changed: Some(change), .. })
                        if change.position.is_some() =>
                    {
                        self.position = change.position;
                        continue;
                    }
                    letter => Ok(Look::Ended(self.dead(id, state, letter))),
                },
            };
        }
        Ok(Look::Gone(format!("the result of event {:?} is no longer kept", &*self.id)))
    }

    /// It is done: the result was written in the same commit, or there is none.
    async fn done(&self, api: &Api) -> Result<Look> {
        Ok(match self.kept(api).await? {
            Some(kept) => Look::Kept(kept),
            None => Look::Gone(format!(
                "event {:?} is done, and group {} keeps no result of it: results are kept for {}",
                &*self.id,
                self.keeper.group,
                crate::api::duration_text(self.keeper.keep),
            )),
        })
    }

    async fn letter(&self, api: &Api, id: Position) -> Result<Option<DeadLetter>> {
        match api.store.dead_letter(&self.keeper.stream, id).await {
            Ok(letter) => Ok(Some(letter)),
            Err(fault) if fault.kind == FaultKind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn dead(&self, id: Position, state: DeadState, letter: Option<DeadLetter>) -> Ended {
        let cause = letter.as_ref().map(|letter| format!(": {}: {}", letter.class.as_str(), letter.message));
        let why = format!("it is dead letter {id}, {}{}", state.as_str(), cause.unwrap_or_default());
        let class = letter.map(|letter| letter.class);
        Ended { class, dead_letter: Some(id), ..self.ended("dead", &why) }
    }

    pub(crate) fn ended(&self, state: &'static str, why: &str) -> Ended {
        let detail = format!("event {:?} has no result of group {}: {why}", &*self.id, self.keeper.group);
        let (group, stream) = (self.keeper.group.clone(), self.keeper.stream.clone());
        Ended { state, group, stream, class: None, dead_letter: None, detail }
    }
}
