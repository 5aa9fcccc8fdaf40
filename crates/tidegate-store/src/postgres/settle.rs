//! Settling: with all who settle at the same time in one commit.

use std::collections::BTreeSet;

use tidegate_core::{
    delivery::{SettleStatus, Settled, Settlement},
    event::Event,
    fault::Result,
    names::StreamName,
    signature,
};

use super::{
    PostgresStore,
    batch::{Settle, SettleRow},
    row::{EventRow, number, text},
};
use crate::served::{
    facts::{check_outputs, step_len},
    lines::line,
};

impl PostgresStore {
    pub(crate) async fn settle_all(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>> {
        self.check_open()?;
        let mut statuses = Vec::with_capacity(settled.len());
        // Everything is prepared before anything is settled.
        let mut parts = Vec::new();
        let mut rest = settled.as_slice();
        while !rest.is_empty() {
            let (part, more) = rest.split_at(step_len(rest));
            let mut rows = Vec::with_capacity(part.len());
            for one in part {
                rows.push(self.settle_row(one).await?);
            }
            parts.push(rows);
            rest = more;
        }
        let mut streams = BTreeSet::new();
        for rows in parts {
            streams.extend(rows.iter().flat_map(|row| &row.outputs).map(|(stream, _)| stream.cast_unsigned()));
            let held = match self.batches.settle(Settle { now: self.now(), rows }).await {
                Ok(held) => held,
                Err(trouble) => return Err(self.heard(trouble, "settle").await),
            };
            let status = |held| if held { SettleStatus::Settled } else { SettleStatus::LeaseLost };
            statuses.extend(held.into_iter().map(status));
        }
        let lost = settled.iter().zip(&statuses).filter(|(_, status)| **status == SettleStatus::LeaseLost);
        let groups: BTreeSet<u32> = settled.iter().map(|one| one.token.group).collect();
        {
            let mut told = self.told.lock();
            for (one, _) in lost {
                *told.leases_lost.entry(one.token.group).or_default() += 1;
            }
        }
        self.wake.ring(&groups.into_iter().collect::<Vec<_>>());
        if !streams.is_empty() {
            self.wake.ring_streams(&self.registry, &streams.into_iter().collect::<Vec<_>>());
        }
        Ok(statuses)
    }

    async fn outputs(&self, outputs: &[(StreamName, Event)]) -> Result<Vec<(i32, EventRow)>> {
        check_outputs(outputs)?;
        let mut rows = Vec::with_capacity(outputs.len());
        for (name, event) in outputs {
            event.check()?;
            let head = self.stream_head(name).await?;
            rows.push((head.id.cast_signed(), EventRow::new(&self.key, event, self.window_mark(&head, event))));
        }
        Ok(rows)
    }

    async fn settle_row(&self, one: &Settled) -> Result<SettleRow> {
        let token = one.token;
        let mut row = SettleRow {
            group: token.group.cast_signed(),
            number: number(token.position),
            epoch: token.epoch.cast_signed(),
            owner: token.owner.cast_signed(),
            kind: "L",
            at: None,
            attempts: 0,
            crashes: 0,
            line: one.attempt.as_ref().map(line).unwrap_or_default(),
            dead: None,
            class: 0,
            message: String::new(),
            signature: String::new(),
            config: String::new(),
            outputs: Vec::new(),
        };
        match &one.settlement {
            Settlement::Done(outputs) => {
                row.kind = "D";
                row.outputs = self.outputs(outputs).await?;
            }
            Settlement::Skip => row.kind = "S",
            Settlement::Release => {}
            Settlement::RetryAt { at, attempts, crashes } => {
                row.kind = "R";
                row.at = Some(at.as_millis());
                row.attempts = i32::try_from(*attempts).unwrap_or(i32::MAX);
                row.crashes = i32::try_from(*crashes).unwrap_or(i32::MAX);
            }
            Settlement::Bury { failure, config } => {
                let group = self.registry.read().group_by_id(token.group);
                // Without its group nothing is held under it.
                if let Some(group) = group {
                    row.kind = "B";
                    row.dead = Some(self.dead_head(&group.spec.stream).await?.id.cast_signed());
                    row.class = i16::from(failure.class.code());
                    row.message = text(&failure.message);
                    row.signature = text(&signature(&failure.message));
                    row.config = text(config);
                }
            }
        }
        Ok(row)
    }
}
