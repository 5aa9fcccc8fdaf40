//! The connections to the server: one for each kind of work, made anew when it is lost, and a deadline on every answer.

use std::{collections::HashMap, error::Error as _, fmt, sync::Arc, time::Duration};

use tidegate_core::{
    clock::{Clock, Stopwatch},
    fault::{Fault, FaultKind, Origin, Result, Retry},
};
use tidegate_tls::postgres::{Address, Connector};
use tokio::{sync::Mutex, task::AbortHandle};
use tokio_postgres::{
    Client, Config, Connection, Error, Row, Socket, Statement, config::Host, tls::MakeTlsConnect, types::ToSql,
};

use super::{PostgresOptions, code};

/// Longest time that making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// After a failed try to connect, others are answered with its fault for this time.
const REST: Duration = Duration::from_millis(200);
/// Tries of a call that met another one half way.
const TRIES: u32 = 5;

/// Values of a statement.
pub(crate) type Values<'v> = &'v [&'v (dyn ToSql + Sync)];

/// Kinds of work, each with a connection of its own: what waits for a disk does not hold up the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Append,
    Settle,
    Claim,
    Look,
    Beat,
}

/// The side of a connection that must be driven.
pub(crate) type Wire = Connection<Socket, <Connector as MakeTlsConnect<Socket>>::Stream>;

/// The connections.
pub(crate) struct Link {
    config: Config,
    connector: Connector,
    address: String,
    schema: String,
    timeout: Duration,
    clock: Clock,
    slots: [Mutex<Slot>; 5],
    /// Why there is no answer now; none while there are answers.
    outage: parking_lot::Mutex<Option<String>>,
}

#[derive(Default)]
struct Slot {
    live: Option<Arc<Session>>,
    failed: Option<(Stopwatch, Trouble)>,
}

/// A connection with the statements that the server knows on it.
struct Session {
    client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
    driver: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why there is no answer, or what the server said instead of one.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Trouble {
    /// The server is not there, or the connection was lost; whether the step was done is unknown.
    #[error("{0}")]
    Gone(String),
    /// No answer in time; whether the step was done is unknown.
    #[error("no answer in {0:?}")]
    Late(Duration),
    /// The server refused.
    #[error("{note} ({code})")]
    Told {
        /// Its SQLSTATE; those that begin with TG are ours.
        code: String,
        /// What it said.
        note: String,
    },
}

/// Another process opened the store under the same name.
pub(crate) const FENCED: &str = "TG001";
/// The server does not know the session.
pub(crate) const LEFT: &str = "TG002";
/// There is no such stream or group.
pub(crate) const MISSING: &str = "TG003";
/// Something stands against it.
pub(crate) const CONFLICT: &str = "TG004";
/// A position is not kept.
pub(crate) const NOT_KEPT: &str = "TG005";

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.address)
    }
}

impl Link {
    pub(crate) fn open(options: &PostgresOptions) -> Result<Self> {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if options.schema.is_empty() || !options.schema.chars().all(word) {
            return Err(Fault::invalid(format!(
                "schema {:?}: small letters, digits and '_' make its name",
                options.schema
            )));
        }
        let wrong = |why: String| Fault::invalid(format!("engine address: it {why}"));
        let read = Address::read(&options.url).map_err(wrong)?;
        let connector = read.connector(&options.tls)?;
        let mut config = read.config;
        if let Some(user) = &options.user {
            config.user(user);
        }
        if let Some(password) = &options.password {
            config.password(password);
        }
        config.application_name("tidegate").connect_timeout(CONNECT.min(options.timeout));
        config.keepalives_idle(Duration::from_secs(15)).tcp_user_timeout(options.timeout.max(CONNECT));
        let address = address(&config);
        Ok(Self {
            config,
            connector,
            address,
            schema: options.schema.clone(),
            timeout: options.timeout,
            clock: options.clock.clone(),
            slots: std::array::from_fn(|_| Mutex::default()),
            outage: parking_lot::Mutex::default(),
        })
    }

    /// Host, port and database of the server, without what is secret in its address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Makes a connection beside those of the lanes.
    pub(crate) async fn dial(&self) -> Result<(Client, Wire), Error> {
        self.config.connect(self.connector.clone()).await
    }

    /// Why there is no answer now; none while there are answers.
    pub(crate) fn outage(&self) -> Option<String> {
        self.outage.lock().clone()
    }

    /// Asks.
    pub(crate) async fn ask(
        &self,
        lane: Lane,
        statement: &'static str,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Trouble> {
        let mut tries = 0;
        loop {
            tries += 1;
            let asked = self.within(lane, async |session| {
                let statement = session.statement(statement).await?;
                session.client.query(&statement, values).await
            });
            match asked.await {
                // Nothing of it was done.
                Err(Trouble::Told { code, .. }) if matches!(&*code, "40001" | "40P01") && tries < TRIES => {}
                answer => return answer,
            }
        }
    }

    /// Asks for one row.
    pub(crate) async fn ask_one(
        &self,
        lane: Lane,
        statement: &'static str,
        values: Values<'_>,
    ) -> Result<Row, Trouble> {
        let rows = self.ask(lane, statement, values).await?;
        rows.into_iter().next().ok_or_else(|| Trouble::Told { code: "02000".to_owned(), note: "no row".to_owned() })
    }

    /// Runs statements without answers.
    pub(crate) async fn run(&self, lane: Lane, statements: &str) -> Result<(), Trouble> {
        self.within(lane, async |session| session.client.batch_execute(statements).await).await
    }

    /// Does something on a connection within its time.
    async fn within<T>(&self, lane: Lane, call: impl AsyncFnOnce(&Session) -> Result<T, Error>) -> Result<T, Trouble> {
        let done = self.try_within(lane, call).await;
        *self.outage.lock() = done.as_ref().err().and_then(Trouble::outage);
        done
    }

    async fn try_within<T>(
        &self,
        lane: Lane,
        call: impl AsyncFnOnce(&Session) -> Result<T, Error>,
    ) -> Result<T, Trouble> {
        let session = self.session(lane).await?;
        let trouble = match tokio::time::timeout(self.timeout, call(&session)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.judge(&error),
            Err(_) => Trouble::Late(self.timeout),
        };
        if matches!(trouble, Trouble::Gone(_) | Trouble::Late(_)) || session.client.is_closed() {
            let mut slot = self.slot(lane).lock().await;
            if slot.live.as_ref().is_some_and(|live| Arc::ptr_eq(live, &session)) {
                slot.live = None;
            }
        }
        Err(trouble)
    }

    fn slot(&self, lane: Lane) -> &Mutex<Slot> {
        let [append, settle, claim, look, beat] = &self.slots;
        match lane {
            Lane::Append => append,
            Lane::Settle => settle,
            Lane::Claim => claim,
            Lane::Look => look,
            Lane::Beat => beat,
        }
    }

    async fn session(&self, lane: Lane) -> Result<Arc<Session>, Trouble> {
        let mut slot = self.slot(lane).lock().await;
        if let Some(live) = slot.live.as_ref().filter(|live| !live.client.is_closed()) {
            return Ok(Arc::clone(live));
        }
        if let Some((since, why)) = &slot.failed
            && since.elapsed() < REST
        {
            return Err(why.clone());
        }
        match tokio::time::timeout(CONNECT.min(self.timeout), self.connect()).await {
            Ok(Ok(live)) => {
                let live = Arc::new(live);
                *slot = Slot { live: Some(Arc::clone(&live)), failed: None };
                Ok(live)
            }
            Ok(Err(error)) => {
                let mut trouble = self.judge(&error);
                // It was there, and did not speak as expected.
                if let Trouble::Gone(note) = &mut trouble
                    && !["error connecting", "error performing TLS"].iter().any(|known| note.starts_with(known))
                {
                    *note = format!("{note}; what answers at {} may be no PostgreSQL server", self.address);
                }
                slot.failed = Some((self.clock.stopwatch(), trouble.clone()));
                Err(trouble)
            }
            Err(_) => {
                let trouble = Trouble::Gone(format!("{} does not answer as a PostgreSQL server does", self.address));
                slot.failed = Some((self.clock.stopwatch(), trouble.clone()));
                Err(trouble)
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "an engine is opened before there is a supervisor; the task ends with the connection"
    )]
    async fn connect(&self) -> Result<Session, Error> {
        let (client, connection) = self.dial().await?;
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let session = Session { client, statements: Mutex::default(), driver };
        // Plans that were made while a table was small are kept: they must be those that are right for a large one.
        let settings = format!(
            "SET search_path = {}; SET statement_timeout = {}; SET jit = off; SET enable_seqscan = off; \
             SET plan_cache_mode = force_generic_plan; SET enable_material = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET client_min_messages = error; \
             SET default_transaction_isolation = 'read committed'; SET tcp_keepalives_idle = 15; \
             SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3",
            self.schema,
            self.timeout.as_millis().max(1)
        );
        session.client.batch_execute(&settings).await?;
        Ok(session)
    }

    fn judge(&self, error: &Error) -> Trouble {
        let Some(said) = error.as_db_error() else {
            return Trouble::Gone(what(error));
        };
        let (code, note) = (said.code().code(), said.message());
        match code.get(..2).unwrap_or_default() {
            _ if code == "57014" => Trouble::Late(self.timeout),
            "08" => Trouble::Gone(note.to_owned()),
            "57" => Trouble::Gone(note.to_owned()),
            _ => Trouble::Told { code: code.to_owned(), note: note.to_owned() },
        }
    }
}

impl Session {
    async fn statement(&self, text: &'static str) -> Result<Statement, Error> {
        let mut known = self.statements.lock().await;
        if let Some(statement) = known.get(text) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&code::text(text)).await?;
        known.insert(text, statement.clone());
        Ok(statement)
    }
}

fn address(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => format!("{host}:{port}"),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    format!("{host}/{}", config.get_dbname().unwrap_or_default())
}

/// An error with its causes, without what was sent.
pub(crate) fn what(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text = format!("{text}: {one}");
        cause = one.source();
    }
    text
}

impl Trouble {
    /// Says that the server serves nobody, when that is what it means.
    fn outage(&self) -> Option<String> {
        match self {
            Self::Gone(_) | Self::Late(_) => Some(format!("PostgreSQL cannot be reached: {self}")),
            Self::Told { code, .. } => match code.get(..2).unwrap_or_default() {
                "28" | "3D" | "53" | "58" => Some(format!("PostgreSQL refuses: {self}")),
                _ if matches!(code.as_str(), "25006" | "42501") => Some(format!("PostgreSQL refuses: {self}")),
                _ => None,
            },
        }
    }

    /// The code of what the server said.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Told { code, .. } => Some(code),
            Self::Gone(_) | Self::Late(_) => None,
        }
    }

    /// Tells whether tables or functions are gone.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.code(), Some("3F000" | "42P01" | "42883" | "42704"))
    }

    /// Turns it into a fault: the one place where answers of the server get their kind.
    pub(crate) fn fault(self, step: &str) -> Fault {
        let note = format!("{step}: {self}");
        let denied = |note: String| Fault::new(FaultKind::Denied, Origin::Store, Retry::Later, note);
        match &self {
            Self::Gone(_) => Fault::unavailable(Origin::Store, format!("{step}: PostgreSQL cannot be reached: {self}")),
            Self::Late(_) => {
                Fault::new(FaultKind::Timeout, Origin::Store, Retry::Later, format!("{step}: PostgreSQL: {self}"))
            }
            Self::Told { code, note: said } => match code.as_str() {
                MISSING => Fault::missing(format!("{step}: there is no such {said}")),
                CONFLICT => Fault::conflict(note),
                NOT_KEPT => Fault::invalid(note),
                "42501" => denied(format!("{step}: PostgreSQL refuses: {self}")),
                "25006" => Fault::unavailable(Origin::Store, format!("{step}: PostgreSQL refuses for now: {self}")),
                _ => match code.get(..2).unwrap_or_default() {
                    "28" | "3D" => denied(format!("{step}: PostgreSQL refuses: {self}")),
                    "40" | "53" | "55" | "58" => {
                        Fault::unavailable(Origin::Store, format!("{step}: PostgreSQL refuses for now: {self}"))
                    }
                    _ => Fault::bug(format!("{step}: PostgreSQL answered {self}")),
                },
            },
        }
    }
}
