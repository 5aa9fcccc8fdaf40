//! Puts together the life of one event: where it was found, where it stands in each group, and what happened to it.

use bytestring::ByteString;
use serde::Serialize;
use tidegate_core::{
    after::EventName,
    clock::Timestamp,
    delivery::{Attempt, Position},
    event::Event,
    fault::{FaultKind, Result},
    limits,
    names::{GroupName, StreamName},
    priority,
    result::request_source,
    store::{DeadLetter, GroupStatus},
    whereabouts::{Find, Finding, Place, Sighting, Standing, StepKind, Wait},
};
use tidegate_engine::{GroupView, Running};
use utoipa::ToSchema;

use crate::{
    api::Api,
    awaited::Seeker,
    explain::{Facts, Verdict, explain},
    result::Found,
};

/// Times that a loop may let pass what it promised before it counts as stuck.
const LATE_FACTOR: u32 = 3;

/// A place of the event.
pub(crate) struct Spot {
    pub(crate) stream: StreamName,
    pub(crate) position: Position,
    pub(crate) accepted_at: Option<Timestamp>,
    /// None when it is no longer kept.
    pub(crate) event: Option<Event>,
    /// It was sent back from the dead letters.
    pub(crate) sent_back: bool,
}

/// What is known of an event.
pub(crate) struct Life {
    /// Its places, oldest first.
    pub(crate) spots: Vec<Spot>,
    /// How far the search went.
    pub(crate) looked: u64,
    pub(crate) whole: bool,
}

impl Life {
    /// Finds an event, and where it went from the dead letters.
    pub(crate) async fn find(api: &Api, ask: &Find) -> Result<Self> {
        let Finding { sightings, looked, whole } = find(api, ask).await?;
        let mut life = Self { spots: Vec::new(), looked, whole };
        for sighting in sightings {
            if !sighting.stream.is_dead_letters() {
                let stored = sighting.stored;
                let accepted_at = stored.as_ref().map(|stored| stored.accepted_at);
                let event = stored.map(|stored| stored.event);
                let (stream, position) = (sighting.stream, sighting.position);
                life.add(Spot { stream, position, accepted_at, event, sent_back: false });
                continue;
            }
            // Only the letter is left of it.
            let letter = api.store.dead_letter(&sighting.stream, sighting.position).await?;
            let DeadLetter { stream, position, event, .. } = letter;
            life.add(Spot { stream, position, accepted_at: None, event: Some(event), sent_back: false });
        }
        life.spots.sort_by(|one, two| (&one.stream, one.position).cmp(&(&two.stream, two.position)));
        life.follow(api).await?;
        Ok(life)
    }

    fn add(&mut self, spot: Spot) {
        let known = |one: &Spot| one.stream == spot.stream && one.position == spot.position;
        if self.spots.len() < limits::FIND_PLACES_MAX && !self.spots.iter().any(known) {
            self.spots.push(spot);
        }
    }

    /// Adds the positions to which its dead letters were sent back.
    async fn follow(&mut self, api: &Api) -> Result<()> {
        let groups = api.store.groups().await?;
        let mut next = 0;
        while let Some(spot) = self.spots.get(next) {
            next += 1;
            let (stream, position) = (spot.stream.clone(), spot.position);
            for group in groups.iter().filter(|group| group.stream == stream) {
                let place = api.store.standing(&group.name, position).await?.place;
                let Some(letter) = letter(api, &stream, &place).await? else { continue };
                let Some(went) = letter.changed.and_then(|change| change.position) else { continue };
                let read = api.store.read(&stream, went, 1).await?.items.into_iter().next();
                let read = read.filter(|stored| stored.position == went);
                let accepted_at = read.as_ref().map(|stored| stored.accepted_at);
                let event = read.map(|stored| stored.event);
                match self.spots.iter_mut().find(|spot| spot.stream == stream && spot.position == went) {
                    Some(known) => known.sent_back = true,
                    None => {
                        let stream = stream.clone();
                        self.add(Spot { stream, position: went, accepted_at, event, sent_back: true });
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn event(&self) -> Option<&Event> {
        self.spots.iter().rev().find_map(|spot| spot.event.as_ref())
    }

    /// Says in words how far the search went.
    pub(crate) fn search(&self, id: &str) -> String {
        if self.whole {
            return format!("no kept event has the id {id:?}: all {} were looked at", self.looked);
        }
        format!(
            "no event with the id {id:?} was found among the newest {} and what the indexes know; older ones were not \
             looked at: say its source to ask the indexes for it",
            self.looked
        )
    }
}

/// Finds an event and not its results, which have its id: where only they are found, they say which event they are of.
async fn find(api: &Api, ask: &Find) -> Result<Finding> {
    let mut finding = api.store.find(ask).await?;
    let keepers = api.groups.keepers();
    let keeper_of = |stream: &StreamName| keepers.iter().find(|keeper| keeper.results == *stream);
    let of_result = |sighting: &Sighting| {
        let stored = sighting.stored.as_ref()?;
        request_source(&keeper_of(&sighting.stream)?.group, &stored.event).map(ByteString::from)
    };
    if ask.stream.is_some() || ask.source.is_some() {
        return Ok(finding);
    }
    let source = finding.sightings.iter().find_map(of_result);
    finding.sightings.retain(|sighting| keeper_of(&sighting.stream).is_none());
    if finding.sightings.is_empty() && source.is_some() {
        finding = api.store.find(&Find { source, ..ask.clone() }).await?;
    }
    Ok(finding)
}

/// Says when results of the event were kept.
async fn results(api: &Api, spot: &Spot) -> Result<Vec<(GroupName, Happening)>> {
    let mut all = Vec::new();
    let Some(event) = &spot.event else { return Ok(all) };
    for keeper in api.groups.keepers().into_iter().filter(|keeper| keeper.stream == spot.stream) {
        let (id, source) = (event.id.clone(), Some(event.source.clone()));
        let found = Found { keeper, id, source, position: Some(spot.position) };
        if let Some(kept) = found.kept(api).await? {
            let detail = format!("in stream {} at position {}", found.keeper.results, kept.position);
            all.push((found.keeper.group, happening(kept.accepted_at, "result_kept", None, detail)));
        }
    }
    Ok(all)
}

async fn letter(api: &Api, stream: &StreamName, place: &Place) -> Result<Option<DeadLetter>> {
    let Place::Dead { id, .. } = place else { return Ok(None) };
    match api.store.dead_letter(stream, *id).await {
        Ok(letter) => Ok(Some(letter)),
        Err(fault) if fault.kind == FaultKind::Missing => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Finds where an event stands in a group: at the newest of its places that is the group's business.
pub(crate) async fn stand_in<'a>(
    api: &Api,
    life: &'a Life,
    group: &GroupName,
    stream: &StreamName,
) -> Result<Option<(&'a Spot, Standing)>> {
    let mut found: Option<(&Spot, Standing)> = None;
    for spot in life.spots.iter().filter(|spot| spot.stream == *stream) {
        let standing = api.store.standing(group, spot.position).await?;
        let is_foreign = matches!(standing.place, Place::Foreign | Place::Absent);
        if found.is_none() || !is_foreign {
            found = Some((spot, standing));
        }
    }
    Ok(found)
}

/// Explains where an event stands in one group.
pub(crate) async fn explain_in(api: &Api, life: &Life, group: &GroupStatus) -> Result<Option<(Position, Verdict)>> {
    let Some((spot, standing)) = stand_in(api, life, &group.name, &group.stream).await? else { return Ok(None) };
    let awaited = match (&standing.place, &spot.event) {
        (Place::After { waits_for }, Some(event)) => {
            Seeker::new(api, &group.name, &group.stream).seek_all(&EventName::from(event), waits_for).await?
        }
        _ => Vec::new(),
    };
    // A group that this node does not run is known to the store only.
    let view: Option<GroupView> = api.groups.view(&group.name).await.ok();
    let target = view.as_ref().and_then(|view| view.target.as_ref());
    let guard = target.and_then(|target| api.guard(target).ok()).map(|guard| guard.view());
    let running: Vec<Running> = api.groups.running().into_iter().filter(|one| one.group == group.name).collect();
    let now = api.cx.clock.now();
    let name = format!("group/{}", group.name);
    let late = api.supervisor.progress().into_iter().find(|progress| progress.name == name);
    let late = late.filter(|progress| now.since(progress.at) > progress.every * LATE_FACTOR);
    let ranked = view.as_ref().is_some_and(|view| view.spec.priority_step.is_some());
    let verdict = explain(&Facts {
        now,
        group: view.as_ref(),
        guard: guard.as_ref(),
        store: &api.store.status(),
        running: running.iter().find(|one| one.position == spot.position),
        busiest: running.first(),
        stuck_since: late.map(|progress| progress.at),
        letter: letter(api, &group.stream, &standing.place).await?.as_ref(),
        rival: rival(api, &group.stream, &standing.place).await?,
        awaited: &awaited,
        priority: ranked.then(|| spot.event.as_ref().and_then(|event| priority::of(event).ok())).flatten(),
        standing: &standing,
    });
    Ok(Some((spot.position, verdict)))
}

async fn rival(api: &Api, stream: &StreamName, place: &Place) -> Result<Option<(Position, String)>> {
    let position = match place {
        Place::Blocked { by } => *by,
        Place::Scheduled { wait: Wait::Twin(twin), .. } => Some(*twin),
        Place::Absent | Place::Foreign | Place::Waiting { .. } | Place::Scheduled { .. } | Place::Lent { .. } => None,
        Place::Settling | Place::Done { .. } | Place::Duplicate { .. } | Place::Expired | Place::Dropped => None,
        Place::Dead { .. } | Place::Skipped | Place::Settled | Place::After { .. } => None,
    };
    let Some(position) = position else { return Ok(None) };
    let read = api.store.read(stream, position, 1).await?.items.into_iter().next();
    let id = read.filter(|stored| stored.position == position).map(|stored| stored.event.id.to_string());
    Ok(Some((position, id.unwrap_or_else(|| "that is no longer kept".to_owned()))))
}

/// One thing that happened to an event.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Happening {
    #[schema(value_type = String, format = DateTime)]
    pub(crate) at: Timestamp,
    /// `accepted`, `sent_back`, `lent`, `attempt_failed`, `put_off`, `unblocked`, `done`, `duplicate`, `skipped`, `expired`, `dropped`, `dead`,
    /// `result_kept`, `reprocessed`, `resolved` or `discarded`.
    pub(crate) what: &'static str,
    pub(crate) group: Option<String>,
    /// Number of the attempt.
    pub(crate) attempt: Option<u32>,
    pub(crate) detail: String,
}

/// Tells what happened to an event, oldest first, and whether that is all of it.
pub(crate) async fn timeline(api: &Api, life: &Life, only: Option<&GroupName>) -> Result<(Vec<Happening>, bool)> {
    let mut all = Vec::new();
    let mut whole = true;
    let groups = api.store.groups().await?;
    let running = api.groups.running();
    for spot in &life.spots {
        if let Some(at) = spot.accepted_at {
            let what = if spot.sent_back { "sent_back" } else { "accepted" };
            let detail = format!("by stream {} at position {}", spot.stream, spot.position);
            all.push(Happening { at, what, group: None, attempt: None, detail });
        }
        let steps = api.store.steps(&spot.stream, spot.position).await?;
        whole &= steps.whole;
        let mut told: Vec<(GroupName, Happening)> = Vec::new();
        for step in steps.items {
            told.extend(happened(step.at, &step.what).into_iter().map(|one| (step.group.clone(), one)));
        }
        for group in groups.iter().filter(|group| group.stream == spot.stream) {
            let standing = api.store.standing(&group.name, spot.position).await?;
            let letter = letter(api, &spot.stream, &standing.place).await?;
            let has = |what: &str| told.iter().any(|(name, one)| *name == group.name && one.what == what);
            let more: Vec<Happening> = remembered(&standing, letter.as_ref(), &has)
                .into_iter()
                .chain(
                    running.iter().filter(|one| one.position == spot.position && one.group == group.name).map(now_lent),
                )
                .collect();
            told.extend(more.into_iter().map(|one| (group.name.clone(), one)));
        }
        told.extend(results(api, spot).await?);
        let wanted = told.into_iter().filter(|(name, _)| only.is_none_or(|only| only == name));
        all.extend(wanted.map(|(name, one)| Happening { group: Some(name.into()), ..one }));
    }
    all.sort_by_key(|one| (one.at, rank(one.what)));
    Ok((all, whole))
}

/// What comes first of things of one millisecond.
fn rank(what: &str) -> u8 {
    match what {
        "accepted" | "sent_back" => 0,
        "lent" => 1,
        "attempt_failed" => 2,
        "put_off" => 3,
        "reprocessed" | "resolved" | "discarded" => 5,
        _ => 4,
    }
}

fn happening(at: Timestamp, what: &'static str, attempt: Option<u32>, detail: impl Into<String>) -> Happening {
    Happening { at, what, group: None, attempt, detail: detail.into() }
}

fn failed(attempt: &Attempt, number: Option<u32>) -> Happening {
    let Attempt { at, took, class, message } = attempt;
    happening(*at, "attempt_failed", number, format!("{} after {took:?}: {message}", class.as_str()))
}

/// What a written step says.
fn happened(at: Timestamp, step: &StepKind) -> Vec<Happening> {
    let one = |what, detail: String| vec![happening(at, what, None, detail)];
    match step {
        StepKind::Lent => one("lent", "to a handler of the node".to_owned()),
        StepKind::Done => one("done", String::new()),
        StepKind::Duplicate => one("duplicate", "the ledger knew it: it was not tried".to_owned()),
        StepKind::Skipped => one("skipped", "the stages of the group did not let it through".to_owned()),
        StepKind::Expired => one("expired", "its expirytime had passed".to_owned()),
        StepKind::Foreign => Vec::new(),
        StepKind::Dropped => one("dropped", "by the retention of the stream or by damage".to_owned()),
        StepKind::Unblocked { by, reason } => {
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            one("unblocked", format!("it waits for no other event any more, as {by} asked{why}"))
        }
        StepKind::PutOff { until, attempts, attempt } => {
            let mut both: Vec<_> = attempt.iter().map(|attempt| failed(attempt, Some(*attempts))).collect();
            both.push(happening(at, "put_off", None, format!("until {until}")));
            both
        }
        StepKind::Dead { id, class, message, attempts } => {
            let detail = format!("dead letter {id} after {attempts} failed attempts; {}: {message}", class.as_str());
            one("dead", detail)
        }
    }
}

/// What the standing and the dead letter remember that was not told yet.
fn remembered(standing: &Standing, letter: Option<&DeadLetter>, has: &impl Fn(&str) -> bool) -> Vec<Happening> {
    let mut more = Vec::new();
    let attempts = letter.map_or(&standing.history, |letter| &letter.attempts);
    if !has("attempt_failed") {
        more.extend(attempts.iter().map(|attempt| failed(attempt, None)));
    }
    match &standing.place {
        Place::Done { at: Some(at) } if !has("done") => more.push(happening(*at, "done", None, "")),
        Place::Dead { id, at, .. } if !has("dead") => {
            more.push(happening(*at, "dead", None, format!("dead letter {id}")));
        }
        Place::Done { .. } | Place::Dead { .. } | Place::Absent | Place::Foreign | Place::Waiting { .. } => {}
        Place::Blocked { .. } | Place::After { .. } | Place::Scheduled { .. } => {}
        Place::Lent { .. } | Place::Settling => {}
        Place::Duplicate { .. } | Place::Skipped | Place::Expired | Place::Dropped | Place::Settled => {}
    }
    if let Some((letter, change)) = letter.and_then(|letter| Some((letter, letter.changed.as_ref()?))) {
        let to = change.position.map(|to| format!(" to position {to}")).unwrap_or_default();
        let why = if change.note.is_empty() { String::new() } else { format!(": {}", change.note) };
        let detail = format!("dead letter {}{to} by {}{why}", letter.id, change.by);
        more.push(happening(change.at, letter.state.as_str(), None, detail));
    }
    more
}

fn now_lent(running: &Running) -> Happening {
    let who =
        running.by.as_ref().map_or_else(|| "to a worker of the node".to_owned(), |by| format!("to {by}, outside"));
    happening(running.since, "lent", Some(running.attempt), who)
}
