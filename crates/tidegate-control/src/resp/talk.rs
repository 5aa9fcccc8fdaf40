//! One client: who it is, and the commands about the connection itself.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytestring::ByteString;
use tidegate_core::service::{Stop, StopPhase};

use super::{
    args::{Args, Refusal, Result},
    wire::Reply,
};
use crate::{Role, api::Api, metrics::process::ProcessFacts};

/// A client of the Redis protocol.
pub(super) struct Talk {
    pub(super) api: Arc<Api>,
    stop: Stop,
    who: Option<(ByteString, Role)>,
    /// It wants to leave, or has left.
    is_over: AtomicBool,
}

impl Talk {
    pub(super) fn new(api: Arc<Api>, stop: Stop) -> Self {
        // Without tokens only this machine can come here, and may do everything.
        let who = api.tokens.is_empty().then(|| (ByteString::from_static("local"), Role::Admin));
        Self { api, stop, who, is_over: AtomicBool::new(false) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Tells whether nobody should wait for anything new.
    pub(super) fn is_ending(&self) -> bool {
        self.is_over() || self.stop.phase() != StopPhase::Running || self.api.cx.stop.phase() != StopPhase::Running
    }

    /// Who asks, for notices and the log.
    pub(super) fn actor(&self) -> Result<&ByteString> {
        self.who.as_ref().map(|(name, _)| name).ok_or_else(unknown)
    }

    pub(super) fn admit(&self, needed: Option<Role>, command: &str) -> Result<()> {
        let Some(needed) = needed else { return Ok(()) };
        match &self.who {
            None => Err(unknown()),
            Some((_, role)) if *role >= needed => Ok(()),
            Some((name, role)) => {
                let (role, needed) = (role.as_str(), needed.as_str());
                Err(Refusal(format!("NOPERM token {name:?} has the role {role}, {command} needs {needed}")))
            }
        }
    }

    /// Knows the client by its token, which stands where a password stands. Its name is that of the token.
    pub(super) fn login(&mut self, token: &str) -> Result<Reply> {
        if self.api.tokens.is_empty() {
            return Err(Refusal::new("the node has no tokens: AUTH is not needed"));
        }
        match self.api.tokens.known(token) {
            Some(who) => {
                self.who = Some(who);
                Ok(Reply::OK)
            }
            None => Err(Refusal("WRONGPASS no token of the node; it stands where a password stands".to_owned())),
        }
    }
}

fn unknown() -> Refusal {
    Refusal("NOAUTH Authentication required: AUTH and a token of the node".to_owned())
}

/// Takes the token of AUTH; a name before it says nothing.
pub(super) fn auth(talk: &mut Talk, mut args: Args) -> Result<Reply> {
    let mut token = args.text()?;
    if args.left() > 0 {
        token = args.text()?;
    }
    args.end()?;
    talk.login(&token)
}

/// Speaks version 2; clients that ask for another one fall back to it.
pub(super) fn hello(talk: &mut Talk, mut args: Args) -> Result<Reply> {
    if args.left() > 0 && args.number::<u32>()? != 2 {
        return Err(Refusal("NOPROTO this listener speaks version 2 of the protocol".to_owned()));
    }
    if args.takes("AUTH") {
        args.word()?;
        let token = args.text()?;
        talk.login(&token)?;
    }
    if args.takes("SETNAME") {
        args.word()?;
    }
    args.end()?;
    talk.admit(Some(Role::Viewer), "HELLO")?;
    let words = [
        ("server", Reply::text("tidegate")),
        ("version", Reply::text(talk.api.node.version.clone())),
        ("proto", Reply::Number(2)),
        ("mode", Reply::text("standalone")),
        ("role", Reply::text("master")),
        ("modules", Reply::List(Vec::new())),
    ];
    Ok(Reply::List(words.into_iter().flat_map(|(name, value)| [Reply::text(name), value]).collect()))
}

pub(super) fn ping(_: &mut Talk, mut args: Args) -> Result<Reply> {
    if args.left() == 0 {
        return Ok(Reply::Word("PONG"));
    }
    let word = args.word()?;
    args.end()?;
    Ok(Reply::Bytes(word))
}

pub(super) fn echo(_: &mut Talk, mut args: Args) -> Result<Reply> {
    let word = args.word()?;
    args.end()?;
    Ok(Reply::Bytes(word))
}

/// There is one database.
pub(super) fn select(_: &mut Talk, mut args: Args) -> Result<Reply> {
    match args.number::<u32>()? {
        0 => Ok(Reply::OK),
        _ => Err(args.wrong("knows database 0 only")),
    }
}

/// Takes note of what a client says of itself, which is nothing that the node needs.
pub(super) fn client(_: &mut Talk, mut args: Args) -> Result<Reply> {
    if args.takes("SETNAME") || args.takes("SETINFO") || args.takes("NO-EVICT") || args.takes("NO-TOUCH") {
        return Ok(Reply::OK);
    }
    Err(args.wrong("knows SETNAME and SETINFO"))
}

/// No client needs the list to work; those who ask do without.
pub(super) fn command(_: &mut Talk, _: Args) -> Result<Reply> {
    Ok(Reply::List(Vec::new()))
}

pub(super) fn quit(talk: &mut Talk, _: Args) -> Result<Reply> {
    talk.is_over.store(true, Ordering::Relaxed);
    Ok(Reply::OK)
}

pub(super) fn info(talk: &mut Talk, _: Args) -> Result<Reply> {
    let facts = ProcessFacts::read();
    let memory = facts.resident_bytes.unwrap_or(0);
    let promises = talk.api.store.promises();
    let status = talk.api.store.status();
    let up = talk.api.cx.clock.now().since(talk.api.started_at).as_secs();
    Ok(Reply::text(format!(
        "# Server\r\nredis_version:7.0.0\r\nserver_name:tidegate\r\ntidegate_version:{}\r\nredis_mode:standalone\r\n\
         process_id:{}\r\nuptime_in_seconds:{up}\r\n\r\n\
         # Memory\r\nused_memory:{memory}\r\nused_memory_human:{:.2}M\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n\r\n\
         # Persistence\r\nloading:0\r\naof_enabled:{}\r\naof_last_write_status:{}\r\n\r\n\
         # Replication\r\nrole:master\r\nconnected_slaves:0\r\n",
        talk.api.node.version,
        std::process::id(),
        memory as f64 / f64::from(1 << 20),
        u8::from(promises.durable),
        if status.failed.is_none() { "ok" } else { "err" },
    )))
}
