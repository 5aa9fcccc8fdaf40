//! Every limit of the product in one place, with the relations between them checked at compile time.
//!
//! The page `docs/reference/limits.md` is generated from [`ALL`].

use std::time::Duration;

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $ty:ty = $value:expr, $unit:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: $ty = $value;)+

        /// One row of the generated page of limits.
        #[derive(Debug, Clone, Copy)]
        pub struct Limit {
            /// Constant's name.
            pub name: &'static str,
            /// Its value in `unit`.
            pub value: u64,
            /// Unit of `value`.
            pub unit: &'static str,
            /// What it bounds.
            pub about: &'static str,
        }

        /// All limits, in the order of this file.
        pub const ALL: &[Limit] = &[
            $(Limit { name: stringify!($name), value: $name as u64, unit: $unit, about: concat!($($doc, " "),+) },)+
        ];
    };
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

limits! {
    /// Longest name of a stream, group, target or module.
    NAME_BYTES_MAX: usize = 128, "bytes";
    /// Largest stored event: attributes and data together.
    EVENT_BYTES_MAX: usize = MIB, "bytes";
    /// Longest single CloudEvents attribute value.
    ATTRIBUTE_BYTES_MAX: usize = 4 * KIB, "bytes";
    /// Most CloudEvents extension attributes on one event.
    EXTENSIONS_MAX: usize = 64, "attributes";
    /// Most events in one publish request.
    BATCH_EVENTS_MAX: usize = 10_000, "events";
    /// Largest body of a publish request.
    BODY_BYTES_MAX: usize = 4 * MIB, "bytes";
    /// Largest atomic step of the store: a batch of events, or settlements with their dead letters and outputs.
    STEP_BYTES_MAX: usize = 5 * MIB, "bytes";
    /// Deepest nesting of JSON that is accepted at the edge.
    JSON_DEPTH_MAX: usize = 64, "levels";
    /// Largest header section of a request.
    HEADER_BYTES_MAX: usize = 32 * KIB, "bytes";
    /// Most headers of a request.
    HEADERS_MAX: usize = 100, "headers";
    /// Most connections that one listener holds at once.
    CONNECTIONS_MAX: usize = 4096, "connections";
    /// Longest time in which a client must deliver the head of a request, in seconds.
    HEADER_READ_SECONDS: u64 = 10, "seconds";
    /// Longest time that one API request may take, long polls aside, in seconds.
    REQUEST_SECONDS_MAX: u64 = 60, "seconds";
    /// Most words of one request of the Redis protocol.
    RESP_WORDS_MAX: usize = 20_480, "words";
    /// Longest time that a connection of the Redis protocol may be kept open without a request.
    RESP_IDLE_SECONDS_MAX: u64 = 3600, "seconds";
    /// Longest wait of a long poll.
    CLAIM_WAIT_SECONDS_MAX: u64 = 30, "seconds";
    /// Most deliveries lent by one claim.
    CLAIM_MAX: usize = 1_000, "deliveries";
    /// Most bytes of events lent by one claim; at least one delivery is lent whatever its size.
    CLAIM_BYTES_MAX: usize = 8 * MIB, "bytes";
    /// Most settlements in one request.
    SETTLE_MAX: usize = 10_000, "settlements";
    /// Most workers of one group.
    WORKERS_MAX: usize = 4_096, "workers";
    /// Most deliveries of one group that may be lent at a time.
    IN_FLIGHT_MAX: usize = 65_536, "deliveries";
    /// Most deliveries of one group that may wait in memory behind a busy order key, for other events to be done, or for
    /// their turn by priority, before the group stops looking further; one that waits for several events counts as often.
    ORDER_LOOKAHEAD_MAX: usize = 65_536, "deliveries";
    /// Most events that one event may wait for with its attribute `after`.
    AFTER_MAX: usize = 64, "events";
    /// Highest priority of an event.
    PRIORITY_MAX: u8 = 9, "steps above 0";
    /// Longest time of waiting that one step of priority may be worth.
    PRIORITY_STEP_SECONDS_MAX: u64 = 30 * 86_400, "seconds";
    /// Longest and shortest lease, in seconds.
    LEASE_SECONDS_MAX: u64 = 12 * 3600, "seconds";
    /// Most attempts a policy may ask for.
    ATTEMPTS_MAX: u32 = 1_000, "attempts";
    /// Attempts whose time and message are kept with a delivery; older ones are only counted.
    HISTORY_MAX: usize = 20, "attempts";
    /// Longest stored fault message; the rest is cut.
    FAULT_BYTES_MAX: usize = 1024, "bytes";
    /// Crashes of a handler on one delivery before it is quarantined in the dead letters.
    CRASHES_MAX: u32 = 3, "crashes";
    /// Most entries answered by one list request.
    PAGE_MAX: usize = 1_000, "entries";
    /// Most bytes of one group commit.
    COMMIT_BYTES_MAX: usize = MIB, "bytes";
    /// Most operations that may wait for the next commit before callers are held back.
    COMMIT_QUEUE_MAX: usize = 65_536, "operations";
    /// Smallest segment of the journal.
    SEGMENT_BYTES_MIN: usize = 8 * MIB, "bytes";
    /// Largest segment of the journal.
    SEGMENT_BYTES_MAX: usize = 64 * MIB, "bytes";
    /// Recently written journal bytes that are kept in memory for readers at the tail.
    TAIL_CACHE_BYTES: usize = 16 * MIB, "bytes";
    /// Fingerprints of one ledger that are held in memory before they are sealed into a run on disk.
    LEDGER_ACTIVE_MAX: usize = 131_072, "entries";
    /// Free disk space under which publishes are refused while settling goes on.
    DISK_RESERVE_BYTES: usize = 128 * MIB, "bytes";
    /// Longest body that is read from the answer of an outside target.
    ANSWER_BYTES_MAX: usize = 64 * KIB, "bytes";
    /// Longest time in which an outside target must take a connection.
    CONNECT_SECONDS_MAX: u64 = 5, "seconds";
    /// Longest wait that an outside target may ask for; a longer one is cut.
    RETRY_AFTER_SECONDS_MAX: u64 = 3600, "seconds";
    /// Largest answer of a handler that is kept as the result of an event.
    RESULT_BYTES_MAX: usize = 256 * KIB, "bytes";
    /// Most results that one group may keep.
    RESULTS_MAX: u64 = 10_000_000, "results";
    /// Newest events and results of a stream that are looked at for a result whose source is not said.
    RESULT_LOOK_MAX: u64 = 10_000, "events";
    /// Most requests that wait for the result of an event at a time.
    WAITERS_MAX: usize = 1_024, "requests";
    /// Most dead letters that one reprocess, resolve or discard request moves in one atomic step.
    DEAD_STEP_MAX: usize = 500, "entries";
    /// Most kept events that a search for one by its id looks at.
    FIND_LOOK_MAX: u64 = 200_000, "events";
    /// Most places of one event that a search answers.
    FIND_PLACES_MAX: usize = 32, "places";
    /// Most bytes of the journal that are read to tell the life of one event.
    STEPS_BYTES_MAX: usize = 64 * MIB, "bytes";
    /// Most requests at a time whose answers go on until the client leaves: `subscribe` and `logs --follow`.
    FOLLOWERS_MAX: usize = 64, "requests";
    /// Most notices that wait for one subscriber; what comes then is dropped for it and counted.
    FOLLOWER_QUEUE_MAX: usize = 1_024, "notices";
    /// Largest file of the node's own log before the next one is begun.
    LOG_FILE_BYTES_MAX: usize = 8 * MIB, "bytes";
    /// Most such files that are kept.
    LOG_FILES_MAX: usize = 8, "files";
    /// Most hours whose figures are kept for the report on performance.
    REPORT_HOURS_MAX: usize = 168, "hours";
    /// Slowest attempts that are kept by name, for each group and hour.
    SLOWEST_MAX: usize = 5, "attempts";
    /// Longest expression.
    EXPRESSION_BYTES_MAX: usize = 4 * KIB, "bytes";
    /// Deepest nesting of an expression.
    EXPRESSION_DEPTH_MAX: usize = 64, "levels";
    /// Most steps of one run of an expression; what it reads, copies or compares counts by its size.
    EXPRESSION_STEPS_MAX: usize = 1_000_000, "steps";
    /// Longest signature of a fault message; the rest is cut.
    SIGNATURE_BYTES_MAX: usize = 256, "bytes";
    /// Most different signatures, and most different event types, that the dead letters of one stream are counted by;
    /// further ones are counted together.
    DEAD_WORDS_MAX: usize = 10_000, "words";
    /// Most dead letters that one request may name.
    DEAD_IDS_MAX: usize = 10_000, "entries";
    /// Most jobs on dead letters that run at a time.
    DEAD_JOBS_MAX: usize = 16, "jobs";
    /// Ended jobs on dead letters that are remembered.
    DEAD_JOBS_KEPT: usize = 100, "jobs";
    /// Most reprocessed dead letters of one job whose outcome is waited for at a time.
    DEAD_FOLLOWED_MAX: usize = 1_000, "entries";
    /// Most side groups at a time.
    SIDE_GROUPS_MAX: usize = 16, "groups";
    /// Most fires of a `cron` source that are made up for after a stop.
    CRON_MISSED_MAX: usize = 1_000, "fires";
    /// Most events that a worker of an `exec` sink is given at a time.
    EXEC_BATCH_MAX: usize = 256, "events";
    /// Most bytes that a program of an `exec` sink may write to standard output for one event.
    EXEC_OUTPUT_BYTES_MAX: usize = 64 * MIB, "bytes";
    /// Longest `data` of the events of a `cron` source, as JSON.
    CRON_DATA_BYTES_MAX: usize = 64 * KIB, "bytes";
    /// Most rows that a `postgres_outbox` source takes at a time.
    OUTBOX_BATCH_MAX: usize = 5_000, "rows";
    /// Longest time that a drain may be given.
    DRAIN_SECONDS_MAX: u64 = 24 * 3600, "seconds";
    /// Most kept events that a seek to an event looks at to find it.
    SCAN_EVENTS_MAX: u64 = 10_000_000, "events";
    /// Largest schema of a stream.
    SCHEMA_BYTES_MAX: usize = 64 * KIB, "bytes";
    /// Most violations of a schema that are listed for one event.
    VIOLATIONS_MAX: usize = 100, "violations";
    /// Most stages of one group.
    STAGES_MAX: usize = 32, "stages";
    /// Largest configuration file.
    CONFIG_BYTES_MAX: usize = MIB, "bytes";
    /// Deepest nesting of a configuration file, aliases resolved.
    CONFIG_DEPTH_MAX: usize = 64, "levels";
    /// Most keys and values of a configuration file, aliases resolved.
    CONFIG_NODES_MAX: usize = 100_000, "values";
    /// Most mistakes of one configuration file that are reported at once.
    CONFIG_ERRORS_MAX: usize = 50, "mistakes";
}

/// Time in which a client must deliver the head of a request.
pub const HEADER_READ: Duration = Duration::from_secs(HEADER_READ_SECONDS);
/// Longest time that a drain may be given.
pub const DRAIN_MAX: Duration = Duration::from_secs(DRAIN_SECONDS_MAX);
/// Longest wait of a long poll.
pub const CLAIM_WAIT_MAX: Duration = Duration::from_secs(CLAIM_WAIT_SECONDS_MAX);

const _: () = assert!(EVENT_BYTES_MAX <= BODY_BYTES_MAX);
const _: () = assert!(ATTRIBUTE_BYTES_MAX * 4 <= EVENT_BYTES_MAX);
const _: () = assert!(RESULT_BYTES_MAX + 8 * ATTRIBUTE_BYTES_MAX <= EVENT_BYTES_MAX, "a result must fit an event");
const _: () =
    assert!(STEP_BYTES_MAX + 2 * COMMIT_BYTES_MAX < SEGMENT_BYTES_MIN, "a commit must fit the smallest segment");
const _: () = assert!(BODY_BYTES_MAX + 64 * BATCH_EVENTS_MAX <= STEP_BYTES_MAX, "a request must fit one step");
const _: () = assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_MAX);
const _: () = assert!(CLAIM_WAIT_SECONDS_MAX < REQUEST_SECONDS_MAX, "a long poll must fit a request");
const _: () = assert!(CLAIM_MAX <= IN_FLIGHT_MAX);
const _: () = assert!(2 * WAITERS_MAX <= CONNECTIONS_MAX, "who waits must not keep everybody else out");
const _: () = assert!(DEAD_STEP_MAX <= PAGE_MAX);
