//! The engine that keeps its streams in a PostgreSQL server: tables of one schema, and beside them functions that carry out
//! the verbs of the seam, each in one call and one transaction.
//!
//! Appends to a stream take turns on its row, so that a position that is visible has none before it that is still to come;
//! what changes a group takes turns on the row of the group. Whoever takes several rows takes groups before streams, and each
//! by number. What waits for the disk at the same time is written in one commit. Time comes from the node's clock, never from
//! the server.

mod append;
mod batch;
mod beat;
mod broker;
mod claim;
mod code;
mod dead;
mod ledger;
mod link;
mod registry;
mod row;
mod seek;
mod server;
mod settle;
mod status;
mod upkeep;
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
use tokio_postgres::Row;

use self::{
    batch::Batches,
    beat::Beat,
    link::{FENCED, LEFT, Lane, Link, MISSING, Trouble, Values},
    server::Server,
    wake::Wake,
};
use crate::{
    Look,
    served::{declared::Registry, told::Told},
};

/// How a store in PostgreSQL is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Address: `postgres://host:port/database`.
    pub url: String,
    /// Role to log in as; none = the one in the address.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Whom to trust over TLS.
    pub tls: Tls,
    /// Name of this node: a process that opens the store under the same name takes over what the one before it held.
    pub node: String,
    /// Schema of tables and functions.
    pub schema: String,
    /// Longest time that one answer may take.
    pub timeout: Duration,
    /// Time between two looks for work that nobody rang for.
    pub poll: Duration,
    /// Time without a sign of life after which other nodes work off what a node holds.
    pub takeover: Duration,
    /// The clock.
    pub clock: Clock,
    /// Where to tell what happens.
    pub notices: Notices,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the address and not the password: both may hold what is secret.
        f.debug_struct("PostgresOptions")
            .field("node", &self.node)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// The usual options for a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            user: None,
            password: None,
            tls: Tls::default(),
            node: "tidegate".to_owned(),
            schema: "tidegate".to_owned(),
            timeout: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            takeover: Duration::from_secs(10),
            clock: Clock::real(),
            notices: Notices::default(),
        }
    }
}

/// An open store in PostgreSQL.
pub struct PostgresStore {
    options: PostgresOptions,
    link: Arc<Link>,
    /// Number of this session, on every lease that it is given.
    owner: u64,
    key: FingerprintKey,
    registry: Arc<RwLock<Registry>>,
    wake: Wake,
    batches: Batches,
    server: RwLock<Server>,
    told: Mutex<Told>,
    /// Numbers the calls that lend.
    calls: AtomicU64,
    /// What is still to be declared anew after the server lost it; held by the one who does so.
    restoring: tokio::sync::Mutex<Registry>,
    closed: AtomicBool,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresStore({})", self.link.address())
    }
}

impl PostgresStore {
    /// Connects, makes tables and functions where they are missing, takes over what an earlier process of this node had
    /// lent, and begins to listen.
    pub async fn open(options: PostgresOptions) -> Result<Arc<Self>> {
        let watch = options.clock.stopwatch();
        let link = Arc::new(Link::open(&options)?);
        let server = Server::look(&link, &options).await?;
        server.check()?;
        let owner = fastrand::u64(..);
        let key = begin(&link, &options, owner).await?;
        let registry = Arc::<RwLock<Registry>>::default();
        let others = Arc::new(AtomicBool::new(true));
        let beat = Beat { link: Arc::clone(&link), options: options.clone(), owner, others };
        let wake = Wake::start(&link, &registry, &options, beat);
        let store = Arc::new(Self {
            owner,
            key: FingerprintKey(key),
            registry,
            wake,
            batches: Batches::start(&link),
            server: RwLock::new(server),
            told: Mutex::default(),
            calls: AtomicU64::new(1),
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

    /// Asks; `what` names the step in a fault.
    async fn ask(&self, lane: Lane, what: &str, statement: &'static str, values: Values<'_>) -> Result<Vec<Row>> {
        self.check_open()?;
        match self.link.ask(lane, statement, values).await {
            Ok(rows) => Ok(rows),
            Err(trouble) => Err(self.heard(trouble, what).await),
        }
    }

    /// Asks for one row.
    async fn ask_one(&self, lane: Lane, what: &str, statement: &'static str, values: Values<'_>) -> Result<Row> {
        let rows = self.ask(lane, what, statement, values).await?;
        rows.into_iter().next().ok_or_else(row::odd)
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Fault::unavailable(Origin::Store, "the store is closed"));
        }
        Ok(())
    }

    /// Turns what the server said into a fault, and finds its way again when the server does not know something. A call is
    /// never repeated here: the numbers in it may be those of streams and groups that are gone.
    async fn heard(&self, trouble: Trouble, what: &str) -> Fault {
        if trouble.code() == Some(FENCED) {
            return self.fenced();
        }
        if !trouble.is_lost() && !matches!(trouble.code(), Some(LEFT | MISSING)) {
            return trouble.fault(what);
        }
        self.find_again(trouble, what).await.unwrap_or_else(|fault| fault)
    }

    async fn find_again(&self, trouble: Trouble, what: &str) -> Result<Fault> {
        let again = |why: &str| Ok(Fault::unavailable(Origin::Store, format!("{what}: {why}; try again")));
        if matches!(parts(&self.link, &self.options).await?, [true, true, false]) {
            begin(&self.link, &self.options, self.owner).await?;
            return again("the functions of this program were gone, and are made anew");
        }
        if self.restore().await? {
            return again("PostgreSQL had lost what it kept, which is declared anew");
        }
        if trouble.code() != Some(MISSING) {
            begin(&self.link, &self.options, self.owner).await?;
            return again("PostgreSQL had lost the session of this node, or others took it for gone");
        }
        let before = self.registry.read().numbers();
        self.load_registry().await?;
        if self.registry.read().numbers() != before {
            return again("another node changed what is declared");
        }
        Ok(trouble.fault(what))
    }

    /// Makes everything anew if the server has lost it all; returns whether it had.
    async fn restore(&self) -> Result<bool> {
        let mut left = self.restoring.lock().await;
        if !is_whole(&self.link, &self.options).await? {
            // Kept until each is declared: the server may go away in between.
            let lost = self.registry.read();
            left.streams.extend(lost.streams.iter().map(|(name, head)| (name.clone(), Arc::clone(head))));
            left.groups.extend(lost.groups.iter().map(|(name, head)| (name.clone(), Arc::clone(head))));
        }
        if left.streams.is_empty() {
            return Ok(false);
        }
        begin(&self.link, &self.options, self.owner).await?;
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
        let note =
            format!("PostgreSQL had lost everything that it kept for this store at {}", self.options.clock.now());
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

    fn now(&self) -> i64 {
        self.options.clock.now().as_millis()
    }

    async fn shut(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.wake.stop();
        let owner = self.owner.cast_signed();
        let statement = "SELECT tg_close($1, $2)";
        let answer = self.ask(Lane::Settle, "give back what was lent", statement, &[&self.options.node, &owner]).await;
        self.closed.store(true, Ordering::Release);
        self.batches.stop();
        answer.map(drop)
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.wake.stop();
        self.batches.stop();
    }
}

/// Looks at a server without changing anything on it.
pub async fn look(options: &PostgresOptions) -> Look {
    let required = format!("PostgreSQL {} or newer, not a standby", server::OLDEST / 10_000);
    let looked = async {
        let link = Link::open(options)?;
        let server = Server::look(&link, options).await?;
        Ok::<_, Fault>((server.told(link.address()), server))
    };
    match looked.await {
        Ok((found, server)) => match server.check() {
            Ok(()) => Look { found, required, ok: true, warning: server.warning() },
            Err(fault) => Look { found: fault.to_string(), required, ok: false, warning: None },
        },
        Err(fault) => Look { found: fault.to_string(), required, ok: false, warning: None },
    }
}

/// What of a store is there: its schema, its tables, its functions.
async fn parts(link: &Link, options: &PostgresOptions) -> Result<[bool; 3]> {
    let row = link.ask_one(Lane::Look, code::LOOK, &[&options.schema]).await;
    let row = row.map_err(|trouble| trouble.fault("look for the store"))?;
    let part = |index| row.try_get(index).map_err(|_| row::odd());
    Ok([part(0)?, part(1)?, part(2)?])
}

async fn is_whole(link: &Link, options: &PostgresOptions) -> Result<bool> {
    Ok(parts(link, options).await?.iter().all(|there| *there))
}

/// Makes what is missing of a store.
async fn install(link: &Link, options: &PostgresOptions) -> Result<()> {
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        let [has_schema, has_tables, has_functions] = parts(link, options).await?;
        if has_schema && has_tables && has_functions {
            return Ok(());
        }
        let schema = &options.schema;
        let mut all =
            "SELECT pg_advisory_xact_lock(8387236, 1), set_config('check_function_bodies', 'off', true);\n".to_owned();
        if !has_schema {
            all += &format!("CREATE SCHEMA {schema};\n");
        }
        if !has_tables {
            all += &code::tables(fastrand::u128(..));
        }
        if !has_functions {
            all += &code::functions();
        }
        match link.run(Lane::Look, &all).await {
            Ok(()) => return Ok(()),
            // Another node made it meanwhile.
            Err(Trouble::Told { code, .. }) if matches!(&*code, "42P06" | "42P07" | "42723" | "42710" | "23505") => {}
            Err(trouble) => return Err(trouble.fault("make the tables of the store")),
        }
    }
    Err(Fault::unavailable(Origin::Store, "the tables of the store are half made; try again"))
}

/// Makes the tables of a new store, takes over what an earlier process of the node had lent, and returns the fingerprint key.
async fn begin(link: &Link, options: &PostgresOptions, owner: u64) -> Result<[u8; 16]> {
    install(link, options).await?;
    let fault = |trouble: Trouble| trouble.fault("open the store");
    let format = link.ask_one(Lane::Look, "SELECT format FROM meta", &[]).await.map_err(fault)?;
    let format: i32 = format.try_get(0).map_err(|_| row::odd())?;
    if format != code::FORMAT {
        return Err(Fault::conflict(format!(
            "the store in schema {:?} of {} has format {format}, known is {}",
            options.schema,
            link.address(),
            code::FORMAT
        )));
    }
    let values: Values<'_> = &[&options.node, &owner.cast_signed()];
    let row = link.ask_one(Lane::Look, "SELECT tg_begin($1, $2)", values).await.map_err(fault)?;
    let key: Vec<u8> = row.try_get(0).map_err(|_| row::odd())?;
    key.as_slice().try_into().map_err(|_| Fault::corrupt("the fingerprint key has a wrong length"))
}
