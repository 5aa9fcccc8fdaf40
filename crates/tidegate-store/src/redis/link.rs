//! The connection to the server: one for all commands, made anew when it is lost, and a deadline on every answer.

use std::{fmt, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo as _,
    RedisError, TlsCertificates, Value, aio::MultiplexedConnection,
};
use tidegate_core::{
    clock::{Clock, Stopwatch},
    config::Tls,
    fault::{Fault, FaultKind, Origin, Result, Retry},
};
use tokio::sync::Mutex;

use super::{RedisOptions, script::Ask};

/// Longest time that making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// After a failed try to connect, others are answered with its fault for this time.
const REST: Duration = Duration::from_millis(200);

/// The connection.
pub(crate) struct Link {
    client: Client,
    address: String,
    timeout: Duration,
    clock: Clock,
    slot: Mutex<Slot>,
    /// Why there is no answer now; none while there are answers.
    outage: parking_lot::Mutex<Option<String>>,
}

#[derive(Default)]
struct Slot {
    live: Option<MultiplexedConnection>,
    /// Counts connections, so that one who met the end of an older one does not drop a newer one.
    number: u64,
    failed: Option<(Stopwatch, String)>,
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
    #[error("{code} {detail}")]
    Told {
        /// First word of its answer.
        code: String,
        /// The rest.
        detail: String,
    },
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.address)
    }
}

impl Link {
    pub(crate) fn open(options: &RedisOptions) -> Result<Self> {
        let wrong = |error: RedisError| Fault::invalid(format!("engine address: {}", what(&error)));
        let info = options.url.as_str().into_connection_info().map_err(wrong)?;
        let mut login = info.redis_settings().clone();
        if let Some(user) = &options.user {
            login = login.set_username(user);
        }
        if let Some(password) = &options.password {
            login = login.set_password(password);
        }
        let is_safe = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let info = info.set_redis_settings(login);
        let client = if is_safe {
            Client::build_with_tls(info, papers(&options.tls)?)
        } else if options.tls.is_unset() {
            Client::open(info)
        } else {
            return Err(Fault::invalid("settings for TLS are for an address that begins with rediss://"));
        };
        let client = client.map_err(wrong)?;
        let address = client.get_connection_info().addr().to_string();
        let clock = options.clock.clone();
        Ok(Self {
            client,
            address,
            timeout: options.timeout,
            clock,
            slot: Mutex::default(),
            outage: parking_lot::Mutex::default(),
        })
    }

    /// Host and port of the server, without what is secret in its address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a script, and leaves the call to be run again.
    pub(crate) async fn run_again(&self, ask: &Ask) -> Result<Value, Trouble> {
        match self.command(ask.command()).await {
            Err(Trouble::Told { code, .. }) if code == "NOSCRIPT" => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(ask.code());
                self.command(&load).await?;
                self.command(ask.command()).await
            }
            other => other,
        }
    }

    /// Why there is no answer now; none while there are answers.
    pub(crate) fn outage(&self) -> Option<String> {
        self.outage.lock().clone()
    }

    /// Runs a command.
    pub(crate) async fn command(&self, command: &Cmd) -> Result<Value, Trouble> {
        let ran = self.send(command).await;
        *self.outage.lock() = ran.as_ref().err().and_then(Trouble::outage);
        ran
    }

    async fn send(&self, command: &Cmd) -> Result<Value, Trouble> {
        let (mut connection, number) = self.connection().await?;
        let sent = tokio::time::timeout(self.timeout, connection.send_packed_command(command)).await;
        let trouble = match sent {
            Ok(Ok(Value::ServerError(error))) => return Err(told(&error.into())),
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if error.is_timeout() => Trouble::Late(self.timeout),
            Ok(Err(error)) if is_gone(&error) => Trouble::Gone(what(&error)),
            Ok(Err(error)) => return Err(told(&error)),
            Err(_) => Trouble::Late(self.timeout),
        };
        let mut slot = self.slot.lock().await;
        if slot.number == number {
            slot.live = None;
        }
        Err(trouble)
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), Trouble> {
        let mut slot = self.slot.lock().await;
        if let Some(live) = &slot.live {
            return Ok((live.clone(), slot.number));
        }
        if let Some((since, why)) = &slot.failed
            && since.elapsed() < REST
        {
            return Err(Trouble::Gone(why.clone()));
        }
        // The deadline is ours, so that it covers waiting for the server as well.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT.min(self.timeout)))
            .set_response_timeout(Some(self.timeout));
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(live) => {
                slot.number += 1;
                slot.failed = None;
                slot.live = Some(live.clone());
                Ok((live, slot.number))
            }
            Err(error) if is_gone(&error) || error.is_timeout() => {
                let plain = matches!(self.client.get_connection_info().addr(), ConnectionAddr::Tcp(..));
                let hint = "; if it speaks TLS only, its address begins with rediss://";
                let hung_up = if plain && error.is_connection_dropped() { hint } else { "" };
                let why = format!("{}{hung_up}", what(&error));
                slot.failed = Some((self.clock.stopwatch(), why.clone()));
                Err(Trouble::Gone(why))
            }
            Err(error) => Err(told(&error)),
        }
    }
}

fn is_gone(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() || error.is_timeout()
}

fn told(error: &RedisError) -> Trouble {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return Trouble::Told { code: "WRONGPASS".to_owned(), detail: what(error) };
    }
    if error.kind() == ErrorKind::Parse {
        return Trouble::Told {
            code: "PARSE".to_owned(),
            detail: "what answers there does not speak as Redis does".to_owned(),
        };
    }
    let said = what(error);
    // Inside of a script older servers wrap what a command answered.
    if said.contains("OOM command not allowed") {
        return Trouble::Told { code: "OOM".to_owned(), detail: said };
    }
    let code = error.code().unwrap_or("ERR").to_owned();
    Trouble::Told { detail: error.detail().map_or_else(|| what(error), str::to_owned), code }
}

/// Says what went wrong, without the address, which may hold a password.
fn what(error: &RedisError) -> String {
    error.to_string()
}

/// What the library wants to know for TLS.
fn papers(tls: &Tls) -> Result<TlsCertificates> {
    // It is read here first: the faults of the library do not say which file they mean.
    tidegate_tls::client(tls)?;
    let text = |text: &str| text.as_bytes().to_vec();
    let client_tls = tls.cert.as_ref().zip(tls.key.as_ref());
    Ok(TlsCertificates {
        client_tls: client_tls
            .map(|(cert, key)| ClientTlsConfig { client_cert: text(&cert.text), client_key: text(key.expose()) }),
        root_cert: tls.ca.as_ref().map(|ca| text(&ca.text)),
    })
}

impl Trouble {
    /// Says that the server serves nobody, when that is what it means.
    fn outage(&self) -> Option<String> {
        match self {
            Self::Gone(_) | Self::Late(_) => Some(format!("Redis cannot be reached: {self}")),
            Self::Told { code, .. } => match code.as_str() {
                "LOADING" | "MASTERDOWN" | "READONLY" | "WRONGPASS" | "NOAUTH" | "NOPERM" => {
                    Some(format!("Redis refuses: {self}"))
                }
                _ => None,
            },
        }
    }

    /// Tells whether the step is to be made again: other programs appended more than one step takes in; each takes in some.
    pub(crate) fn is_again(&self) -> bool {
        self.code() == Some("TGAGAIN")
    }

    /// First word of what the server said.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Told { code, .. } => Some(code),
            Self::Gone(_) | Self::Late(_) => None,
        }
    }

    /// Turns it into a fault: the one place where answers of the server get their kind.
    pub(crate) fn fault(self, step: &str) -> Fault {
        let note = format!("{step}: {self}");
        match &self {
            Self::Gone(_) => Fault::unavailable(Origin::Store, format!("{step}: Redis cannot be reached: {self}")),
            Self::Late(_) => {
                Fault::new(FaultKind::Timeout, Origin::Store, Retry::Later, format!("{step}: Redis: {self}"))
            }
            Self::Told { code, detail } => match code.as_str() {
                "TGMISSING" => Fault::missing(format!("{step}: there is no such {detail}")),
                "TGCONFLICT" => Fault::conflict(note),
                "TGINVALID" => Fault::invalid(note),
                "PARSE" => Fault::invalid(format!("{step}: {detail}")),
                "TGTYPE" => Fault::conflict(format!("{step}: the key exists in Redis and is a {detail}, not a stream")),
                "OOM" => Fault::unavailable(Origin::Store, format!("{step}: Redis has no memory left (maxmemory)")),
                "WRONGPASS" | "NOAUTH" | "NOPERM" => {
                    Fault::new(FaultKind::Denied, Origin::Store, Retry::Later, format!("{step}: Redis refuses: {self}"))
                }
                "LOADING" | "READONLY" | "MASTERDOWN" | "BUSY" | "TRYAGAIN" | "MISCONF" | "NOREPLICAS" => {
                    Fault::unavailable(Origin::Store, format!("{step}: Redis refuses for now: {self}"))
                }
                _ => Fault::bug(format!("{step}: Redis answered {self}")),
            },
        }
    }
}
