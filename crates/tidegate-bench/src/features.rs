//! `tidegate-bench features`: what limiter, breaker, ledger, order key, dedupe, expression and schema cost on the path
//! of a message: in process, where every microsecond shows, and with `--whole` on a node.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use async_trait::async_trait;
use clap::Args;
use serde_json::{Value, json};
use tidegate_core::{
    clock::Clock,
    delivery::{Delivery, Outcome},
    guard::{Guard, GuardPolicy, Rate},
    handler::Handler,
    names::TargetName,
    notice::Notices,
    service::Context,
};
use tidegate_rules::{Schema, Stage as Rule, Stages};

use crate::{
    Settings,
    board::{Board, Sense},
    bodies::Bodies,
    engine::{self, Crew, Works},
    engine_runs::{PROBE, open, repeat},
    http::{EVENTS, Post},
    http_runs::{deliver, to_webhook},
    node::with_stream,
    peer::{Peer, Serve},
    process::cpu_seconds,
    stage::{Stage, group_spec, stream_spec},
};

#[derive(Debug, Args)]
pub(crate) struct Features {
    #[command(flatten)]
    settings: Settings,
    /// Publishers side by side.
    #[arg(long, default_value_t = 64)]
    publishers: usize,
    /// Workers of the group, each with one delivery at a time.
    #[arg(long, default_value_t = 64)]
    workers: usize,
    /// Only these sets of features; without any, all of them.
    #[arg(long = "set", value_name = "NAME")]
    sets: Vec<String>,
    /// Events are spread over so many order keys.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// On a whole node, from HTTP to a webhook: nothing that can be off, and everything at once.
    #[arg(long)]
    whole: bool,
}

/// What is switched on.
#[derive(Debug, Clone, Copy, Default)]
struct Switches {
    dedupe: bool,
    ledger: bool,
    order: bool,
    breaker: bool,
    limiter: bool,
    expression: bool,
    schema: bool,
}

const OFF: Switches = Switches {
    dedupe: false,
    ledger: false,
    order: false,
    breaker: false,
    limiter: false,
    expression: false,
    schema: false,
};

/// A condition that looks into the data, as a filter usually does; it lets every event of the run through.
const CONDITION: &str = "type.startsWith('bench.') && data.total >= 0 && data.customer.id != ''";

/// Each feature alone, then all together. The limiter is part of a guard, so it comes with the breaker.
const SETS: [(&str, Switches); 9] = [
    ("none", OFF),
    ("dedupe", Switches { dedupe: true, ..OFF }),
    ("ledger", Switches { ledger: true, ..OFF }),
    ("order key", Switches { order: true, ..OFF }),
    ("breaker", Switches { breaker: true, ..OFF }),
    ("breaker + limiter", Switches { breaker: true, limiter: true, ..OFF }),
    ("expression", Switches { expression: true, ..OFF }),
    ("schema", Switches { schema: true, ..OFF }),
    (
        "all",
        Switches {
            dedupe: true,
            ledger: true,
            order: true,
            breaker: true,
            limiter: true,
            expression: true,
            schema: true,
        },
    ),
];

/// Takes one delivery at a time and does nothing with it, through a guard when there is one.
struct Through(Option<Arc<Guard>>);

#[async_trait]
impl Handler for Through {
    async fn handle(&self, _: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        let Some(guard) = &self.0 else { return vec![Outcome::DONE; batch.len()] };
        let retry = batch.first().is_some_and(|delivery| delivery.attempt > 1);
        let called = guard.call(retry, std::future::ready(Ok(()))).await;
        vec![called.map_or_else(Outcome::Failed, |()| Outcome::DONE); batch.len()]
    }

    fn guard(&self) -> Option<Arc<Guard>> {
        self.0.clone()
    }

    fn in_process(&self) -> bool {
        false
    }
}

fn guard(switches: Switches, workers: usize) -> Result<Option<Arc<Guard>>> {
    if !switches.breaker {
        return Ok(None);
    }
    // So high that it never holds anything back: what is measured is the looking.
    let rate = switches.limiter.then_some(Rate { count: 10_000_000, per: Duration::from_secs(1) });
    let policy = GuardPolicy { concurrency: workers, rate, ..GuardPolicy::default() };
    Ok(Some(Guard::new(TargetName::new("local")?, policy, Clock::real(), Notices::default())))
}

fn stages(switches: Switches) -> Result<Stages> {
    let filter = switches.expression.then(|| CONDITION.parse().map(Rule::Where)).transpose()?;
    Ok(Stages::new(filter.into_iter().collect()))
}

async fn run_one(stage: &Stage, ask: &Features, switches: Switches, board: &mut Board, name: &str) -> Result<()> {
    let mut stream = stream_spec("events");
    stream.dedupe = stream.dedupe.filter(|_| switches.dedupe);
    let mut group = group_spec("work", "events");
    group.ledger = group.ledger.filter(|_| switches.ledger);
    group.order_by = switches.order.then(|| "subject".parse()).transpose()?;
    stage.store.declare_stream(&stream).await?;
    let handler = Arc::new(Through(guard(switches, ask.workers)?));
    let crew = Crew { spec: group, workers: ask.workers, handler, stages: stages(switches)? };
    let works = Works::start(&stage.store, Notices::default(), crew).await?;
    if switches.schema {
        let schema = Schema::compile(&shape())?;
        works.publisher.ask_for([(stream.name.clone(), schema)].into())?;
    }
    let bodies = Bodies::new(ask.settings.size).keyed(ask.keys).json();
    let before = cpu_seconds(std::process::id())?;
    let rate = engine::end_to_end(&stage.store, &works, &bodies, ask.publishers, ask.settings.time()).await?;
    let cpu = cpu_seconds(std::process::id())? - before;
    works.stop().await?;
    board.add(name, "1/s", rate.per_second());
    board.add(&processor(name), "µs/msg", cpu * 1e6 / rate.count.max(1) as f64);
    Ok(())
}

/// The schema that the data must fit.
fn shape() -> Value {
    json!({
        "type": "object",
        "required": ["total", "customer"],
        "properties": {
            "total": {"type": "integer", "minimum": 0},
            "customer": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
        },
    })
}

/// Measures nothing that can be off and everything at once, on nodes that are the same otherwise.
fn on_a_node(ask: &Features, board: &mut Board, run: usize) -> Result<()> {
    let schema = format!("max_backlog: off, schema: {{ inline: {} }}", shape());
    let all = format!("order_by: subject, where: \"{CONDITION}\", ");
    let sets = [
        ("none", "max_backlog: off, dedupe: off", "ledger: off, ", ""),
        ("all", schema.as_str(), all.as_str(), ", rate: 1000000/s"),
    ];
    for (name, stream, group, target) in sets.into_iter().cycle().skip(run).take(sets.len()) {
        let receiver = Peer::start(&Serve::Bare { threads: 1 })?;
        let (group, targets) = to_webhook(group, ask.workers, receiver.address, target);
        let dialogs = (0..ask.publishers).map(|number| Post::json(EVENTS, ask.settings.size, number)).collect();
        deliver(board, &ask.settings, name, &with_stream(stream, &group, &targets), dialogs)?;
    }
    Ok(())
}

fn processor(name: &str) -> String {
    format!("{name}: processor")
}

impl Features {
    pub(crate) fn run(&self) -> Result<()> {
        let settings = &self.settings;
        let mut board = open("features", settings);
        let runtime = settings.runtime()?;
        repeat(&mut board, settings, |board, run| {
            if self.whole {
                return on_a_node(self, board, run);
            }
            // Each run begins with another set, so that none is always the first.
            let wanted = |(name, _): &(&str, Switches)| self.sets.is_empty() || self.sets.iter().any(|set| set == name);
            for (name, switches) in SETS.into_iter().cycle().skip(run).take(SETS.len()).filter(wanted) {
                let stage = Stage::open(&settings.dir)?;
                runtime.block_on(run_one(&stage, self, switches, board, name))?;
            }
            Ok(())
        })?;
        let measured = |(name, _): &(&str, Switches)| !self.whole || *name == "all";
        for (name, _) in SETS.into_iter().skip(1).filter(measured) {
            board.add_change(&format!("{name}: rate lost"), name, SETS[0].0, -1.0);
            board.add_change(&format!("{name}: processor time added"), &processor(name), &processor(SETS[0].0), 1.0);
        }
        let most = Some(15.0);
        board.expect("cost of all features, rate", "all: rate lost", Sense::AtMost, 30.0, most);
        let name = "cost of all features, processor time";
        board.expect(name, "all: processor time added", Sense::AtMost, 30.0, most);
        board.note(match self.whole {
            true => "from HTTP until the last webhook is settled; a target always has a breaker, so both have it",
            false => "end to end in process, one delivery per call of the handler; the limiter comes with the breaker",
        });
        board.print(PROBE);
        Ok(())
    }
}
