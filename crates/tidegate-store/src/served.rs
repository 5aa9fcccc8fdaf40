//! What the engines that keep their streams in a server have in common: what is declared, bells and
//! waiting, shared commits, what is counted, searches, dead letters.

pub(crate) mod bells;
pub(crate) mod declared;
pub(crate) mod drain;
pub(crate) mod facts;
pub(crate) mod hunt;
pub(crate) mod lines;
pub(crate) mod patience;
pub(crate) mod shared;
pub(crate) mod steps;
pub(crate) mod told;
