//! The engine that keeps its journal in NATS JetStream.
//!
//! JetStream has no step that changes two things at once, and the seam asks for many. So what a step changes is one
//! message: the files of the embedded engine lie in a stream of JetStream, and one node, which leads, runs that engine on
//! them and works for the others. Each message names the one before it, so the server refuses a node that leads no longer.
//! The others follow in the log and take over. See `docs/nats.md`.

mod broker;
mod calls;
mod disk;
mod files;
mod lead;
mod link;
mod log;
mod serve;
mod sessions;
mod verbs;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidegate_core::{
    clock::{Clock, Timestamp},
    config::Tls,
    fault::{Fault, Origin, Result},
    names::{GroupName, StreamName},
    notice::{Notice, Notices},
    store::{Broker as _, GroupSpec, Promises, StoreStatus, StreamSpec},
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{Notify, oneshot, watch},
};

use self::{
    calls::{Answered, Caller, Request, VERSION, What, late},
    lead::{Leading, stand},
    link::{Facts, Link, has_jetstream},
    sessions::{GivenBack, Sessions},
    verbs::{Told, Verb, read},
};
use crate::{Look, embedded::Embedded};

/// How a store in NATS is opened.
#[derive(Clone)]
pub struct NatsOptions {
    /// Address: `nats://host:port`.
    pub url: String,
    /// User to log in as; none = nobody, or a token.
    pub user: Option<String>,
    /// Password of the user; without a user, a token.
    pub password: Option<String>,
    /// Whom to trust over TLS.
    pub tls: Tls,
    /// Name of this node: a process that opens the store under the same name takes over from the one before it.
    pub node: String,
    /// First words of all subjects, and the name of the JetStream stream.
    pub prefix: String,
    /// Servers that keep the log, when it is made.
    pub replicas: usize,
    /// Longest time that one answer may take.
    pub timeout: Duration,
    /// Time without a sign of life after which another node takes over.
    pub takeover: Duration,
    /// Folder for the copy of the files.
    pub dir: PathBuf,
    /// The clock.
    pub clock: Clock,
    /// Where to tell what happens.
    pub notices: Notices,
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the address and not the password: both may hold what is secret.
        f.debug_struct("NatsOptions").field("node", &self.node).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl NatsOptions {
    /// The usual options for a server.
    pub fn new(url: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Self {
            url: url.into(),
            user: None,
            password: None,
            tls: Tls::default(),
            node: "tidegate".to_owned(),
            prefix: "tidegate".to_owned(),
            replicas: 1,
            timeout: Duration::from_secs(10),
            takeover: Duration::from_secs(10),
            dir: dir.into(),
            clock: Clock::real(),
            notices: Notices::default(),
        }
    }
}

/// What this node does among those that share the store.
#[derive(Debug, Clone)]
enum Role {
    /// Another node leads, or none yet.
    Following,
    /// It runs the engine.
    Leading(Arc<Leading>),
    /// It never will again, until a restart.
    Failed(Fault),
    Closed,
}

/// What the tasks of a store share.
#[derive(Debug)]
struct Shared {
    options: NatsOptions,
    link: Arc<Link>,
    caller: Caller,
    /// Number of this process.
    boot: u64,
    role: watch::Sender<Role>,
    /// The process that leads, as far as this one knows.
    leader: Mutex<Option<u64>>,
    /// Messages that were read of the log as it was found; what came later does not count.
    followed: AtomicU64,
    /// Rung by those whom nobody answers: another node may lead now.
    again: Notify,
    sessions: Mutex<Sessions>,
    declared: Mutex<Declared>,
    heard: Mutex<Heard>,
}

/// What this node has declared, to declare it again in a log that knows nothing of it.
#[derive(Debug, Clone, Default)]
struct Declared {
    streams: BTreeMap<StreamName, StreamSpec>,
    groups: BTreeMap<GroupName, GroupSpec>,
}

/// What was last heard.
#[derive(Debug, Default)]
struct Heard {
    /// Why there is no answer now; none while there are answers.
    trouble: Option<String>,
    /// That the server lost something once.
    lost: Option<String>,
    facts: Option<Facts>,
    progress_at: Option<Timestamp>,
    /// Calls for deliveries without an answer.
    unheard: Vec<u64>,
}

/// An open store in NATS.
pub struct NatsStore {
    shared: Arc<Shared>,
    close: Mutex<Option<oneshot::Sender<oneshot::Sender<Result<()>>>>>,
    threads: Option<Threads>,
}

impl fmt::Debug for NatsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsStore({})", self.shared.link.address())
    }
}

/// Time between two tries to reach the node that leads.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a first answer of a node is waited for that may have just ended.
const TRY: Duration = Duration::from_millis(500);
/// How long the threads of a store that is dropped are waited for.
const END: Duration = Duration::from_secs(5);

/// Threads of a store. Nothing on the first one ever waits for the log; the others may.
#[derive(Debug)]
struct Threads {
    link: Option<Runtime>,
    work: Option<Runtime>,
}

impl Threads {
    fn start() -> Result<Self> {
        let start = |name, count| {
            let built = Builder::new_multi_thread().worker_threads(count).thread_name(name).enable_all().build();
            built.map_err(|error| Fault::bug(format!("threads for NATS: {error}")))
        };
        Ok(Self { link: Some(start("tidegate-nats", 1)?), work: Some(start("tidegate-lead", 2)?) })
    }

    fn handles(&self) -> Option<(Handle, Handle)> {
        Some((self.link.as_ref()?.handle().clone(), self.work.as_ref()?.handle().clone()))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let runtimes = [self.link.take(), self.work.take()];
        // From any place, also from inside of another runtime. The log ends first: those who wait for it go on.
        let end = || runtimes.into_iter().flatten().for_each(|runtime| runtime.shutdown_timeout(END));
        drop(std::thread::spawn(end).join());
    }
}

impl NatsStore {
    /// Connects, makes the log where it is missing, and follows or leads. Returns when there is a node that leads.
    pub async fn open(options: NatsOptions) -> Result<Arc<Self>> {
        let watch = options.clock.stopwatch();
        let threads = Threads::start()?;
        let link = Arc::new(Link::open(&options, &threads).await?);
        if let Err(why) = has_jetstream(&link.context).await {
            let note = format!("NATS at {} has no JetStream for this account: {why}", link.address());
            return Err(Fault::unavailable(Origin::Store, note));
        }
        link.make(options.replicas).await?;
        let facts = link.facts().await?;
        let boot = fastrand::u64(..);
        let caller = Caller::open(&link, boot).await?;
        let heard = Mutex::new(Heard { facts, ..Heard::default() });
        let (role, _) = watch::channel(Role::Following);
        let (sessions, declared) = (Mutex::default(), Mutex::default());
        let (leader, followed, again) = (Mutex::default(), AtomicU64::new(0), Notify::new());
        let shared =
            Arc::new(Shared { options, link, caller, boot, role, leader, followed, again, sessions, declared, heard });
        let (close, closed) = oneshot::channel();
        shared.link.work(stand(Arc::clone(&shared), closed));
        let store =
            Arc::new(Self { shared: Arc::clone(&shared), close: Mutex::new(Some(close)), threads: Some(threads) });
        shared.ready().await?;
        shared.options.notices.emit(&Notice::StoreOpened { took: watch.elapsed(), replayed: 0 });
        Ok(store)
    }

    /// Carries out a verb, here or there.
    async fn call<V: Verb>(&self, verb: V) -> Result<V::Answer> {
        match self.shared.leading()? {
            Some(leading) => {
                let ran = tokio::time::timeout(self.shared.options.timeout, verb.run(&leading.store)).await;
                ran.unwrap_or_else(|_| Err(late(self.shared.link.address(), self.shared.options.timeout)))
            }
            None => self.there(verb).await,
        }
    }

    /// Has a verb carried out by the node that leads, whichever that is by then.
    async fn there<V: Verb>(&self, verb: V) -> Result<V::Answer> {
        let shared = &self.shared;
        let watch = Clock::real().stopwatch();
        let mut what = What::Verb(Box::new(verb.call()));
        loop {
            let left = shared.options.timeout.saturating_sub(watch.elapsed());
            let (answered, again) = shared.ask_again(what, left).await?;
            what = again;
            match answered {
                Answered::With(answer) => return read(&answer),
                Answered::Late => return Err(late(shared.link.address(), shared.options.timeout)),
                Answered::Nobody if watch.elapsed() >= shared.options.timeout => return Err(shared.nobody()),
                Answered::Nobody => {}
            }
            shared.again.notify_one();
            let mut role = shared.role.subscribe();
            drop(tokio::time::timeout(AGAIN, role.changed()).await);
            if let (Some(leading), What::Verb(call)) = (shared.leading()?, &mut what) {
                let call = std::mem::replace(&mut **call, verbs::Call::Streams(verbs::Streams {}));
                let ran = tokio::time::timeout(shared.options.timeout, call.run(&leading.store)).await;
                let answer = ran.unwrap_or_else(|_| Err(late(shared.link.address(), shared.options.timeout)))?;
                return read(&answer);
            }
        }
    }

    /// Ends the part of this node in order.
    async fn end(&self) -> Result<()> {
        let close = self.close.lock().take();
        let (tell, told) = oneshot::channel();
        if close.is_some_and(|close| close.send(tell).is_ok()) { told.await.unwrap_or(Ok(())) } else { Ok(()) }
    }
}

impl Drop for NatsStore {
    fn drop(&mut self) {
        // Without `close` this is a crash: nobody is told.
        drop(self.threads.take());
        self.shared.role.send_replace(Role::Closed);
    }
}

impl Shared {
    fn role(&self) -> Role {
        self.role.borrow().clone()
    }

    fn become_(&self, role: Role) {
        self.role.send_replace(role);
    }

    /// Returns what leads when this node does; a fault when it can do nothing.
    fn leading(&self) -> Result<Option<Arc<Leading>>> {
        match &*self.role.borrow() {
            Role::Leading(leading) => Ok(Some(Arc::clone(leading))),
            Role::Following => Ok(None),
            Role::Failed(fault) => Err(fault.clone()),
            Role::Closed => Err(Fault::unavailable(Origin::Store, "the store is closed")),
        }
    }

    fn request(&self, what: What) -> Request {
        let unheard = self.heard.lock().unheard.clone();
        Request { version: VERSION, node: self.options.node.clone(), boot: self.boot, unheard, what }
    }

    /// Asks the node that leads.
    async fn ask(&self, what: What, timeout: Duration) -> Result<Answered> {
        self.ask_again(what, timeout).await.map(|(answered, _)| answered)
    }

    /// Asks the node that leads, and gives back what was asked.
    async fn ask_again(&self, what: What, timeout: Duration) -> Result<(Answered, What)> {
        let leader = *self.leader.lock();
        let Some(leader) = leader.filter(|leader| *leader != self.boot) else {
            return Ok((Answered::Nobody, what));
        };
        let number = self.caller.number();
        let request = self.request(what);
        let answered = self.caller.ask(leader, number, &request, timeout).await?;
        let Request { what, unheard, .. } = request;
        match answered {
            Answered::With(answer) => {
                let answer = match read(&answer)? {
                    Told::Done(answer) => answer,
                    Told::Fault(fault) => return Err(fault.into()),
                    Told::NotLeading => return Ok((Answered::Nobody, what)),
                };
                self.heard.lock().unheard.retain(|call| !unheard.contains(call));
                Ok((Answered::With(answer), what))
            }
            Answered::Late => {
                if let What::Verb(call) = &what
                    && matches!(**call, verbs::Call::Lend(_))
                {
                    self.heard.lock().unheard.push(number);
                }
                Ok((Answered::Late, what))
            }
            Answered::Nobody => Ok((Answered::Nobody, what)),
        }
    }

    /// Refuses what would wait for a server that is known to be away.
    fn reach(&self) -> Result<()> {
        let known = match &*self.role.borrow() {
            Role::Leading(leading) => leading.log.trouble(),
            Role::Following | Role::Failed(_) | Role::Closed => None,
        };
        if known.is_none() && self.link.is_connected() {
            return Ok(());
        }
        Err(Fault::unavailable(Origin::Store, format!("NATS at {} cannot be reached", self.link.address())))
    }

    fn nobody(&self) -> Fault {
        let trouble = self.heard.lock().trouble.clone();
        let why = trouble.unwrap_or_else(|| "no node leads now".to_owned());
        Fault::unavailable(Origin::Store, format!("NATS at {}: {why}", self.link.address()))
    }

    fn trouble(&self, why: Option<String>) {
        let mut heard = self.heard.lock();
        if why.is_none() {
            heard.progress_at = Some(self.options.clock.now());
        }
        heard.trouble = why;
    }

    fn told(&self, lost: String) {
        tracing::error!("{lost}");
        self.options.notices.emit(&Notice::StoreDamaged { place: self.link.address().to_owned(), what: lost.clone() });
        self.heard.lock().lost = Some(lost);
    }

    /// Waits until this node leads, or one that answers does.
    async fn ready(&self) -> Result<()> {
        let mut watch = Clock::real().stopwatch();
        let mut role = self.role.subscribe();
        // Until there is a node that leads, another must have been silent for long enough.
        let most = self.options.timeout + self.options.takeover;
        let mut followed = 0;
        while watch.elapsed() < most {
            // Who leads must have read the log first, and that may be long.
            let reached = self.followed.load(Ordering::Relaxed);
            if reached > followed {
                (followed, watch) = (reached, Clock::real().stopwatch());
            }
            if self.leading()?.is_some() {
                return Ok(());
            }
            let leads = async {
                // An answer may never come of a process that has just ended.
                drop(role.wait_for(|role| !matches!(role, Role::Following)).await);
                Ok(Answered::Nobody)
            };
            let answered = tokio::select! {
                led = leads => led,
                answered = self.ask(What::Hello, TRY) => answered,
            };
            if matches!(answered?, Answered::With(_)) {
                return Ok(());
            }
            drop(tokio::time::timeout(AGAIN, self.role.subscribe().changed()).await);
        }
        Err(self.nobody())
    }

    /// Shows a sign of life to the node that leads.
    async fn hello(&self, leader: &str) {
        match self.ask(What::Hello, self.options.timeout).await {
            Ok(Answered::With(_)) => self.trouble(None),
            Ok(Answered::Nobody | Answered::Late) => self.trouble(Some(format!("node {leader:?} does not answer"))),
            Err(fault) if fault.kind == tidegate_core::fault::FaultKind::Conflict => self.become_(Role::Failed(fault)),
            Err(fault) => self.trouble(Some(fault.note().to_owned())),
        }
    }

    async fn leave(&self) {
        // Who does not hear it finds out by the silence.
        drop(self.ask(What::Leave, self.options.timeout.min(Duration::from_secs(2))).await);
    }

    /// Begins to lead: whoever was there must show itself.
    fn start(&self) {
        *self.sessions.lock() = Sessions::default();
    }

    /// Declares what this node works with in a log that knows nothing of it.
    async fn restore(&self, store: &Embedded) {
        let declared = self.declared.lock().clone();
        for spec in declared.streams.values() {
            if let Err(fault) = store.declare_stream(spec).await {
                tracing::warn!(%fault, "a stream could not be declared again");
            }
        }
        for spec in declared.groups.values() {
            if let Err(fault) = store.declare_group(spec).await {
                tracing::warn!(%fault, "a group could not be declared again");
            }
        }
    }

    /// Gives deliveries back whose holder is gone.
    async fn give_back(&self, store: &Embedded, back: GivenBack) {
        if !back.is_empty()
            && let Err(fault) = store.settle(back).await
        {
            tracing::warn!(%fault, "what a node held comes back when its leases end");
        }
    }

    /// Looks after nodes that are silent. `heard`: whether they could be heard since the last time.
    async fn tend(&self, leading: &Leading, heard: bool) {
        let now = self.options.clock.now();
        self.trouble(None);
        if !heard {
            self.sessions.lock().deaf();
            return;
        }
        drop(self.sessions.lock().hear(&self.options.node, self.boot, now));
        let (gone, back) = self.sessions.lock().silent(self.options.takeover, now);
        for node in gone {
            tracing::warn!("node {node:?} shows no sign of life: what it held is lent again");
        }
        self.give_back(&leading.store, back).await;
    }

    /// Asks the server for its settings anew.
    async fn refresh(&self) {
        if let Ok(Some(facts)) = self.link.facts().await {
            self.heard.lock().facts = Some(facts);
        }
    }

    fn promises(&self) -> Promises {
        let loss = self.heard.lock().facts.as_ref().map_or_else(String::new, loss_window);
        Promises {
            ordered_by_key: true,
            atomic_settle: true,
            shared: true,
            wakes: true,
            durable: true,
            dependencies: true,
            priorities: true,
            loss_window: loss,
            duplicate_window:
                "what a node had in flight when it ended, and what all had in flight when the node ended \
                               that leads"
                    .to_owned(),
        }
    }

    fn status(&self) -> StoreStatus {
        let heard = self.heard.lock();
        let mut status = match &*self.role.borrow() {
            Role::Leading(leading) => {
                let (messages, bytes) = leading.log.written();
                let mut status = leading.store.status();
                status.counters.extend([("nats_messages", messages), ("nats_bytes", bytes)]);
                status.refusing = status.refusing.or_else(|| leading.log.trouble());
                status
            }
            Role::Failed(fault) => StoreStatus { failed: Some(fault.note().to_owned()), ..StoreStatus::default() },
            Role::Following | Role::Closed => StoreStatus {
                refusing: heard.trouble.clone(),
                progress_at: heard.progress_at,
                ..StoreStatus::default()
            },
        };
        status.engine = "nats";
        if !self.link.is_connected() {
            status.refusing = Some(format!("NATS at {} cannot be reached", self.link.address()));
        }
        status.damage.extend(heard.lost.clone());
        status.damage.extend(heard.facts.as_ref().and_then(unsafe_settings));
        status
    }
}

fn unsafe_settings(facts: &Facts) -> Option<String> {
    facts.in_memory.then(|| {
        "the JetStream stream of the store was made with memory storage: everything is lost with the server; make it anew \
         with file storage"
            .to_owned()
    })
}

/// What may be lost, in words.
fn loss_window(facts: &Facts) -> String {
    if facts.in_memory {
        return "everything, when the NATS server ends: the stream of the store has memory storage".to_owned();
    }
    let power = "when the power fails, what the server's disk had not got: up to its sync_interval, 2 minutes unless it \
                 is set; sync_interval: always makes it none. A server that crashes loses nothing";
    if facts.replicas > 1 {
        format!("none while most of {} servers go on; when all fail at once, {power}", facts.replicas)
    } else {
        power.to_owned()
    }
}

/// Looks at the server without changing anything.
pub async fn look(options: &NatsOptions) -> Look {
    let required = "NATS 2.9 or later with JetStream".to_owned();
    let bad = |found: String| Look { found, required: required.clone(), ok: false, warning: None };
    let threads = match Threads::start() {
        Ok(threads) => threads,
        Err(fault) => return bad(fault.note().to_owned()),
    };
    let link = match Link::open(options, &threads).await {
        Ok(link) => link,
        Err(fault) => return bad(fault.note().to_owned()),
    };
    let version = link.client.server_info().version;
    if let Err(why) = has_jetstream(&link.context).await {
        return bad(format!("NATS {version} without JetStream for this account: {why}"));
    }
    match link.facts().await {
        Ok(Some(facts)) => Look {
            found: format!("NATS {}, stream {}; loss window: {}", facts.version, link.stream(), loss_window(&facts)),
            required,
            ok: true,
            warning: unsafe_settings(&facts),
        },
        Ok(None) => {
            let facts = Facts { version, replicas: options.replicas, in_memory: false };
            let loss = loss_window(&facts);
            let found = format!("NATS {}, stream {} to be made; loss window: {loss}", facts.version, link.stream());
            Look { found, required, ok: true, warning: None }
        }
        Err(fault) => bad(fault.note().to_owned()),
    }
}
