//! The page of metrics: what was counted, and what is looked up now.

use std::sync::Arc;

use tidegate_core::{
    clock::Timestamp,
    fault::Result,
    guard::BreakerState,
    store::{GroupStatus, SYNC_BOUNDS, StoreStatus, StreamStatus},
};

use super::{catalogue, counts::Counts, process::ProcessFacts, text::Page};
use crate::{api::Api, health, profile::Mounted, system::DiskFacts};

/// Writes the page, with the other names and the figures of a profile.
pub(crate) async fn page(api: &Arc<Api>, mounted: Option<&Mounted>) -> Result<String> {
    let mut page = Page::with(mounted.map_or(&[], |mounted| mounted.profile.aliases));
    page.family(&catalogue::BUILD_INFO).sample(&[&api.node.version], 1);
    page.family(&catalogue::CONFIG_INFO).sample(&[&api.config], 1);
    // Whoever scrapes while the store is away needs all the rest the more. What was told before is not told again: it is
    // old.
    let told = told(api).await;
    page.family(&catalogue::STORE_ANSWERS).sample(&[], u8::from(told.is_ok()));
    if let Ok((all_streams, all_groups)) = &told {
        for group in all_groups {
            api.metrics.know(&group.stream, &group.name);
        }
        streams(all_streams, all_groups, &mut page);
        groups(all_groups, &mut page);
    }
    page.family(&catalogue::INTAKE_PAUSED).sample(&[], u8::from(api.publisher.paused().is_some()));
    api.metrics.write(&mut page);
    outboxes(api, &mut page);
    queues(api, &mut page);
    breakers(api, &mut page);
    store(&api.store.status(), &mut page);
    let mut family = page.family(&catalogue::HTTP_REQUESTS);
    for (class, count) in api.requests.each() {
        family.sample(&[class], count);
    }
    page.family(&catalogue::WAITING_REQUESTS).sample(&[], api.waiters.count() as u64);
    let mut family = page.family(&catalogue::LAST_PROGRESS);
    for (component, at) in health::progress(api) {
        family.sample(&[&component], seconds(at));
    }
    let mut family = page.family(&catalogue::DATA_DISK);
    if let Some(disk) = api.data.as_deref().and_then(DiskFacts::read) {
        family.sample(&["size"], disk.size_bytes);
        family.sample(&["free"], disk.free_bytes);
    }
    process(&mut page);
    let figures = match mounted {
        Some(Mounted { profile, group }) => (profile.count)(Arc::clone(api), group.clone()).await?,
        None => Vec::new(),
    };
    Ok(page.finish(&figures))
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millis() as f64 / 1000.0
}

/// What the store tells of its streams and groups.
async fn told(api: &Api) -> Result<(Vec<StreamStatus>, Vec<GroupStatus>)> {
    let groups = api.store.groups().await?;
    Ok((api.store.streams().await?, groups))
}

fn streams(all: &[StreamStatus], groups: &[GroupStatus], page: &mut Page) {
    let streams: Vec<_> = all.iter().filter(|stream| !stream.name.is_dead_letters()).collect();
    let mut family = page.family(&catalogue::MESSAGES_ACCEPTED);
    for stream in &streams {
        family.sample(&[stream.name.as_str()], stream.accepted);
    }
    let mut family = page.family(&catalogue::MESSAGES_DUPLICATE);
    for stream in &streams {
        family.sample(&[stream.name.as_str()], stream.duplicates);
    }
    let mut family = page.family(&catalogue::STREAM_EVENTS);
    for stream in &streams {
        family.sample(&[stream.name.as_str()], stream.count);
    }
    let mut family = page.family(&catalogue::STREAM_BACKLOG);
    for stream in &streams {
        family.sample(&[stream.name.as_str()], stream.backlog);
    }
    let mut family = page.family(&catalogue::STREAM_BACKLOG_RATIO);
    for stream in &streams {
        let ratio = stream.max_backlog.map_or(0.0, |most| stream.backlog as f64 / most.max(1) as f64);
        family.sample(&[stream.name.as_str()], ratio);
    }
    let mut family = page.family(&catalogue::STREAM_OVERDUE);
    for stream in &streams {
        family.sample(&[stream.name.as_str()], stream.overdue);
    }
    let mut family = page.family(&catalogue::DEAD_LETTERS);
    for group in groups {
        family.sample(&[group.stream.as_str(), group.name.as_str()], group.parked);
    }
}

fn groups(groups: &[GroupStatus], page: &mut Page) {
    let mut family = page.family(&catalogue::GROUP_MESSAGES);
    for group in groups {
        let name = group.name.as_str();
        family.sample(&[name, "waiting"], group.waiting);
        family.sample(&[name, "scheduled"], group.scheduled);
        family.sample(&[name, "in_flight"], group.in_flight);
    }
    let mut family = page.family(&catalogue::MESSAGES_DROPPED);
    for group in groups {
        family.sample(&[group.name.as_str()], group.dropped);
    }
    let mut family = page.family(&catalogue::GROUP_OLDEST_WAITING);
    for group in groups {
        family.sample(&[group.name.as_str()], group.oldest_waiting.unwrap_or_default().as_secs_f64());
    }
    let mut family = page.family(&catalogue::GROUP_BLOCKED);
    for group in groups {
        family.sample(&[group.name.as_str()], group.blocked);
    }
    let mut family = page.family(&catalogue::GROUP_OLDEST_BLOCKED);
    for group in groups {
        family.sample(&[group.name.as_str()], group.oldest_blocked.unwrap_or_default().as_secs_f64());
    }
    let mut family = page.family(&catalogue::LEASES_LOST);
    for group in groups {
        family.sample(&[group.name.as_str()], group.leases_lost);
    }
    let missing: u64 = groups.iter().map(|group| group.difference().unsigned_abs()).sum();
    page.family(&catalogue::UNACCOUNTED).sample(&[], missing);
}

/// Writes what sources over an outbox know of it; nothing before they have counted.
fn outboxes(api: &Api, page: &mut Page) {
    let modules = api.modules.list().unwrap_or_default();
    let known: Vec<_> =
        modules.iter().filter_map(|one| Some((one.name.as_str(), one.details.get("outbox")?))).collect();
    let families = [
        (&catalogue::OUTBOX_BACKLOG, "backlog"),
        (&catalogue::OUTBOX_BACKING_OFF, "backing_off"),
        (&catalogue::OUTBOX_PARKED, "parked"),
        (&catalogue::OUTBOX_OLDEST, "oldest_age_seconds"),
        (&catalogue::OUTBOX_LAG, "lag_seconds"),
    ];
    for (spec, key) in families {
        let mut family = page.family(spec);
        for (source, value) in known.iter().filter_map(|(source, outbox)| Some((source, outbox.get(key)?.as_f64()?))) {
            family.sample(&[source], value);
        }
    }
    let mut family = page.family(&catalogue::OUTBOX_COUNTED);
    for (source, at) in known.iter().filter_map(|(source, outbox)| Some((source, outbox.get("counted_at")?.as_str()?)))
    {
        if let Ok(at) = Timestamp::parse(at) {
            family.sample(&[source], seconds(at));
        }
    }
}

/// Writes what sources know of the queues of others; nothing before they have looked, and nothing that is old because the
/// server does not answer.
fn queues(api: &Api, page: &mut Page) {
    let modules = api.modules.list().unwrap_or_default();
    let mut family = page.family(&catalogue::QUEUE_DEPTH);
    for queue in modules.iter().filter_map(|one| one.details.get("queue")).filter(|queue| queue["fault"].is_null()) {
        if let (Some(name), Some(depth)) = (queue["name"].as_str(), queue["depth"].as_u64()) {
            family.sample(&[name], depth);
        }
    }
}

fn breakers(api: &Api, page: &mut Page) {
    let mut family = page.family(&catalogue::BREAKER_STATE);
    for guard in &api.guards {
        let now = guard.view().breaker.state;
        for state in BreakerState::ALL {
            family.sample(&[guard.target().as_str(), state.as_str()], u8::from(state == now));
        }
    }
}

fn store(status: &StoreStatus, page: &mut Page) {
    let counts = &status.sync_counts;
    let buckets =
        SYNC_BOUNDS.iter().enumerate().map(|(index, bound)| (*bound, counts.get(index).copied().unwrap_or(0)));
    let counts = Counts {
        buckets: buckets.collect(),
        above: counts.get(SYNC_BOUNDS.len()).copied().unwrap_or(0),
        sum: status.sync_time.as_secs_f64(),
    };
    page.family(&catalogue::STORE_SYNC).histogram(&[], &counts);
    let mut family = page.family(&catalogue::STORE_BYTES);
    for (what, bytes) in &status.bytes {
        family.sample(&[what], bytes);
    }
}

fn process(page: &mut Page) {
    let facts = ProcessFacts::read();
    let mut sample = |spec, value: Option<f64>| {
        if let Some(value) = value {
            page.family(spec).sample(&[], value);
        }
    };
    let whole = |value: Option<u64>| value.map(|value| value as f64);
    sample(&catalogue::PROCESS_CPU, facts.cpu_seconds);
    sample(&catalogue::PROCESS_RESIDENT, whole(facts.resident_bytes));
    sample(&catalogue::PROCESS_VIRTUAL, whole(facts.virtual_bytes));
    sample(&catalogue::PROCESS_OPEN_FDS, whole(facts.open_files));
    sample(&catalogue::PROCESS_MAX_FDS, whole(facts.max_files));
    sample(&catalogue::PROCESS_START, facts.started_at);
}
