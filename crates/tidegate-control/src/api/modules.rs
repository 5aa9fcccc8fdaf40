//! Modules: all sources and sinks by name, what each does now, and pause, resume, enable and disable by hand.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_core::{
    clock::Timestamp,
    fault::{Fault, Result},
};
use tidegate_engine::{ModuleView, Pause};
use utoipa::ToSchema;

use crate::{
    call::{Call, json, parse},
    problem::Problem,
};

/// All modules.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModuleList {
    /// Sources first, then sinks, each by name.
    modules: Vec<Module>,
}

/// A source or a sink.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Module {
    /// Name; a sink has that of its group.
    name: String,
    /// `source` or `sink`.
    direction: &'static str,
    /// `type` in the configuration.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Stream into which it brings, or whose events it takes.
    stream: String,
    /// `running`, `paused`, `disabled`, `ended` (it brought all there was) or `failing` (it crashed and starts again).
    state: &'static str,
    /// Who paused or disabled it.
    halted: Option<Halted>,
    last_error: Option<ModuleError>,
    /// How often it was started again after a crash.
    restarts: u64,
    /// What it brought since the start of the node; none for a sink, whose group counts.
    brought: Option<BroughtDetail>,
    /// What it knows of itself, such as the next fires of a schedule or how far a file is read.
    #[schema(value_type = Option<serde_json::Value>)]
    details: Value,
}

/// Who paused or disabled a module.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Halted {
    by: String,
    reason: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// When it goes on by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// The last crash of a module.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModuleError {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    message: String,
}

/// What a source brought since the start of the node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BroughtDetail {
    /// Events accepted; duplicates included.
    accepted: u64,
    /// Of those, events that were there already.
    duplicates: u64,
    /// Pieces of input that are no events.
    rejected: u64,
    /// When events were accepted last.
    #[schema(value_type = Option<String>, format = DateTime)]
    accepted_at: Option<Timestamp>,
    /// Why the stream takes nothing just now.
    refused: Option<String>,
    /// Why what it reads cannot be reached just now.
    away: Option<String>,
    /// The last piece of input that was no event: when, where and why.
    rejected_last: Option<ModuleError>,
}

impl From<Pause> for Halted {
    fn from(pause: Pause) -> Self {
        Self { by: pause.by, reason: pause.reason, at: pause.at, until: pause.until }
    }
}

impl From<(Timestamp, String)> for ModuleError {
    fn from((at, message): (Timestamp, String)) -> Self {
        Self { at, message }
    }
}

impl From<ModuleView> for Module {
    fn from(view: ModuleView) -> Self {
        let brought = view.brought;
        let brought = (view.direction == tidegate_engine::Direction::Source).then(|| BroughtDetail {
            accepted: brought.accepted,
            duplicates: brought.duplicates,
            rejected: brought.rejected,
            accepted_at: brought.accepted_at,
            refused: brought.refused,
            away: brought.away,
            rejected_last: brought.rejected_last.map(Into::into),
        });
        Self {
            name: view.name.into(),
            direction: view.direction.as_str(),
            kind: view.kind,
            stream: view.stream.into(),
            state: view.state.as_str(),
            halted: view.halted.map(Into::into),
            last_error: view.fault.map(Into::into),
            restarts: view.restarts,
            brought,
            details: view.details,
        }
    }
}

#[utoipa::path(
    get, path = "/v1/modules", tag = "modules", operation_id = "modules_list",
    summary = "List sources and sinks",
    responses((status = 200, description = "All modules.", body = ModuleList))
)]
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    json(&ModuleList { modules: call.api.modules.list()?.into_iter().map(Into::into).collect() })
}

#[utoipa::path(
    get, path = "/v1/modules/{module}", tag = "modules", operation_id = "modules_show",
    summary = "Show a source or a sink",
    params(("module" = String, Path, description = "Name; `source.NAME` and `sink.NAME` tell apart those that share one.")),
    responses((status = 200, description = "The module.", body = Module))
)]
pub(crate) async fn show(call: Call) -> Result<Response, Problem> {
    json(&Module::from(call.api.modules.view(&call.module()?)?))
}

/// Why and for how long a module is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModulePauseAsk {
    /// Why.
    reason: String,
    /// When it goes on by itself; when somebody resumes it, when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// Why a module is changed by hand.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModuleAsk {
    /// Why.
    reason: String,
}

/// What was done to a module, and where it stands now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModuleAction {
    /// Id of this action.
    action: String,
    /// `paused`, `resumed`, `enabled` or `disabled`.
    result: &'static str,
    module: Module,
}

fn done(call: &Call, name: &str, what: &'static str, result: &'static str, reason: &str) -> Result<Response, Problem> {
    let action = call.action(what, name, reason);
    json(&ModuleAction { action, result, module: call.api.modules.view(name)?.into() })
}

#[utoipa::path(
    post, path = "/v1/modules/{module}/pause", tag = "modules", operation_id = "modules_pause",
    summary = "Pause a module",
    description = "The pause outlives the node. An `http` source refuses with `Retry-After`; a source whose input waits \
        where it comes from stops reading; one whose input would be lost goes on reading into its stream; the group of a \
        sink stops claiming.",
    params(("module" = String, Path, description = "Name of the module.")),
    request_body = ModulePauseAsk,
    responses((status = 200, description = "It is paused.", body = ModuleAction))
)]
pub(crate) async fn pause(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: ModulePauseAsk = parse(&body)?;
    let name = call.module()?.into_owned();
    if let Some(until) = ask.until.filter(|until| *until <= call.api.cx.clock.now()) {
        return Err(Fault::invalid(format!("until {until} has passed already")).into());
    }
    call.api.modules.pause(&name, &call.actor.name, &ask.reason, ask.until).await?;
    done(&call, &name, "module.pause", "paused", &ask.reason)
}

#[utoipa::path(
    post, path = "/v1/modules/{module}/resume", tag = "modules", operation_id = "modules_resume",
    summary = "Let a paused module go on",
    params(("module" = String, Path, description = "Name of the module.")),
    request_body = ModuleAsk,
    responses((status = 200, description = "It is not paused.", body = ModuleAction))
)]
pub(crate) async fn resume(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: ModuleAsk = parse(&body)?;
    let name = call.module()?.into_owned();
    call.api.modules.resume(&name, &call.actor.name).await?;
    done(&call, &name, "module.resume", "resumed", &ask.reason)
}

#[utoipa::path(
    post, path = "/v1/modules/{module}/enable", tag = "modules", operation_id = "modules_enable",
    summary = "Turn a disabled module on",
    params(("module" = String, Path, description = "Name of the module.")),
    request_body = ModuleAsk,
    responses((status = 200, description = "It is not disabled.", body = ModuleAction))
)]
pub(crate) async fn enable(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: ModuleAsk = parse(&body)?;
    let name = call.module()?.into_owned();
    call.api.modules.enable(&name, &call.actor.name).await?;
    done(&call, &name, "module.enable", "enabled", &ask.reason)
}

#[utoipa::path(
    post, path = "/v1/modules/{module}/disable", tag = "modules", operation_id = "modules_disable",
    summary = "Turn a module off until somebody enables it",
    description = "It stays off over restarts. A disabled source brings nothing at all, whatever becomes of its input.",
    params(("module" = String, Path, description = "Name of the module.")),
    request_body = ModuleAsk,
    responses((status = 200, description = "It is disabled.", body = ModuleAction))
)]
pub(crate) async fn disable(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: ModuleAsk = parse(&body)?;
    let name = call.module()?.into_owned();
    call.api.modules.disable(&name, &call.actor.name, &ask.reason).await?;
    done(&call, &name, "module.disable", "disabled", &ask.reason)
}
