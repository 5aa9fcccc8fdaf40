//! `tidegate outbox`: the table that a source `postgres_outbox` reads. It asks the database, and no node.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tidegate_core::names::ModuleName;
use tidegate_modules::{SourceConfig, source::postgres_outbox::OutboxConfig};

use super::preflight::usual;
use crate::{
    config::Config,
    exit::{Exit, Failed},
    ui::Ui,
};

/// Outbox tables.
#[derive(Debug, Subcommand)]
pub(super) enum Outbox {
    /// Print SQL that makes the table, or adds to one that is there what its relay needs; it may be run again.
    Ddl(Which),
    /// Tell whether the table fits, and what is missing; exit code 1 when the relay cannot work with it.
    Verify(Which),
    /// Show what waits in the table, how old it is, and which rows failed; exit code 1 when rows are parked.
    Status(Which),
}

/// Which outbox.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Configuration file; `tidegate.yaml` when there is one.
    config: Option<PathBuf>,
    /// Name of the source; needed when there are several.
    #[arg(long)]
    source: Option<ModuleName>,
}

impl Which {
    /// Returns the configuration, and the source that is meant.
    fn find(&self) -> Result<(Config, ModuleName, OutboxConfig), Failed> {
        let config = usual(self.config.as_deref())?;
        let outboxes = config.sources.iter().filter_map(|(name, source)| match source {
            SourceConfig::PostgresOutbox(outbox) => Some((name, outbox)),
            SourceConfig::Cron(_)
            | SourceConfig::File(_)
            | SourceConfig::Http(_)
            | SourceConfig::RedisList(_)
            | SourceConfig::Stdin(_)
            | SourceConfig::Stream(_) => None,
        });
        let meant: Vec<_> =
            outboxes.filter(|(name, _)| self.source.as_ref().is_none_or(|wanted| wanted == *name)).collect();
        let (name, outbox) = match meant.as_slice() {
            [(name, outbox)] => ((*name).clone(), (*outbox).clone()),
            [] => return Err(Failed::new(Exit::No, "the configuration has no such source of type postgres_outbox")),
            several => {
                let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
                return Err(Failed::new(Exit::Usage, format!("say which with --source: {}", names.join(", "))));
            }
        };
        Ok((config, name, outbox))
    }
}

impl Outbox {
    pub(super) fn run(self, ui: Ui) -> Result<(), Failed> {
        match self {
            Self::Ddl(which) => {
                ui.raw(which.find()?.2.ddl().as_bytes());
                Ok(())
            }
            Self::Verify(which) => looked::verify(&which, ui),
            Self::Status(which) => looked::status(&which, ui),
        }
    }
}

#[cfg(not(feature = "postgres"))]
mod looked {
    //! Without the feature there is nothing to look with.

    use super::{Exit, Failed, Ui, Which};

    pub(super) fn verify(_: &Which, _: Ui) -> Result<(), Failed> {
        Err(Failed::new(Exit::Usage, "this program is built without the feature postgres"))
    }

    pub(super) fn status(which: &Which, ui: Ui) -> Result<(), Failed> {
        verify(which, ui)
    }
}

#[cfg(feature = "postgres")]
mod looked {
    //! What the database says.

    use serde_json::{Value, json};
    use tidegate_core::{clock::Clock, notice::Notices, service};
    use tidegate_modules::source::postgres_outbox::{Survey, survey};

    use super::{
        super::{rows, wait},
        Exit, Failed, Ui, Which,
    };
    use crate::{
        ui::{Column, column},
        wire,
    };

    const FINDINGS: &[Column] = &[column("level", "/level"), column("what", "/what"), column("mend", "/mend")];

    const FAILED: &[Column] = &[
        column("id", "/id"),
        column("event", "/event_id"),
        column("state", "/state"),
        column("attempts", "/attempts"),
        column("next attempt", "/next_attempt_at"),
        column("error", "/error_message"),
    ];

    fn look(which: &Which) -> Result<Survey, Failed> {
        let (config, name, outbox) = which.find()?;
        let (stopper, stop) = service::stop();
        let cx = service::Context { clock: Clock::real(), stop, notices: Notices::default() };
        let guards = wire::guards(&config, &cx);
        let parts = config
            .sources
            .get(&name)
            .map(|source| wire::source_parts(&name, source, (&guards, &wire::beside::Engines::default()), &cx));
        let parts = parts.ok_or_else(|| Failed::new(Exit::Internal, "the source is gone"))?;
        let survey = wait(survey(&outbox, parts))?;
        drop(stopper);
        Ok(survey)
    }

    pub(super) fn verify(which: &Which, ui: Ui) -> Result<(), Failed> {
        let survey = look(which)?;
        let is_fit = !survey.findings.iter().any(|finding| finding.level == "error");
        let document = json!({ "ok": is_fit, "table": survey.table, "findings": survey.findings });
        if survey.findings.is_empty() {
            ui.line(&format!("table {} fits", survey.table));
        }
        if ui.is_json() || !survey.findings.is_empty() {
            ui.list(&document, rows(&document, "findings"), FINDINGS);
        }
        if is_fit { Ok(()) } else { Err(Failed::new(Exit::No, format!("table {} does not fit", survey.table))) }
    }

    pub(super) fn status(which: &Which, ui: Ui) -> Result<(), Failed> {
        let survey = look(which)?;
        let Some(figures) = &survey.figures else {
            let wrong = survey.findings.iter().find(|finding| finding.level == "error");
            let wrong = wrong.map_or_else(String::new, |wrong| format!(": {}: {}", wrong.what, wrong.mend));
            return Err(Failed::new(Exit::No, format!("table {} does not fit{wrong}", survey.table)));
        };
        let mut document = json!({ "table": survey.table, "relay": survey.relay });
        if let (Value::Object(all), Ok(Value::Object(counted))) = (&mut document, serde_json::to_value(figures)) {
            all.extend(counted);
        }
        if ui.is_json() {
            document["failed"] = json!(survey.failed);
            ui.json(&document);
        } else {
            ui.record(&document);
            if !survey.failed.is_empty() {
                let failed = json!({ "failed": survey.failed });
                ui.list(&failed, rows(&failed, "failed"), FAILED);
            }
        }
        match figures.parked {
            0 => Ok(()),
            parked => Err(Failed::new(Exit::No, format!("{parked} rows are parked"))),
        }
    }
}
