//! The composition root: builds a node from its configuration, and takes it down in order.

pub(crate) mod beside;
mod door;
mod schemas;

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytestring::ByteString;
use serde_json::json;
use tidegate_control::{Control, ControlParts, Intake, Metrics, NodeFacts, Reply, Role, Token, Tokens, Upstream};
use tidegate_core::{
    clock::Clock,
    cloudevents::PlainDefaults,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    guard::Guard,
    handler::{Handler, Probe, Sink},
    names::{GroupName, ModuleName, StreamName, TargetName},
    notice::{Notice, Notices},
    service::{self, Context, Stopper},
    store::{GroupSpec, Store},
};
use tidegate_engine::{self as engine, Desk, GroupPolicy, GuardKeepers, Peers, TaskRunner, Watermarks};
use tidegate_modules::{HttpClient, OpenSource, SinkParts, SourceConfig, SourceParts, source::http::HttpConfig};
use tidegate_rules::Schema;
use tokio::net::TcpListener;

use self::{
    beside::Engines,
    door::{Door, Room},
    schemas::Schemas,
};
use crate::{
    config::{self, Config, GroupConfig, Protocol, ResultsConfig, forwarder},
    log::{Log, RoleLog},
    preflight::Checked,
};

/// Running attempts that are named at a stop that is not clean.
const STILL_RUNNING_SHOWN: usize = 20;
/// Time between two looks at how full the streams are.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Longest probe of one sink.
const PROBE: Duration = Duration::from_secs(10);

/// A node that takes work.
pub(crate) struct Node {
    pub(crate) addresses: Vec<SocketAddr>,
    inner: engine::Node,
    engines: Engines,
    control: Control,
    /// Stops the listeners, later than everything else: pull workers settle over them.
    doors: Stopper,
    grace: Duration,
    /// Where the bound addresses are written.
    listeners_file: PathBuf,
}

/// What the probe of a source or a sink came to.
pub(crate) struct Probed {
    /// `source` or `sink`.
    pub(crate) direction: &'static str,
    /// The source, or the group of the sink.
    pub(crate) name: String,
    pub(crate) result: Result<()>,
}

impl Node {
    /// Opens the store, starts the groups and then the listeners.
    pub(crate) async fn open(config: &Config) -> Result<Self> {
        let clock = Clock::real();
        let watch = clock.stopwatch();
        let notices = Notices::default();
        notices.listen(Log::new(clock.clone()));
        for (path, mounted) in config.listeners.iter().filter_map(|one| Some((one.log.as_ref()?, one.mounted()?))) {
            notices.listen(RoleLog::open(path, mounted, clock.clone())?);
        }
        let metrics = Metrics::listening(&notices);
        let store = tidegate_store::open_engine(opening(config, &clock, &notices)).await?;
        let fingerprint = ByteString::from(config.fingerprint());
        let inner = engine::Node::start(store.clone(), clock, notices.clone(), fingerprint);
        match Self::start(config, inner, metrics, store.clone()).await {
            Ok(node) => {
                notices.emit(&Notice::NodeReady { took: watch.elapsed() });
                Ok(node)
            }
            Err(fault) => {
                if let Err(second) = store.close().await {
                    tracing::error!("close the store: {second}");
                }
                Err(fault)
            }
        }
    }

    async fn start(config: &Config, inner: engine::Node, metrics: Arc<Metrics>, store: Arc<dyn Store>) -> Result<Self> {
        let engine::Node { groups, sides, modules, supervisor, cx, .. } = &inner;
        declare_streams(config, &*store).await?;
        let listeners = bind(config).await?;
        let client = HttpClient::open()?;
        let engines = Engines::start(config, cx, supervisor);
        let (guards, peers) = guarded(config, &inner, &store).await?;
        let mut upstreams = Vec::new();
        let schemas = Schemas::compile(config)?;
        schemas.guard(&inner.publisher)?;
        for (name, settings) in &config.groups {
            settings.sink.settings().admit().map_err(|fault| fault.within(format!("group {name}")))?;
            let sink = open_sink(name, settings, (&guards, &engines), &client, cx)
                .map_err(|fault| fault.within(format!("group {name}")))?;
            upstreams.extend(sink.clone().map(|sink| Upstream {
                name: name.to_string(),
                target: settings.sink.target().cloned(),
                probe: sink,
            }));
            let handler = sink.map(|sink| sink as Arc<dyn Handler>);
            let mark_claims = handler.as_ref().is_some_and(|handler| handler.in_process());
            let policy = policy(name, settings, schemas.at_consume(&settings.from));
            groups.add(&settings.spec(name, mark_claims), policy, handler).await?;
            modules.add_sink(name, settings.sink.kind(), &settings.from).await?;
        }
        sides.restore(writes(config)).await?;
        for (name, stream) in &config.streams {
            inner.publisher.set_on_full(name.clone(), stream.on_full.policy());
        }
        inner.publisher.restore().await?;
        // Kept by the supervisor.
        drop(TaskRunner::start(Watermarks::new(store.clone(), WATCH_EVERY), supervisor));
        let intakes = open_sources(config, &inner, (&guards, &engines), &mut upstreams).await?;
        let desk = Desk::start(store.clone(), cx.clone(), supervisor).await?;
        heed(&peers, &inner, &desk);
        let control = Control::new(ControlParts {
            store: store.clone(),
            groups: groups.clone(),
            sides: sides.clone(),
            desk,
            publisher: inner.publisher.clone(),
            schemas: schemas.all(),
            aliases: config.aliases(),
            guards,
            modules: modules.clone(),
            intakes,
            cx: cx.clone(),
            supervisor: supervisor.clone(),
            metrics,
            config: ByteString::from(config.fingerprint()),
            peers,
            tokens: tokens(config),
            node: facts(config),
            data: Some(config.node.data.clone()),
            warnings: config.warnings.policy(),
            upstreams,
        })?;
        control.watch().await?;
        let (doors, addresses) = open_doors(config, &inner, &control, listeners)?;
        let listeners_file = config.node.data.join("run").join("listeners.json");
        write_listeners(&listeners_file, config, &addresses)?;
        let grace = config.shutdown.grace.get();
        Ok(Self { addresses, inner, engines, control, doors, grace, listeners_file })
    }

    /// Stops: takes no new work, lets what is held finish until the grace is over or `hurry` comes, closes the store.
    /// Returns whether nothing had to be dropped.
    pub(crate) async fn stop(self, hurry: impl Future<Output = ()>) -> bool {
        let Self { inner, doors, .. } = &self;
        inner.cx.notices.emit(&Notice::NodeDraining { grace: self.grace });
        let drained = inner.drain(self.grace, hurry).await;
        for attempt in drained.running.iter().take(STILL_RUNNING_SHOWN) {
            let ran_ms = u64::try_from(inner.cx.clock.now().since(attempt.since).as_millis()).unwrap_or(u64::MAX);
            let (group, event, number) = (&attempt.group, &attempt.event, attempt.attempt);
            tracing::warn!(%group, %event, attempt = number, ran_ms, "still running and dropped; it will be tried again");
        }
        if let Err(fault) = self.control.keep().await {
            tracing::warn!("keep the figures of the last minute: {fault}");
        }
        doors.drain();
        let closed = inner.close(|| doors.abort()).await;
        self.engines.close().await;
        let is_clean = drained.is_clean && closed.is_ok();
        match closed {
            Ok(left) if left.is_empty() => {}
            Ok(left) => tracing::warn!("did not stop by itself: {}", left.join(", ")),
            Err(fault) => tracing::error!("close the store: {fault}"),
        }
        // Nobody listens any more; a file that cannot be removed is overwritten at the next start.
        drop(std::fs::remove_file(&self.listeners_file));
        let still_running = drained.running.len() as u64;
        inner.cx.notices.emit(&Notice::NodeStopped { clean: is_clean, still_running });
        is_clean
    }
}

async fn declare_streams(config: &Config, store: &dyn Store) -> Result<()> {
    for (name, stream) in &config.streams {
        store.declare_stream(&stream.spec(name)).await.map_err(|fault| fault.within(format!("stream {name}")))?;
    }
    // Before any group is: one may read the results of another.
    for (name, group) in &config.groups {
        let Some(results) = &group.results else { continue };
        let spec = results.policy().spec(name)?;
        store.declare_stream(&spec).await.map_err(|fault| fault.within(format!("results of group {name}")))?;
    }
    Ok(())
}

/// Returns the streams into which the sinks of groups write.
fn writes(config: &Config) -> BTreeMap<GroupName, Vec<StreamName>> {
    let of = |group: &GroupConfig| group.sink.streams().into_iter().map(|(_, stream)| stream.clone()).collect();
    config.groups.iter().map(|(name, group)| (name.clone(), of(group))).collect()
}

/// What the configuration says of its engine.
fn opening(config: &Config, clock: &Clock, notices: &Notices) -> tidegate_store::Opening {
    tidegate_store::Opening {
        engine: config.engine.as_str().to_owned(),
        data: config.node.data.clone(),
        disk_reserve: config.node.disk_reserve.get(),
        node: config.node.name.clone(),
        redis: config.redis.settings(),
        postgres: config.postgres.settings(),
        nats: config.nats.settings(),
        clock: clock.clone(),
        notices: notices.clone(),
    }
}

/// Looks at the server of the engine; none when it has none.
pub(crate) async fn look_at_engine(config: &Config) -> Option<Checked> {
    let look = tidegate_store::look(&opening(config, &Clock::real(), &Notices::default())).await?;
    Some(Checked { name: "engine", found: look.found, required: look.required, ok: look.ok, warning: look.warning })
}

async fn bind(config: &Config) -> Result<Vec<(TcpListener, SocketAddr)>> {
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let fault = |error: std::io::Error| {
            let is_taken = error.kind() == std::io::ErrorKind::AddrInUse;
            let hint = if is_taken { "; another node or program listens there: end it, or change `bind`" } else { "" };
            let note = format!("listen on {}: {error}{hint}", listener.address());
            Fault::unavailable(Origin::Tidegate, note)
        };
        let open = TcpListener::bind(listener.address()).await.map_err(fault)?;
        let address = open.local_addr().map_err(fault)?;
        listeners.push((open, address));
    }
    Ok(listeners)
}

/// Serves the API on what is bound.
fn open_doors(
    config: &Config,
    node: &engine::Node,
    control: &Control,
    listeners: Vec<(TcpListener, SocketAddr)>,
) -> Result<(Stopper, Vec<SocketAddr>)> {
    let (doors, stop) = service::stop();
    let mut addresses = Vec::new();
    for ((listener, address), settings) in listeners.into_iter().zip(&config.listeners) {
        node.cx.notices.emit(&Notice::ListenerBound { address: address.to_string() });
        let room = match settings.protocol {
            Protocol::Http => Room::Http(control.router(settings.mounted())?),
            Protocol::Redis => Room::Redis(control.clone()),
        };
        node.supervisor.service(Door::new(listener, address, room, stop.clone()));
        addresses.push(address);
    }
    Ok((doors, addresses))
}

/// Makes the guards of all targets, with what was wanted of them, and what knows of the other nodes.
async fn guarded(config: &Config, node: &engine::Node, store: &Arc<dyn Store>) -> Result<(Vec<Arc<Guard>>, Peers)> {
    let guards = guards(config, &node.cx);
    let peers = Peers::new(store.clone(), config.work());
    peers.join(&guards, node.cx.clock.now()).await?;
    peers.tell(Arc::new(GuardKeepers::start(&guards, store, &node.supervisor).await?));
    Ok((guards, peers))
}

/// Lets all parts hear of what other nodes are told.
fn heed(peers: &Peers, node: &engine::Node, desk: &Desk) {
    peers.tell(Arc::new(node.groups.clone()));
    peers.tell(Arc::new(node.sides.clone()));
    peers.tell(Arc::new(node.modules.clone()));
    peers.tell(Arc::new(node.publisher.clone()));
    peers.tell(Arc::new(desk.clone()));
    peers.start(&node.supervisor);
}

pub(crate) fn guards(config: &Config, cx: &Context) -> Vec<Arc<Guard>> {
    let targets = config.targets.iter();
    targets
        .map(|(name, settings)| Guard::new(name.clone(), settings.policy(), cx.clock.clone(), cx.notices.clone()))
        .collect()
}

/// What a source is opened with.
pub(crate) fn source_parts(
    name: &ModuleName,
    source: &SourceConfig,
    (guards, engines): (&[Arc<Guard>], &Engines),
    cx: &Context,
) -> SourceParts {
    let find = |target: &TargetName| guards.iter().find(|guard| guard.target() == target).cloned();
    let settings = source.settings();
    let (guard, beside) = (settings.target().and_then(find), engines.find(settings.engine()));
    SourceParts { name: name.clone(), clock: cx.clock.clone(), guard, beside }
}

fn open_sink(
    name: &GroupName,
    settings: &GroupConfig,
    (guards, engines): (&[Arc<Guard>], &Engines),
    client: &HttpClient,
    cx: &Context,
) -> Result<Option<Arc<dyn Sink>>> {
    let find = |target: &TargetName| guards.iter().find(|guard| guard.target() == target).cloned();
    let guard = settings.sink.target().and_then(find);
    let beside = engines.find(settings.sink.settings().engine());
    let name = ModuleName::new(name.as_str())?;
    let answers = settings.results.is_some();
    settings.sink.open(SinkParts { name, guard, beside, client: client.clone(), clock: cx.clock.clone(), answers })
}

pub(crate) fn policy(name: &GroupName, settings: &GroupConfig, schema: Option<Schema>) -> GroupPolicy {
    GroupPolicy {
        name: name.clone(),
        stream: settings.from.clone(),
        workers: settings.workers,
        timeout: settings.timeout.get(),
        timeout_max: settings.timeout_max.map(Into::into),
        lease: settings.lease.get(),
        retry: settings.retry_policy(),
        stages: settings.stages().checked(schema),
        results: settings.results.as_ref().map(ResultsConfig::policy),
    }
}

/// Starts the sources; returns the paths of those whose events the listeners take in.
async fn open_sources(
    config: &Config,
    node: &engine::Node,
    with: (&[Arc<Guard>], &Engines),
    upstreams: &mut Vec<Upstream>,
) -> Result<Vec<Intake>> {
    let engine::Node { groups, modules, cx, .. } = node;
    let mut intakes = Vec::new();
    for (name, source) in &config.sources {
        let parts = source_parts(name, source, with, cx);
        let opened = source.settings().open(parts).map_err(|fault| fault.within(format!("source {name}")))?;
        match opened {
            OpenSource::Path(http) => intakes.push(Intake {
                reply: reply(config, &http)?,
                name: name.clone(),
                path: http.path.clone(),
                stream: http.to.clone(),
                defaults: PlainDefaults {
                    source: Some(http.defaults.source.unwrap_or(http.path).into()),
                    kind: http.defaults.kind.map(Into::into),
                    subject: http.defaults.subject.map(Into::into),
                },
                entrance: modules.add_entrance(name, source.kind(), &http.to).await?,
            }),
            OpenSource::Forwards { from, handler } => {
                let group = GroupName::new(&forwarder(name))?;
                // What is passed on is not worked on: whoever works on it there waits for the others.
                let spec = GroupSpec { after: false, ..GroupSpec::new(group.clone(), from.clone()) };
                groups.add(&spec, GroupPolicy::new(group.clone(), from), Some(handler as Arc<dyn Handler>)).await?;
                modules.add_forwarder(name, source.kind(), source.to(), &group).await?;
            }
            OpenSource::Runs(runs) => {
                upstreams.extend(source.settings().target().map(|target| Upstream {
                    name: name.to_string(),
                    target: Some(target.clone()),
                    probe: runs.clone(),
                }));
                modules.add_source(name, source.kind(), source.to(), runs).await?;
            }
        }
    }
    Ok(intakes)
}

fn reply(config: &Config, http: &HttpConfig) -> Result<Option<Reply>> {
    let Some(reply) = &http.reply else { return Ok(None) };
    let group = config.replier(http, reply).map_err(Fault::invalid)?.clone();
    Ok(Some(Reply { wait: reply.wait.get(), group }))
}

fn tokens(config: &Config) -> Tokens {
    let role = |role| match role {
        config::Role::Viewer => Role::Viewer,
        config::Role::Operator => Role::Operator,
        config::Role::Admin => Role::Admin,
    };
    let tokens = config.tokens.iter();
    Tokens::new(tokens.map(|token| Token::from_hash(token.name.clone(), role(token.role), token.hash.0)).collect())
}

fn facts(config: &Config) -> NodeFacts {
    NodeFacts {
        name: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        environment: Some(config.node.environment.clone()),
    }
}

/// Writes which addresses are bound: with port 0 nobody knows them otherwise.
fn write_listeners(file: &Path, config: &Config, addresses: &[SocketAddr]) -> Result<()> {
    let pairs = config.listeners.iter().zip(addresses);
    let listeners: Vec<_> = pairs
        .map(|(listener, address)| json!({ "bind": listener.address().to_string(), "address": address.to_string() }))
        .collect();
    let document = json!({ "pid": std::process::id(), "listeners": listeners });
    let write = || -> std::io::Result<()> {
        let directory = file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        // Renamed into place, so that nobody reads half of it.
        let fresh = file.with_extension("json.new");
        let mut out = std::fs::File::create(&fresh)?;
        writeln!(out, "{document:#}")?;
        drop(out);
        std::fs::rename(&fresh, file)
    };
    write().map_err(|error| {
        let note = format!("write {}: {error}", file.display());
        Fault::new(FaultKind::Unavailable, Origin::Tidegate, Retry::Later, note)
    })
}

/// Tries to reach what every source and sink needs, without starting anything.
pub(crate) async fn probe(config: &Config) -> Result<Vec<Probed>> {
    let (stopper, stop) = service::stop();
    let cx = Context { clock: Clock::real(), stop, notices: Notices::default() };
    let (guards, client) = (guards(config, &cx), HttpClient::open()?);
    let mut probed = Vec::new();
    let ask = async |module: &dyn Probe| {
        tokio::select! {
            result = module.probe(&cx) => result,
            () = cx.clock.sleep(PROBE) => {
                let note = format!("no answer within {PROBE:?}");
                Err(Fault::unavailable(Origin::Tidegate, note))
            }
        }
    };
    // Another engine is looked at by itself: to open it would change what lies there.
    let engines = Engines::default();
    for (name, settings) in config.sources.iter().filter(|(_, source)| source.settings().engine().is_none()) {
        let parts = source_parts(name, settings, (&guards, &engines), &cx);
        let result = match settings.settings().open(parts) {
            Ok(OpenSource::Runs(source)) => ask(&*source).await,
            Ok(OpenSource::Path(_) | OpenSource::Forwards { .. }) => continue,
            Err(fault) => Err(fault),
        };
        probed.push(Probed { direction: "source", name: name.to_string(), result });
    }
    for (group, settings) in config.groups.iter().filter(|(_, group)| group.sink.settings().engine().is_none()) {
        let result = match open_sink(group, settings, (&guards, &engines), &client, &cx) {
            Ok(Some(sink)) => ask(&*sink).await,
            Ok(None) => continue,
            Err(fault) => Err(fault),
        };
        probed.push(Probed { direction: "sink", name: group.to_string(), result });
    }
    drop(stopper);
    Ok(probed)
}
