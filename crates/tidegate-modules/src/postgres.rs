//! A connection to a PostgreSQL server. Every call has a deadline: that of a guard, for each call or for several together.
//!
//! Nothing is spawned: the connection is driven by whoever waits for an answer, for news or for something else.

use std::{
    error::Error as _,
    fmt,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tidegate_core::{
    config::{Secret, Spot, Tls},
    fault::{Failure, Fault, FaultClass, FaultKind, Origin, Result, Retry},
    guard::Guard,
    names::TargetName,
};
use tidegate_tls::postgres::{Address, Connector};
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, Row, Statement,
    error::SqlState,
    types::{ToSql, Type},
};

/// Values of a statement.
pub(crate) type Values<'v> = &'v [&'v (dyn ToSql + Sync)];

/// A connection.
pub(crate) struct Link {
    client: Client,
    wire: Wire,
    guard: Calls,
}

/// Who watches over calls.
#[derive(Debug, Clone)]
pub(crate) enum Calls {
    /// Each passes the guard.
    Guarded(Arc<Guard>),
    /// Whoever calls is inside of a call of the guard already; its timeout is the most that a statement may take.
    Within(Duration),
}

impl Calls {
    fn timeout(&self) -> Duration {
        match self {
            Self::Guarded(guard) => guard.policy().timeout,
            Self::Within(timeout) => *timeout,
        }
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        match self {
            Self::Guarded(guard) => guard.call(false, call).await,
            Self::Within(_) => call.await,
        }
    }
}

/// A database that can be connected to.
#[derive(Clone)]
pub(crate) struct Database {
    config: Config,
    connector: Connector,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        f.write_str("Database")
    }
}

impl Database {
    /// Reads an address and what connects to it; an error does not repeat the address.
    pub(crate) fn new(url: &Secret, tls: &Tls, program: &str) -> Result<Self> {
        let address = Address::read(url.expose()).map_err(|why| Fault::invalid(format!("url {why}")))?;
        let connector = address.connector(tls)?;
        let mut config = address.config;
        config.keepalives_idle(Duration::from_secs(15));
        if config.get_application_name().is_none() {
            config.application_name(program);
        }
        Ok(Self { config, connector })
    }

    /// Checks `url` and `tls` of the part of a configuration that names a database.
    pub(crate) fn check(url: &Secret, tls: &Tls, here: &Spot<'_>) {
        let asks = match Address::read(url.expose()) {
            Ok(address) => address.is_safe,
            Err(why) => {
                here.at("url").error(why);
                true
            }
        };
        tidegate_tls::check(tls, asks, "postgres://host:port/database?sslmode=verify-full", &here.at("tls"));
    }
}

/// What the connection has heard.
type Polled = Poll<Option<Result<AsyncMessage, Error>>>;

/// The side of the connection that must be driven.
struct Wire {
    poll: Box<dyn FnMut(&mut Context<'_>) -> Polled + Send>,
    has_news: bool,
    lost: Option<String>,
}

impl Wire {
    /// Does what can be done now.
    fn drive(&mut self, cx: &mut Context<'_>) {
        while self.lost.is_none() {
            match (self.poll)(cx) {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(_)))) => self.has_news = true,
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => self.lost = Some(told(&error)),
                Poll::Ready(None) => self.lost = Some("the connection was closed".to_owned()),
                Poll::Pending => return,
            }
        }
    }
}

impl Link {
    /// Connects. Whatever the server of the session keeps for a connection that is silent for long is set here.
    pub(crate) async fn open(database: &Database, guard: Calls) -> Result<Self, Failure> {
        let timeout = guard.timeout();
        let open = async {
            let opened = database.config.connect(database.connector.clone()).await;
            let (client, mut connection) = opened.map_err(|error| failure("connect", &error))?;
            let poll = Box::new(move |cx: &mut Context<'_>| connection.poll_message(cx));
            Ok((client, Wire { poll, has_news: false, lost: None }))
        };
        let (client, wire) = guard.call(open).await?;
        let mut link = Self { client, wire, guard };
        // A server that lost us must notice soon: it holds the lock of the relay.
        let settings = format!(
            "SET statement_timeout = {}; SET TimeZone = 'UTC'; SET default_transaction_isolation = 'read committed'; \
             SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3",
            timeout.as_millis().max(1)
        );
        link.run("prepare the session", &settings).await?;
        Ok(link)
    }

    /// Runs statements without answers.
    pub(crate) async fn run(&mut self, doing: &str, statements: &str) -> Result<(), Failure> {
        let (client, wire) = (&self.client, &mut self.wire);
        let call = hold(wire, async { client.batch_execute(statements).await.map_err(|error| failure(doing, &error)) });
        self.guard.call(call).await
    }

    /// Prepares a statement.
    pub(crate) async fn prepare(&mut self, doing: &str, statement: &str, types: &[Type]) -> Result<Statement, Failure> {
        let (client, wire) = (&self.client, &mut self.wire);
        let call =
            hold(wire, async { client.prepare_typed(statement, types).await.map_err(|error| failure(doing, &error)) });
        self.guard.call(call).await
    }

    /// Asks.
    pub(crate) async fn ask(
        &mut self,
        doing: &str,
        statement: &(impl tokio_postgres::ToStatement + ?Sized + Sync),
        values: Values<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let (client, wire) = (&self.client, &mut self.wire);
        let call = hold(wire, async { client.query(statement, values).await.map_err(|error| failure(doing, &error)) });
        self.guard.call(call).await
    }

    /// Asks for exactly one row.
    pub(crate) async fn ask_one(
        &mut self,
        doing: &str,
        statement: &(impl tokio_postgres::ToStatement + ?Sized + Sync),
        values: Values<'_>,
    ) -> Result<Row, Failure> {
        let rows = self.ask(doing, statement, values).await?;
        rows.into_iter()
            .next()
            .ok_or_else(|| Failure::new(FaultClass::Invalid, format!("{doing}: the database answered no row")))
    }

    /// Waits for something else, and goes on hearing the database: what nobody hears fills the server's queue.
    pub(crate) async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        hold(&mut self.wire, other).await
    }

    /// Waits until the database notifies, or the connection is lost. News that came before count.
    pub(crate) async fn news(&mut self) -> Result<(), Failure> {
        let wire = &mut self.wire;
        poll_fn(|cx| {
            wire.drive(cx);
            if let Some(why) = &wire.lost {
                return Poll::Ready(Err(Failure::new(FaultClass::DependencyDown, why.clone())));
            }
            if std::mem::take(&mut wire.has_news) { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Forgets news: what follows looks at the table anyway.
    pub(crate) fn forget_news(&mut self) {
        self.wire.has_news = false;
    }
}

/// Waits for something while the connection is driven.
async fn hold<T>(wire: &mut Wire, other: impl Future<Output = T>) -> T {
    let mut other = pin!(other);
    poll_fn(|cx| {
        wire.drive(cx);
        other.as_mut().poll(cx)
    })
    .await
}

/// An error with its causes, without what was sent.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text = format!("{text}: {one}");
        cause = one.source();
    }
    text
}

/// Judges an error: what says something about the database is told from what says something about the statement.
fn failure(doing: &str, error: &Error) -> Failure {
    let Some(said) = error.as_db_error() else {
        return Failure::new(FaultClass::DependencyDown, format!("{doing}: {}", told(error)));
    };
    let code = said.code();
    let class = match code.code().get(..2).unwrap_or_default() {
        _ if *code == SqlState::QUERY_CANCELED => FaultClass::Timeout,
        _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => FaultClass::Auth,
        "28" | "3D" => FaultClass::Auth,
        "08" | "53" | "57" | "58" | "XX" => FaultClass::DependencyDown,
        "25" | "40" | "55" => FaultClass::Transient,
        _ => FaultClass::Invalid,
    };
    Failure::new(class, format!("{doing}: {} ({})", said.message(), code.code()))
}

/// What the fault of a probe is.
pub(crate) fn as_fault(failure: &Failure, target: &TargetName) -> Fault {
    let origin = Origin::Target(target.clone());
    let kind = if failure.class == FaultClass::Invalid { FaultKind::Invalid } else { FaultKind::Unavailable };
    Fault::new(kind, origin, Retry::Later, failure.message.clone())
}
