//! What operators, and the target itself, want of a guard: whoever has a store keeps it over restarts.

use serde::{Deserialize, Serialize};

use super::Rate;
use crate::clock::Timestamp;

/// What is wanted of a guard beyond its policy; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardWish {
    /// Nothing is sent until somebody resets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shut: Option<Shut>,
    /// Another number of calls at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// Another rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// Why nothing is sent until somebody resets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shut {
    /// Somebody tripped it.
    Tripped {
        /// When.
        at: Timestamp,
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// The target wants nothing any more.
    Disabled {
        /// When.
        at: Timestamp,
        /// What it said.
        message: String,
    },
}
