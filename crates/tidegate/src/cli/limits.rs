//! `tidegate limits`: how much each target may be sent, as names and values.

use clap::Subcommand;
use serde_json::{Value, json};
use tidegate_core::config::RateText;

use super::{Asking, Because};
use crate::{
    exit::Failed,
    ui::{Column, column},
};

const COLUMNS: &[Column] = &[
    column("target", "/name"),
    column("rate", "/rate/limit"),
    column("share", "/rate/share"),
    column("concurrency", "/concurrency/limit"),
];

/// Limits of targets.
#[derive(Debug, Subcommand)]
pub(super) enum Limits {
    /// List them; the share is what this node may use of a rate that several nodes share.
    List,
    /// Change them, at once and over restarts, until those in the configuration change: `rate=20 period=1s concurrency=4`.
    /// What is not named goes back to the configuration.
    Set {
        /// Target.
        name: String,
        /// `rate=CALLS`, `period=TIME` (one second when absent) and `concurrency=CALLS`.
        #[arg(value_name = "LIMIT=VALUE", required = true)]
        limits: Vec<String>,
        #[command(flatten)]
        because: Because,
    },
}

impl Limits {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        match self {
            Self::List => {
                let answer = cx.node.get(&["v1", "targets"], &[]).await?;
                cx.ui.list(&answer, super::rows(&answer, "targets"), COLUMNS);
            }
            Self::Set { name, limits, because } => {
                let mut ask = ask_for(&limits).map_err(Failed::usage)?;
                ask["reason"] = because.reason.into();
                let answer = cx.node.post(&["v1", "targets", &name, "limit"], &ask).await?;
                cx.ui.list(&answer, std::slice::from_ref(&answer["target"]), COLUMNS);
            }
        }
        Ok(())
    }
}

fn ask_for(limits: &[String]) -> Result<Value, String> {
    let (mut rate, mut period, mut concurrency) = (None, None, None);
    for limit in limits {
        let (name, value) = limit.split_once('=').ok_or_else(|| format!("{limit:?} is not LIMIT=VALUE"))?;
        let slot = match name {
            "rate" => &mut rate,
            "period" => &mut period,
            "concurrency" => &mut concurrency,
            _ => return Err(format!("there is no limit {name:?}: rate, period and concurrency are known")),
        };
        if slot.replace(value).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    let rate = match (rate, period) {
        (None, None) => None,
        (None, Some(_)) => return Err("period is that of a rate: give rate too".to_owned()),
        (Some(rate), None) if rate.contains('/') => Some(rate.to_owned()),
        (Some(rate), period) => Some(format!("{rate}/{}", period.unwrap_or("1s"))),
    };
    let rate = rate.map(|rate| rate.parse::<RateText>().map_err(|fault| fault.note().to_owned())).transpose()?;
    let concurrency = concurrency
        .map(|calls| calls.parse::<u32>().map_err(|_| format!("concurrency={calls}: a number of calls is needed")))
        .transpose()?;
    Ok(json!({ "rate": rate.map(|rate| rate.to_string()), "concurrency": concurrency }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_said() {
        let check = |given: &str, expect: Result<(Value, Value), &str>| {
            let given: Vec<String> = given.split(' ').map(str::to_owned).collect();
            match (ask_for(&given), expect) {
                (Ok(ask), Ok((rate, concurrency))) => {
                    assert_eq!((&ask["rate"], &ask["concurrency"]), (&rate, &concurrency))
                }
                (Err(said), Err(word)) => assert!(said.contains(word), "{said}"),
                (ask, _) => panic!("{given:?}: {ask:?}"),
            }
        };
        check("rate=20 period=1s", Ok(("20/s".into(), Value::Null)));
        check("period=10s rate=20 concurrency=3", Ok(("20/10s".into(), 3.into())));
        check("rate=5/m", Ok(("5/m".into(), Value::Null)));
        check("concurrency=2", Ok((Value::Null, 2.into())));
        check("period=1s", Err("give rate too"));
        check("rate=20 rate=10", Err("twice"));
        check("speed=20", Err("no limit \"speed\""));
        check("rate=0", Err("not a rate"));
        check("rate", Err("LIMIT=VALUE"));
        check("concurrency=many", Err("number of calls"));
    }
}
