//! A group as it is written down: its place and its settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_core::{
    delivery::Position,
    names::GroupName,
    order::OrderBy,
    store::{GroupSpec, OnFailure, Start},
};

use super::{super::stream::Stream, Group};

/// A group as it stands in the journal and in checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupDecl {
    pub(crate) id: u32,
    pub(crate) name: GroupName,
    pub(crate) stream: u32,
    /// First sequence number that is its business.
    pub(crate) start: u64,
    /// First sequence number that is no longer its business.
    pub(crate) end: Option<u64>,
    pub(crate) order_by: Option<String>,
    pub(crate) block: bool,
    pub(crate) ledger: Option<Duration>,
    pub(crate) mark_claims: bool,
    pub(crate) after: bool,
    pub(crate) priority_step: Option<Duration>,
}

impl Group {
    pub(crate) fn decl(&self, start: u64) -> GroupDecl {
        GroupDecl::new(self.id, self.stream.id, start, &self.spec.read())
    }
}

impl GroupDecl {
    fn new(id: u32, stream: u32, start: u64, spec: &GroupSpec) -> Self {
        Self {
            id,
            name: spec.name.clone(),
            stream,
            start,
            end: spec.end.map(|end| end.low),
            order_by: spec.order_by.as_ref().map(OrderBy::to_string),
            block: spec.on_failure == OnFailure::Block,
            ledger: spec.ledger,
            mark_claims: spec.mark_claims,
            after: spec.after,
            priority_step: spec.priority_step,
        }
    }

    pub(crate) fn spec(&self, stream: &Stream) -> GroupSpec {
        GroupSpec {
            name: self.name.clone(),
            stream: stream.name.clone(),
            start: Start::Earliest,
            end: self.end.map(Position::number),
            order_by: self.order_by.as_ref().and_then(|text| text.parse().ok()),
            on_failure: if self.block { OnFailure::Block } else { OnFailure::Skip },
            ledger: self.ledger,
            mark_claims: self.mark_claims,
            after: self.after,
            priority_step: self.priority_step,
        }
    }

    /// Returns the declaration with other settings.
    pub(crate) fn with(&self, spec: &GroupSpec) -> Self {
        Self { name: self.name.clone(), end: self.end, ..Self::new(self.id, self.stream, self.start, spec) }
    }
}
