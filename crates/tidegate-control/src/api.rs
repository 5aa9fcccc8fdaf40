//! The routes of the API: one table of path, role and handler, and the one way from a request to its answer.

pub(crate) mod audit;
pub(crate) mod blocked;
pub(crate) mod dlq;
pub(crate) mod events;
pub(crate) mod follow;
pub(crate) mod groups;
pub(crate) mod ledger;
pub(crate) mod look;
pub(crate) mod modules;
pub(crate) mod node;
pub(crate) mod pull;
pub(crate) mod replay;
pub(crate) mod results;
pub(crate) mod schemas;
pub(crate) mod steer;
pub(crate) mod streams;
pub(crate) mod targets;
pub(crate) mod upstreams;

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    panic::AssertUnwindSafe,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use bytestring::ByteString;
use futures::FutureExt;
use http::StatusCode;
use tidegate_core::{
    clock::Timestamp,
    config::Time,
    fault::{Fault, Result},
    guard::Guard,
    names::{StreamName, TargetName},
    service::Context,
    store::Store,
};
use tidegate_engine::{Desk, Groups, Modules, Peers, Publisher, Sides, Supervisor};
use tidegate_rules::Schema;

use crate::{
    Intake, Metrics, NodeFacts, Role, Tokens, WarnPolicy,
    auth::Actor,
    call::Call,
    follow::Followers,
    health::Health,
    observe::Observed,
    problem::Problem,
    profile::{Memory, Mounted},
    resp::Lent,
    upstream::Upstreams,
    waiters::Waiters,
};

/// Everything that handlers reach.
pub(crate) struct Api {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) groups: Groups,
    pub(crate) sides: Sides,
    pub(crate) publisher: Publisher,
    pub(crate) schemas: BTreeMap<StreamName, Schema>,
    pub(crate) aliases: BTreeMap<StreamName, StreamName>,
    pub(crate) guards: Vec<Arc<Guard>>,
    pub(crate) modules: Modules,
    pub(crate) intakes: Vec<Arc<Intake>>,
    pub(crate) cx: Context,
    pub(crate) supervisor: Supervisor,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: ByteString,
    pub(crate) peers: Peers,
    pub(crate) tokens: Tokens,
    pub(crate) node: NodeFacts,
    pub(crate) health: Health,
    pub(crate) started_at: Timestamp,
    pub(crate) data: Option<PathBuf>,
    pub(crate) warnings: WarnPolicy,
    pub(crate) observed: Observed,
    pub(crate) upstreams: Upstreams,
    pub(crate) followers: Arc<Followers>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) desk: Desk,
    /// What profiles tell of what passed.
    pub(crate) memory: Memory,
    pub(crate) requests: Requests,
    /// What consumers of the Redis protocol hold.
    pub(crate) lent: Lent,
}

impl Api {
    pub(crate) fn guard(&self, name: &TargetName) -> Result<&Arc<Guard>> {
        let found = self.guards.iter().find(|guard| guard.target() == name);
        found.ok_or_else(|| Fault::missing(format!("there is no target {:?}", name.as_str())))
    }
}

/// Shows a duration in the form in which it is written in settings and requests.
pub(crate) fn duration_text(duration: Duration) -> String {
    Time::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).to_string()
}

/// Checks a number that a caller chose against a limit.
fn bounded(what: &str, asked: usize, most: usize) -> Result<usize> {
    if asked == 0 || asked > most {
        return Err(Fault::invalid(format!("{what} is {asked}, it must be between 1 and {most}")));
    }
    Ok(asked)
}

pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// Method of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Post,
}

/// Where a request came in.
pub(crate) struct Place {
    pub(crate) api: Arc<Api>,
    /// The profile of the listener.
    pub(crate) profile: Option<Arc<Mounted>>,
    /// The path of the route, with its parameters in braces.
    pub(crate) template: &'static str,
}

/// A route: what is asked for, who may ask, who answers.
pub(crate) struct Route {
    pub(crate) verb: Verb,
    pub(crate) path: &'static str,
    /// None: whoever can reach the listener may ask.
    pub(crate) role: Option<Role>,
    pub(crate) run: fn(Call) -> Answer,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.verb, self.path)
    }
}

macro_rules! routes {
    (@ Anyone) => { None };
    (@ $role:ident) => { Some($crate::Role::$role) };
    ($vis:vis static $name:ident; $($verb:ident $path:literal $role:ident => $first:ident $(:: $more:ident)*;)+) => {
        /// All routes.
        $vis static $name: &[$crate::api::Route] = &[
            $($crate::api::Route {
                verb: $crate::api::Verb::$verb,
                path: $path,
                role: routes!(@ $role),
                run: |call| Box::pin($first $(:: $more)* (call)),
            }),+
        ];
    };
}
pub(crate) use routes;

routes! {
    pub(crate) static ROUTES;
    Get  "/v1/streams" Viewer => streams::list;
    Get  "/v1/streams/{stream}" Viewer => streams::show;
    Get  "/v1/streams/{stream}/events" Viewer => streams::read;
    Post "/v1/streams/{stream}/events" Operator => streams::publish;
    Get  "/v1/streams/{stream}/schema" Viewer => schemas::show;
    Post "/v1/streams/{stream}/schema/check" Operator => schemas::check;
    Get  "/v1/groups" Viewer => groups::list;
    Get  "/v1/groups/{group}" Viewer => groups::show;
    Get  "/v1/groups/{group}/blocked" Viewer => blocked::list;
    Post "/v1/groups/{group}/unblock" Operator => blocked::unblock;
    Post "/v1/groups/{group}/claim" Operator => pull::claim;
    Post "/v1/groups/{group}/settle" Operator => pull::settle;
    Post "/v1/groups/{group}/extend" Operator => pull::extend;
    Post "/v1/groups/{group}/pause" Operator => groups::pause;
    Post "/v1/groups/{group}/resume" Operator => groups::resume;
    Post "/v1/groups/{group}/scale" Operator => groups::scale;
    Post "/v1/groups/{group}/seek" Operator => steer::seek;
    Post "/v1/groups/{group}/replay" Operator => replay::replay;
    Post "/v1/groups/{group}/drain" Operator => steer::drain;
    Post "/v1/groups/{group}/remove" Operator => steer::remove;
    Post "/v1/drain" Operator => steer::drain_node;
    Post "/v1/intake/pause" Operator => steer::pause_intake;
    Post "/v1/intake/resume" Operator => steer::resume_intake;
    Get  "/v1/targets" Viewer => targets::list;
    Get  "/v1/targets/{target}" Viewer => targets::show;
    Post "/v1/targets/{target}/trip" Operator => targets::trip;
    Post "/v1/targets/{target}/reset" Operator => targets::reset;
    Post "/v1/targets/{target}/limit" Operator => targets::limit;
    Get  "/v1/modules" Viewer => modules::list;
    Get  "/v1/modules/{module}" Viewer => modules::show;
    Post "/v1/modules/{module}/pause" Operator => modules::pause;
    Post "/v1/modules/{module}/resume" Operator => modules::resume;
    Post "/v1/modules/{module}/enable" Operator => modules::enable;
    Post "/v1/modules/{module}/disable" Operator => modules::disable;
    Get  "/v1/dlq/jobs" Viewer => dlq::jobs::list;
    Get  "/v1/dlq/jobs/{job}" Viewer => dlq::jobs::show;
    Post "/v1/dlq/jobs/{job}/cancel" Operator => dlq::jobs::cancel;
    Get  "/v1/dlq/{stream}" Viewer => dlq::list;
    Get  "/v1/dlq/{stream}/report" Viewer => dlq::report;
    Get  "/v1/dlq/{stream}/{id}" Viewer => dlq::show;
    Post "/v1/dlq/{stream}/reprocess" Operator => dlq::work::reprocess;
    Post "/v1/dlq/{stream}/resolve" Operator => dlq::work::resolve;
    Post "/v1/dlq/{stream}/discard" Operator => dlq::work::discard;
    Post "/v1/dlq/{stream}/purge" Operator => dlq::work::purge;
    Post "/v1/dlq/{stream}/import" Operator => dlq::import::import;
    Get  "/v1/ledger" Viewer => ledger::stats;
    Get  "/v1/ledger/{group}" Viewer => ledger::show;
    Get  "/v1/ledger/{group}/entry" Viewer => ledger::entry;
    Post "/v1/ledger/{group}/cleanup" Operator => ledger::cleanup;
    Post "/v1/ledger/{group}/forget" Operator => ledger::forget;
    Get  "/v1/events/{id}/trace" Viewer => events::trace;
    Get  "/v1/events/{id}/explain" Viewer => events::explain;
    Get  "/v1/events/{id}/result" Viewer => results::result;
    Get  "/v1/audit/messages" Viewer => audit::messages;
    Get  "/v1/status" Viewer => look::status;
    Get  "/v1/top" Viewer => look::top;
    Get  "/v1/reports/performance" Viewer => look::performance;
    Get  "/v1/upstreams" Viewer => upstreams::list;
    Post "/v1/upstreams/{upstream}/probe" Operator => upstreams::probe;
    Get  "/v1/subscribe" Viewer => follow::subscribe;
    Get  "/v1/logs" Viewer => follow::logs;
    Get  "/livez" Anyone => node::livez;
    Get  "/readyz" Anyone => node::readyz;
    Get  "/health" Anyone => node::health;
    Get  "/health/detailed" Viewer => node::health_detailed;
    Get  "/metrics" Viewer => node::metrics;
    Get  "/openapi.json" Viewer => node::openapi;
    Get  "/version" Viewer => node::version;
}

/// Checks that intakes have paths that can be routed and that nobody else has.
pub(crate) fn check_intakes(intakes: &[Intake]) -> Result<()> {
    let mut taken: Vec<&str> = Vec::new();
    for Intake { name, path, .. } in intakes {
        let fail = |why: &str| Err(Fault::invalid(format!("path {path:?} of source {:?} {why}", name.as_str())));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '~');
        if !path.starts_with('/') || path.ends_with('/') || path.contains("//") || !path.chars().all(plain) {
            return fail("must look like /orders: segments of letters, digits, '.', '_', '-' and '~'");
        }
        if path == "/v1" || path.starts_with("/v1/") || ROUTES.iter().any(|route| route.path == path) {
            return fail("belongs to the node's own API");
        }
        if taken.contains(&path.as_str()) {
            return fail("belongs to another source too");
        }
        taken.push(path);
    }
    Ok(())
}

/// Makes the router of a listener.
pub(crate) fn router(api: &Arc<Api>, mounted: Option<Mounted>) -> Result<Router> {
    let mut router = Router::new();
    let profile = mounted.map(Arc::new);
    let more = profile.as_ref().map_or(&[][..], |mounted| mounted.profile.routes);
    if let Some(intake) = api.intakes.iter().find(|intake| more.iter().any(|route| route.path == intake.path)) {
        let (path, name) = (&intake.path, intake.name.as_str());
        let profile = profile.as_ref().map_or("", |mounted| mounted.profile.name);
        return Err(Fault::invalid(format!("path {path:?} of source {name:?} belongs to profile {profile}")));
    }
    if profile.is_some() {
        api.memory.begin(&api.cx.notices, &api.cx.clock);
    }
    let own = ROUTES.iter().filter(|own| more.iter().all(|route| route.path != own.path));
    for route in own.chain(more) {
        let filter = match route.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
        };
        let (api, profile) = (Arc::clone(api), profile.clone());
        let answer = move |request: Request| {
            let place = Place { api: Arc::clone(&api), profile: profile.clone(), template: route.path };
            answer(place, route.role, request, route.run)
        };
        router = router.route(route.path, on(filter, answer));
    }
    for intake in &api.intakes {
        let (api, intake, profile) = (Arc::clone(api), Arc::clone(intake), profile.clone());
        let path = intake.path.clone();
        let take = move |request: Request| {
            let intake = Arc::clone(&intake);
            let take = |call| streams::take_in(call, intake);
            let place = Place { api: Arc::clone(&api), profile: profile.clone(), template: "" };
            answer(place, Some(Role::Operator), request, take)
        };
        router = router.route(&path, on(MethodFilter::POST, take));
    }
    Ok(router.fallback(unknown).method_not_allowed_fallback(wrong_method))
}

/// Requests that were answered, by the class of their status.
#[derive(Debug, Default)]
pub(crate) struct Requests([AtomicU64; 5]);

impl Requests {
    /// Names of the classes.
    const CLASSES: [&'static str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

    fn count(&self, status: StatusCode) {
        if let Some(counter) = self.0.get(usize::from(status.as_u16() / 100).saturating_sub(1)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many there were of each class that there can be.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::CLASSES.into_iter().zip(&self.0).skip(1).map(|(class, counter)| (class, counter.load(Ordering::Relaxed)))
    }
}

/// Finds who asks, lets the handler work, and turns whatever comes of it into an answer.
async fn answer<F>(place: Place, role: Option<Role>, request: Request, work: impl FnOnce(Call) -> F) -> Response
where
    F: Future<Output = Result<Response, Problem>>,
{
    let api = Arc::clone(&place.api);
    let response = match role.map(|role| api.tokens.admit(role, request.headers())) {
        Some(Err(problem)) => problem.into_response(),
        Some(Ok(actor)) => answer_to(actor, place, request, work).await,
        None => answer_to(Actor::nobody(), place, request, work).await,
    };
    api.requests.count(response.status());
    response
}

async fn answer_to<F>(actor: Actor, place: Place, request: Request, work: impl FnOnce(Call) -> F) -> Response
where
    F: Future<Output = Result<Response, Problem>>,
{
    let template = place.template;
    match AssertUnwindSafe(work(Call::new(place, actor, request))).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => problem.into_response(),
        Err(panic) => {
            let note = format!("answer {template:?}: panicked: {}", panic_text(&*panic));
            Problem::from(Fault::bug(note)).into_response()
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

async fn unknown(request: Request) -> Problem {
    Fault::missing(format!("there is nothing at {:?}; /openapi.json lists what there is", request.uri().path())).into()
}

async fn wrong_method(request: Request) -> Problem {
    Problem::wrong_method(format!("{:?} does not take {}", request.uri().path(), request.method()))
}
