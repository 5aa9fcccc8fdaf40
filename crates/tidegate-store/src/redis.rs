//! The engine that keeps its streams in a Redis or Valkey server: Redis Streams that other programs may write and read,
//! and beside them, in Lua scripts, what Redis does not know: leases, order, times, the ledger and the accounts.
//!
//! Each verb of the seam is one script or a few, and each script is one step of the server, so that nothing is ever half
//! done. Time comes from the node's clock, never from the server. Redis Cluster is not supported: a step touches the
//! keys of several streams and groups.

mod append;
mod batch;
mod beat;
mod broker;
mod claim;
mod dead;
mod entry;
mod ledger;
mod link;
mod packed;
mod registry;
mod reply;
mod script;
mod seek;
mod server;
mod settle;
mod status;
mod upkeep;
mod waits;
mod wake;
mod whereabouts;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tidegate_core::{
    clock::Clock,
    config::Tls,
    event::FingerprintKey,
    fault::{Fault, Origin, Result},
    notice::{Notice, Notices},
};

use self::{
    batch::Appends,
    beat::Beat,
    link::{Link, Trouble},
    registry::Registry,
    reply::Reply,
    script::{Ask, SCRIPTS},
    server::Server,
    wake::Wake,
};
use crate::{Look, served::told::Told};

/// Number of the layout of the keys.
const FORMAT: u32 = 3;

/// Groups share so many turns of claiming.
const TURNS: usize = 64;

/// How a store in Redis is opened.
#[derive(Clone)]
pub struct RedisOptions {
    /// Address: `redis://host:port/db`, or `redis+unix:///path` for a socket.
    pub url: String,
    /// User to log in as; none = the default user.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Whom to trust over TLS.
    pub tls: Tls,
    /// Name of this node: a process that opens the store under the same name takes over what the one before it held.
    pub node: String,
    /// Put before the names of all keys.
    pub prefix: String,
    /// Longest time that one answer may take.
    pub timeout: Duration,
    /// Time between two looks for events that other programs appended.
    pub poll: Duration,
    /// Time without a sign of life after which other nodes work off what a node holds.
    pub takeover: Duration,
    /// The clock.
    pub clock: Clock,
    /// Where to tell what happens.
    pub notices: Notices,
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the address and not the password: both may hold what is secret.
        f.debug_struct("RedisOptions").field("node", &self.node).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl RedisOptions {
    /// The usual options for a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            user: None,
            password: None,
            tls: Tls::default(),
            node: "tidegate".to_owned(),
            prefix: String::new(),
            timeout: Duration::from_secs(10),
            poll: Duration::from_millis(250),
            takeover: Duration::from_secs(10),
            clock: Clock::real(),
            notices: Notices::default(),
        }
    }
}

/// An open store in Redis.
pub struct RedisStore {
    options: RedisOptions,
    link: Arc<Link>,
    /// Number of this session, on every lease that it is given.
    owner: u64,
    key: FingerprintKey,
    registry: Arc<RwLock<Registry>>,
    wake: Wake,
    appends: Appends,
    server: RwLock<Server>,
    told: Mutex<Told>,
    /// One claim of a group at a time: a second one would be shown the same events, and find them lent.
    turns: Vec<tokio::sync::Mutex<()>>,
    /// Numbers the calls that lend.
    calls: AtomicU64,
    /// What is still to be declared anew after the server lost it; held by the one who does so.
    restoring: tokio::sync::Mutex<Registry>,
    closed: AtomicBool,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisStore({})", self.link.address())
    }
}

impl RedisStore {
    /// Connects, takes over what an earlier process of this node had lent, and begins to listen.
    pub async fn open(options: RedisOptions) -> Result<Arc<Self>> {
        let watch = options.clock.stopwatch();
        let link = Arc::new(Link::open(&options)?);
        let server = Server::look(&link, &options.clock).await?;
        server.check()?;
        let owner = fastrand::u64(..);
        let key = begin(&link, &options, owner, fastrand::u128(..).to_le_bytes()).await?;
        let registry = Arc::<RwLock<Registry>>::default();
        let beat = Beat { link: Arc::clone(&link), options: options.clone(), owner, key };
        let wake = Wake::start(&link, &registry, &options, beat);
        let store = Arc::new(Self {
            owner,
            key: FingerprintKey(key),
            registry,
            wake,
            appends: Appends::start(&link, &options.prefix),
            server: RwLock::new(server),
            told: Mutex::default(),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(),
            calls: AtomicU64::new(0),
            restoring: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
            link,
            options,
        });
        store.load_registry().await?;
        store.look_at_server().await?;
        store.options.notices.emit(&Notice::StoreOpened { took: watch.elapsed(), replayed: 0 });
        Ok(store)
    }

    /// Begins a call of a script.
    fn ask(&self, script: &'static script::Script) -> Ask {
        Ask::new(script, &self.options.prefix)
    }

    /// Runs a script; `what` names the step in a fault.
    async fn run(&self, ask: Ask, what: &str) -> Result<Reply> {
        self.open_still()?;
        loop {
            let trouble = match self.link.run_again(&ask).await {
                Ok(answer) => return Ok(Reply::new(answer)),
                Err(trouble) => trouble,
            };
            if !trouble.is_again() {
                return Err(self.heard(trouble, what).await?);
            }
        }
    }

    fn open_still(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Fault::unavailable(Origin::Store, "the store is closed")),
            false => Ok(()),
        }
    }

    /// Does what the server's refusal asks for; returns what to say.
    async fn heard(&self, trouble: Trouble, what: &str) -> Result<Fault> {
        match trouble.code() {
            Some("TGFENCED") => Ok(self.fenced()),
            Some("TGLEFT" | "TGMISSING") => self.find_again(trouble, what).await,
            _ => Ok(trouble.fault(what)),
        }
    }

    /// Finds its way again when the server does not know something; returns what to say. A call is never repeated here:
    /// the numbers in it are those of streams and groups that are gone.
    async fn find_again(&self, trouble: Trouble, what: &str) -> Result<Fault> {
        let again = |why: &str| Ok(Fault::unavailable(Origin::Store, format!("{what}: {why}; try again")));
        if self.restore().await? {
            return again("Redis had lost what it kept, which is declared anew");
        }
        if trouble.code() == Some("TGLEFT") {
            begin(&self.link, &self.options, self.owner, self.key.0).await?;
            return again("Redis had lost the session of this node, or others took it for gone");
        }
        let before = self.registry.read().numbers();
        self.load_registry().await?;
        if self.registry.read().numbers() != before {
            return again("another node changed what is declared");
        }
        Ok(trouble.fault(what))
    }

    /// Makes the keys anew if the server has lost them all; returns whether it had.
    async fn restore(&self) -> Result<bool> {
        let mut left = self.restoring.lock().await;
        let mut command = redis::cmd("EXISTS");
        let prefix = &self.options.prefix;
        command.arg(format!("{prefix}tidegate:meta")).arg(format!("{prefix}tidegate:streams"));
        let answer = self.link.command(&command).await.map_err(|trouble| trouble.fault("look for the store"))?;
        let is_whole = Reply::new(answer).number::<u32>()? == 2;
        if !is_whole {
            // Kept until each is declared: the server may go away in between.
            let lost = self.registry.read();
            left.streams.extend(lost.streams.iter().map(|(name, head)| (name.clone(), Arc::clone(head))));
            left.groups.extend(lost.groups.iter().map(|(name, head)| (name.clone(), Arc::clone(head))));
        }
        if left.streams.is_empty() {
            return Ok(false);
        }
        begin(&self.link, &self.options, self.owner, self.key.0).await?;
        while let Some(stream) = left.streams.first_entry() {
            self.declare_anew(&stream.get().spec).await?;
            stream.remove();
        }
        while let Some(group) = left.groups.first_entry() {
            // The range of a side group is gone for good.
            if group.get().spec.end.is_none() {
                self.declare_group_anew(&group.get().spec).await?;
            } else {
                self.registry.write().groups.remove(group.key());
            }
            group.remove();
        }
        let note = format!("Redis had lost everything that it kept for this store at {}", self.options.clock.now());
        tracing::error!("{note}");
        self.told.lock().lost = Some(note);
        Ok(true)
    }

    fn fenced(&self) -> Fault {
        let node = &self.options.node;
        let note =
            format!("another process opened the store under the node name {node:?} and took over; this one must stop");
        self.told.lock().status.failed = Some(note.clone());
        Fault::conflict(note)
    }

    async fn shut(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.wake.stop();
        self.appends.stop();
        let mut ask = self.ask(&SCRIPTS.close);
        ask.text(&self.options.node).text(&hex(self.owner));
        let answer = self.run(ask, "give back what was lent").await;
        self.closed.store(true, Ordering::Release);
        answer.map(drop)
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.wake.stop();
        self.appends.stop();
    }
}

/// Looks at a server without changing anything on it.
pub async fn look(options: &RedisOptions) -> Look {
    let required = format!("Redis or Valkey {}.{} or newer, not a cluster", server::OLDEST.0, server::OLDEST.1);
    let looked = async {
        let link = Link::open(options)?;
        let server = Server::look(&link, &options.clock).await?;
        Ok::<_, Fault>((server.told(link.address()), server))
    };
    match looked.await {
        Ok((found, server)) => {
            let ok = server.check().is_ok();
            Look { found, required, ok, warning: server.warning() }
        }
        Err(fault) => Look { found: fault.to_string(), required, ok: false, warning: None },
    }
}

/// Makes the keys of a new store, takes over what an earlier process of the node had lent, and returns the fingerprint key.
async fn begin(link: &Link, options: &RedisOptions, owner: u64, key: [u8; 16]) -> Result<[u8; 16]> {
    let mut ask = Ask::new(&SCRIPTS.open, &options.prefix);
    ask.text(&options.node).text(&hex(owner)).bytes(&key).number(FORMAT);
    let answer = link.run_again(&ask).await.map_err(|trouble| match trouble {
        Trouble::Told { code, detail } if code == "TGFORMAT" => Fault::conflict(format!(
            "the store under prefix {:?} in {} has format {detail}, known is {FORMAT}",
            options.prefix,
            link.address()
        )),
        trouble @ (Trouble::Gone(_) | Trouble::Late(_) | Trouble::Told { .. }) => trouble.fault("open the store"),
    })?;
    let key = Reply::new(answer).bytes()?;
    key.as_ref().try_into().map_err(|_| Fault::corrupt("the fingerprint key has a wrong length"))
}

fn hex(owner: u64) -> String {
    format!("{owner:x}")
}
