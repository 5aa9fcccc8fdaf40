//! Replays: a side group handles a range of a stream once more, and what it would do is counted before.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    config::RateText,
    delivery::Position,
    fault::{Fault, Result},
    guard::Rate,
    limits,
    names::GroupName,
    seek::SeekTo,
};
use tidegate_engine::SideAsk;
use utoipa::ToSchema;

use super::steer::{REHEARSED_MAX, Rehearsed};
use crate::{
    call::{Call, json, parse},
    problem::Problem,
};

/// What is handled once more, and by whom.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayAsk {
    /// First event: `earliest`, a position, `-100` for so many events before the first one that the group has not looked
    /// at, an instant, or the id of an event (`id:` before it tells one that looks like something else).
    #[schema(example = "-100")]
    from: String,
    /// Last event; an event that is named is handled too, what was accepted at an instant that is named is not. Absent or
    /// `latest`: all that is there now.
    #[serde(default)]
    to: Option<String>,
    /// Name of the side group, which no group has. Only a dry run needs none.
    #[serde(default)]
    into: Option<String>,
    /// Group whose handler and settings are used; the group itself when absent.
    #[serde(default)]
    with: Option<String>,
    /// Most deliveries.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "10/s")]
    rate: Option<RateText>,
    /// Keep the side group when it is done, until somebody removes it.
    #[serde(default)]
    keep: bool,
    /// Only say what would become of the events.
    #[serde(default)]
    dry_run: bool,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// What a replay does, or would do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Replay {
    /// Id of this action; none of a dry run.
    action: Option<String>,
    /// `started` or `rehearsed`.
    result: &'static str,
    /// The side group.
    group: Option<String>,
    /// The group whose stream is read.
    of: String,
    /// The group whose handler and settings are used.
    with: String,
    /// First event that is handled.
    #[schema(value_type = String)]
    from: Position,
    /// First event that is no longer handled.
    #[schema(value_type = String)]
    before: Position,
    /// What becomes of the events in the side group, whose ledger is empty. Its stages are not tried.
    events: Rehearsed,
    in_group: InGroup,
}

/// What would become of the same events in the group itself, as its ledger stands now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InGroup {
    /// A handler would run for them.
    would_run: u64,
    /// The ledger knows them as done.
    would_skip: u64,
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/replay", tag = "groups", operation_id = "groups_replay",
    summary = "Handle a range of a stream once more, in a side group",
    description = "The side group reads the stream of the group with the same handler, or with that of another group, and \
        has a ledger of its own: nothing of the group changes. It keeps no results. It is seen among the groups, can be paused, scaled and \
        removed like them, and outlives restarts. Retention waits for it. When all of its range is handled it goes by \
        itself, unless `keep` is set or dead letters of it wait for somebody. A dry run counts at most 200 000 events.",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = ReplayAsk,
    responses((status = 200, description = "It is started, or that is rehearsed.", body = Replay))
)]
pub(crate) async fn replay(mut call: Call) -> Result<Response, Problem> {
    let of = call.group()?;
    let body = call.json_body().await?;
    let ask: ReplayAsk = parse(&body)?;
    let from: SeekTo = ask.from.parse().map_err(|fault: Fault| fault.within("from"))?;
    let to = ask.to.as_deref().map(str::parse).transpose().map_err(|fault: Fault| fault.within("to"))?;
    let into = ask.into.as_deref().map(GroupName::new).transpose().map_err(|fault| fault.within("into"))?;
    let with = ask.with.as_deref().map(GroupName::new).transpose().map_err(|fault| fault.within("with"))?;
    let with = with.unwrap_or_else(|| of.clone());
    // Also a rehearsal is for a handler that is there.
    call.api.groups.glance(&with)?;
    let range = call.api.sides.range(&of, &from, to.as_ref()).await?;
    let most = if ask.dry_run { REHEARSED_MAX } else { limits::PAGE_MAX as u64 };
    let counted = call.api.groups.rehearse(&of, range.clone(), false, most).await?;
    let in_group = InGroup { would_run: counted.run, would_skip: counted.skipped };
    let events = Rehearsed::in_a_side_group(&counted);
    let (before, from) = (range.end, range.start);
    let mut answer = Replay {
        action: None,
        result: "rehearsed",
        group: into.as_ref().map(ToString::to_string),
        of: of.to_string(),
        with: with.to_string(),
        from,
        before,
        events,
        in_group,
    };
    if ask.dry_run {
        return json(&answer);
    }
    let into = into.ok_or_else(|| Fault::invalid("into: a side group needs a name"))?;
    let side = SideAsk {
        of,
        with,
        from,
        before,
        rate: ask.rate.map(|rate| Rate { count: rate.count, per: rate.per }),
        keep: ask.keep,
        by: call.actor.name.to_string(),
        reason: ask.reason.clone(),
    };
    call.api.sides.begin(&into, side).await?;
    answer.action = Some(call.action("group.replay", into.as_str(), &ask.reason));
    answer.result = "started";
    json(&answer)
}
