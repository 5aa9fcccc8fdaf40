//! The scripts, and how a call of one is put together.

use std::{fmt, sync::LazyLock};

use redis::{Cmd, Script as Hashed, ToRedisArgs};
use tidegate_core::delivery::Position;

use super::reply::id_text;

const PRELUDE: &str = include_str!("lua/prelude.lua");
const GROUPS: &str = include_str!("lua/groups.lua");
const LETTERS: &str = include_str!("lua/letters.lua");

/// One script.
pub(crate) struct Script {
    code: String,
    hash: String,
}

macro_rules! scripts {
    ($($name:ident $(+ $with:ident)?),+ $(,)?) => {
        /// All scripts.
        pub(crate) struct Scripts {
            $(pub(crate) $name: Script,)+
        }

        /// The scripts, put together once.
        pub(crate) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            $($name: Script::new(&[PRELUDE, GROUPS, $($with,)? include_str!(concat!("lua/", stringify!($name), ".lua"))]),)+
        });
    };
}

scripts! {
    open, close, beat, declare_stream, declare_group, remove_group, append, look, lend, settle + LETTERS, extend, status, peek,
    blocked, unblock + LETTERS, backlog, overdue, meet, put_state, swap_state, states, read + LETTERS, kept, seek, unsettled, ledger, clean_ledger, marks, standing, drop,
    trim, clean_window,
    dead_select + LETTERS,
    dead_load + LETTERS, dead_move + LETTERS, dead_import + LETTERS, dead_upkeep + LETTERS, dead_report + LETTERS,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let code = parts.concat();
        let hash = Hashed::new(&code).get_hash().to_owned();
        Self { code, hash }
    }
}

/// A call of a script. Arguments are positional; the scripts say in their heads which they take.
pub(crate) struct Ask {
    script: &'static Script,
    command: Cmd,
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ask({})", self.script.hash)
    }
}

impl Ask {
    pub(crate) fn new(script: &'static Script, prefix: &str) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&script.hash).arg(0).arg(prefix);
        Self { script, command }
    }

    pub(crate) fn command(&self) -> &Cmd {
        &self.command
    }

    pub(crate) fn code(&self) -> &str {
        &self.script.code
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.command.arg(text);
        self
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.command.arg(bytes);
        self
    }

    pub(crate) fn number(&mut self, number: impl ToRedisArgs) -> &mut Self {
        self.command.arg(number);
        self
    }

    /// An absent value is empty.
    pub(crate) fn maybe(&mut self, number: Option<impl ToRedisArgs>) -> &mut Self {
        match number {
            Some(number) => self.command.arg(number),
            None => self.command.arg(""),
        };
        self
    }

    pub(crate) fn position(&mut self, position: Position) -> &mut Self {
        self.command.arg(id_text(position));
        self
    }

    pub(crate) fn maybe_position(&mut self, position: Option<Position>) -> &mut Self {
        self.maybe(position.map(id_text))
    }
}
