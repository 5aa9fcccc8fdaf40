//! Workers in any language: claim deliveries, settle them, extend their leases.

use std::{borrow::Cow, time::Duration};

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_core::{
    clock::Timestamp,
    cloudevents,
    config::Time,
    delivery::{Delivery, LeaseToken, Outcome},
    fault::{Failure, Fault, FaultClass, FaultKind, Origin, Result, Retry},
    limits,
    result::Answer,
};
use tidegate_engine::PullStatus;
use utoipa::ToSchema;

use super::bounded;
use crate::{
    call::{Call, json_bytes, parse, write_shown, write_string},
    problem::Problem,
};

/// What a worker asks for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimAsk {
    /// Most deliveries, at most 1000.
    #[serde(default = "one")]
    max: usize,
    /// How long to wait for the first one, at most 30 s.
    #[serde(default)]
    #[schema(value_type = String, example = "10s")]
    wait: Time,
}

fn one() -> usize {
    1
}

/// What a worker is lent.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the shape of an answer that is written by hand")]
pub(crate) struct Deliveries {
    deliveries: Vec<LentDelivery>,
}

/// A delivery and the token to settle it with.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the shape of an answer that is written by hand")]
pub(crate) struct LentDelivery {
    token: String,
    /// Number of this attempt, from 1.
    attempt: u32,
    position: String,
    /// When the delivery goes back to the group unless it is settled or its lease is extended.
    #[schema(format = DateTime)]
    lease_until: String,
    /// The CloudEvent.
    event: serde_json::Value,
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/claim", tag = "pull", operation_id = "pull_claim",
    summary = "Claim deliveries",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = ClaimAsk,
    responses((status = 200, description = "What is lent; nothing when nothing came in time.", body = Deliveries))
)]
pub(crate) async fn claim(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: ClaimAsk = parse(&body)?;
    let max = bounded("max", ask.max, limits::CLAIM_MAX)?;
    if ask.wait.get() > limits::CLAIM_WAIT_MAX {
        let note = format!("wait is {}, the most is {}s", ask.wait, limits::CLAIM_WAIT_SECONDS_MAX);
        return Err(Fault::invalid(note).into());
    }
    let deliveries = call.api.groups.claim(&group, &call.actor.name, max, ask.wait.get()).await?;
    Ok(json_bytes(write_deliveries(&deliveries)))
}

fn write_deliveries(deliveries: &[Delivery]) -> Vec<u8> {
    let size: usize = deliveries.iter().map(|delivery| delivery.event.size() + 384).sum();
    let mut out = Vec::with_capacity(32 + size);
    let mut until = Shown::default();
    out.extend_from_slice(b"{\"deliveries\":[");
    for (index, delivery) in deliveries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"token\":");
        write_shown(delivery.lease.token, &mut out);
        out.extend_from_slice(b",\"attempt\":");
        write_number(delivery.attempt, &mut out);
        out.extend_from_slice(b",\"position\":");
        write_shown(delivery.position, &mut out);
        out.extend_from_slice(b",\"lease_until\":");
        out.extend_from_slice(until.of(delivery.lease.expires_at));
        out.extend_from_slice(b",\"event\":");
        cloudevents::write_json(&delivery.event, &mut out);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out
}

/// The last instant that was shown: the leases of one claim mostly end together, and showing an instant is what costs
/// most besides the event itself.
#[derive(Default)]
struct Shown {
    at: Option<Timestamp>,
    text: Vec<u8>,
}

impl Shown {
    fn of(&mut self, at: Timestamp) -> &[u8] {
        if self.at != Some(at) {
            self.at = Some(at);
            self.text.clear();
            write_shown(at, &mut self.text);
        }
        &self.text
    }
}

fn write_number(number: u32, out: &mut Vec<u8>) {
    use std::io::Write;
    let written = write!(out, "{number}");
    debug_assert!(written.is_ok(), "a vector takes every byte");
}

/// What became of deliveries.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettleAsk<'a> {
    /// At most 10000.
    #[serde(borrow)]
    settlements: Vec<AskedSettlement<'a>>,
}

/// What became of one delivery.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedSettlement<'a> {
    /// The token of the delivery.
    #[serde(borrow)]
    #[schema(value_type = String)]
    token: Cow<'a, str>,
    outcome: AskedOutcome,
    /// For `retry` and `release`: how long to wait at least.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "5s")]
    after: Option<Time>,
    /// For `retry` and `reject`: what happened.
    #[serde(default)]
    reason: Option<String>,
    /// For `done`: the answer, any JSON value of at most 256 KiB. It is kept when the group keeps results.
    #[serde(borrow, default)]
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<&'a RawValue>,
    /// For `done`: the type of the answer, `application/json` when absent. With one that is not JSON, `result` is a
    /// string, and the answer is the text in it.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, example = "text/plain")]
    content_type: Option<Cow<'a, str>>,
}

/// What a worker says of a delivery.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AskedOutcome {
    /// It is done.
    Done,
    /// The attempt failed; try again. Spends an attempt.
    Retry,
    /// It can never be processed: into the dead letters.
    Reject,
    /// It was not tried: back to the group. Spends nothing.
    Release,
}

impl AskedSettlement<'_> {
    fn outcome(&self) -> Result<Outcome> {
        let reason = |otherwise: &str| self.reason.clone().unwrap_or_else(|| otherwise.to_owned());
        let after = self.after.map(Duration::from);
        if self.result.is_some() && !matches!(self.outcome, AskedOutcome::Done) {
            return Err(Fault::invalid("result: only what is done has one"));
        }
        Ok(match self.outcome {
            AskedOutcome::Done => self.answer()?.map_or(Outcome::DONE, Outcome::answered),
            AskedOutcome::Retry => {
                let failure = Failure::new(FaultClass::Transient, reason("worker asked for a retry"));
                Outcome::Failed(Failure { after, ..failure })
            }
            AskedOutcome::Reject => {
                Outcome::Reject(Failure::new(FaultClass::Invalid, reason("worker rejected the event")))
            }
            AskedOutcome::Release => after.map_or(Outcome::Interrupted, Outcome::Snooze),
        })
    }

    fn answer(&self) -> Result<Option<Answer>> {
        let Some(result) = self.result else { return Ok(None) };
        let (size, most) = (result.get().len(), limits::RESULT_BYTES_MAX);
        if size > most {
            let note = format!("result: {size} bytes are more than the {most} that are kept");
            return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
        }
        Answer::of_json(result, self.content_type.as_deref()).map(Some)
    }
}

/// What became of the settlements, in input order.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the shape of an answer that is written by hand")]
pub(crate) struct SettleResults {
    results: Vec<SettleResult>,
}

/// What became of one settlement.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the shape of an answer that is written by hand")]
pub(crate) struct SettleResult {
    token: String,
    /// `settled`, `lease_lost` (somebody else has the delivery, nothing was done) or `unknown` (not a token of this group).
    status: String,
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/settle", tag = "pull", operation_id = "pull_settle",
    summary = "Settle deliveries",
    description = "Answers when the settlements are durable.",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = SettleAsk,
    responses((status = 200, description = "What became of each.", body = SettleResults))
)]
pub(crate) async fn settle(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: SettleAsk<'_> = parse(&body)?;
    check_count("settlements", ask.settlements.len())?;
    let known: Vec<Option<LeaseToken>> = ask.settlements.iter().map(|one| one.token.parse().ok()).collect();
    let mut outcomes = Vec::with_capacity(known.len());
    for (index, (token, one)) in known.iter().zip(&ask.settlements).enumerate() {
        let outcome = one.outcome().map_err(|fault| fault.within(format_args!("body: settlements[{index}]")))?;
        outcomes.extend(token.map(|token| (token, outcome)));
    }
    let statuses = call.api.groups.settle(&group, outcomes).await?;
    let tokens = ask.settlements.iter().map(|one| &*one.token);
    Ok(json_bytes(write_results(tokens, &known, statuses.into_iter().map(status_word))))
}

fn status_word(status: PullStatus) -> &'static str {
    match status {
        PullStatus::Settled => "settled",
        PullStatus::LeaseLost => "lease_lost",
        PullStatus::Unknown => "unknown",
    }
}

fn check_count(what: &str, count: usize) -> Result<()> {
    if count > limits::SETTLE_MAX {
        let note = format!("{count} {what} in one request, the limit is {}", limits::SETTLE_MAX);
        return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
    }
    Ok(())
}

/// Writes the answers; `words` are of the tokens that could be read, in their order.
fn write_results<'a>(
    tokens: impl ExactSizeIterator<Item = &'a str>,
    known: &[Option<LeaseToken>],
    mut words: impl Iterator<Item = &'static str>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + tokens.len() * 96);
    out.extend_from_slice(b"{\"results\":[");
    for (index, (token, known)) in tokens.zip(known).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"token\":");
        write_string(token, &mut out);
        out.extend_from_slice(b",\"status\":\"");
        let word = if known.is_some() { words.next() } else { None };
        out.extend_from_slice(word.unwrap_or("unknown").as_bytes());
        out.extend_from_slice(b"\"}");
    }
    out.extend_from_slice(b"]}");
    out
}

/// Which leases last longer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendAsk {
    /// At most 10000.
    tokens: Vec<String>,
    /// How long from now.
    #[schema(value_type = String, example = "30s")]
    by: Time,
}

/// What became of the leases, in input order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExtendResults {
    results: Vec<ExtendResult>,
}

/// What became of one lease.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExtendResult {
    token: String,
    /// `extended`, `lease_lost` or `unknown`.
    status: &'static str,
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/extend", tag = "pull", operation_id = "pull_extend",
    summary = "Extend leases",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = ExtendAsk,
    responses((status = 200, description = "What became of each.", body = ExtendResults))
)]
pub(crate) async fn extend(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: ExtendAsk = parse(&body)?;
    check_count("tokens", ask.tokens.len())?;
    let longest = Duration::from_secs(limits::LEASE_SECONDS_MAX);
    if ask.by.is_zero() || ask.by.get() > longest {
        let note = format!("by is {}, it must be more than 0 and at most {}s", ask.by, limits::LEASE_SECONDS_MAX);
        return Err(Fault::invalid(note).into());
    }
    let known: Vec<Option<LeaseToken>> = ask.tokens.iter().map(|token| token.parse().ok()).collect();
    let tokens: Vec<LeaseToken> = known.iter().copied().flatten().collect();
    let extended = call.api.groups.extend(&group, &tokens, ask.by.get()).await?;
    let words = extended.into_iter().map(|extended| if extended { "extended" } else { "lease_lost" });
    Ok(json_bytes(write_results(ask.tokens.iter().map(String::as_str), &known, words)))
}
