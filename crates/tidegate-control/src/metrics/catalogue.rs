//! Every metric of the product: name, kind, labels and meaning. The page of metrics is written from this list only.

/// What a metric measures and how.
#[derive(Debug)]
pub struct MetricSpec {
    /// Name.
    pub name: &'static str,
    /// Kind.
    pub kind: MetricKind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// The three kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows while the node runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl MetricKind {
    /// Returns the word of the text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! catalogue {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(crate) const $constant: MetricSpec =
            MetricSpec { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help };)+

        /// All metrics, in the order of the page.
        pub(crate) const ALL: &[MetricSpec] = &[$($constant),+];
    };
}

catalogue! {
    BUILD_INFO: Gauge "tidegate_build_info" ["version"] "Always 1; the label says what runs.";
    CONFIG_INFO: Gauge "tidegate_config_info" ["fingerprint"] "Always 1; the label is the fingerprint of the configuration in force.";
    MESSAGES_ACCEPTED: Counter "tidegate_messages_accepted_total" ["stream"] "Events ever accepted by a stream.";
    MESSAGES_DUPLICATE: Counter "tidegate_messages_duplicate_total" ["stream"] "Publishes answered as duplicates since the start.";
    MESSAGES_REFUSED: Counter "tidegate_messages_refused_total" ["stream"] "Publishes that a stream did not take since the start.";
    MESSAGES_SETTLED: Counter "tidegate_messages_settled_total" ["group", "outcome"] "Deliveries settled by a group since the start.";
    ATTEMPTS: Counter "tidegate_attempts_total" ["group", "result", "class"] "Attempts that ended since the start, by result and class of fault.";
    GROUP_MESSAGES: Gauge "tidegate_group_messages" ["group", "state"] "Events of a group that are not settled, by state.";
    MESSAGES_DROPPED: Counter "tidegate_messages_dropped_total" ["group"] "Events removed by policy, or lost to damage, before the group had settled them.";
    STREAM_BACKLOG: Gauge "tidegate_stream_backlog" ["stream"] "Unsettled events of the slowest group of a stream.";
    STREAM_BACKLOG_RATIO: Gauge "tidegate_stream_backlog_ratio" ["stream"] "The backlog of a stream as a part of its `max_backlog`; 0 without a bound.";
    STREAM_EVENTS: Gauge "tidegate_stream_events" ["stream"] "Events that a stream keeps.";
    STREAM_OVERDUE: Gauge "tidegate_stream_overdue" ["stream"] "Events beyond the bounds of retention that stay because a group has not looked at them.";
    INTAKE_PAUSED: Gauge "tidegate_intake_paused" [] "1 while no events are taken from sources that can refuse.";
    GROUP_OLDEST_WAITING: Gauge "tidegate_group_oldest_waiting_age_seconds" ["group"] "Age of the oldest event that may run now; 0 when there is none.";
    GROUP_BLOCKED: Gauge "tidegate_group_blocked" ["group"] "Events of a group that wait for others to be done; they count as waiting too.";
    GROUP_OLDEST_BLOCKED: Gauge "tidegate_group_oldest_blocked_age_seconds" ["group"] "Age of the oldest event that waits for others to be done; 0 when there is none.";
    QUEUE_LATENCY: Histogram "tidegate_queue_latency_seconds" ["group"] "Time from accept, or from when it was due, to the start of the handler.";
    HANDLER_DURATION: Histogram "tidegate_handler_duration_seconds" ["group"] "Time that handlers took.";
    DEAD_LETTERS: Gauge "tidegate_dead_letters" ["stream", "group"] "Dead letters that wait for somebody.";
    DEAD_LETTERS_BURIED: Counter "tidegate_dead_letters_total" ["stream", "group", "class"] "Deliveries buried in the dead letters since the start.";
    DLQ_REPROCESS: Counter "tidegate_dlq_reprocess_total" ["stream", "result"] "Dead letters that somebody asked to reprocess since the start.";
    LEASES_LOST: Counter "tidegate_leases_lost_total" ["group"] "Leases that ran out, and settles that came too late, since the start.";
    RATE_LIMITER_WAIT: Histogram "tidegate_rate_limiter_wait_seconds" ["target"] "Time that calls waited for their turn; calls that did not wait count as 0.";
    BREAKER_STATE: Gauge "tidegate_breaker_state" ["target", "state"] "1 for the state that the breaker of a target is in, 0 for the others.";
    SOURCE_REJECTED: Counter "tidegate_source_rejected_total" ["source"] "Pieces of input of a source that were no events, since the start.";
    QUEUE_DEPTH: Gauge "tidegate_queue_depth" ["queue"] "Items that wait in a list of another Redis.";
    OUTBOX_BACKLOG: Gauge "tidegate_outbox_backlog" ["source"] "Rows of an outbox that are not published; parked ones aside.";
    OUTBOX_BACKING_OFF: Gauge "tidegate_outbox_backing_off" ["source"] "Rows of an outbox that failed and wait for their next attempt.";
    OUTBOX_PARKED: Gauge "tidegate_outbox_parked" ["source"] "Rows of an outbox that failed for good and wait for somebody.";
    OUTBOX_OLDEST: Gauge "tidegate_outbox_oldest_age_seconds" ["source"] "Age of the oldest row of the backlog of an outbox; 0 when there is none.";
    OUTBOX_LAG: Gauge "tidegate_outbox_lag_seconds" ["source"] "Longest time from writing to publishing a row, of those that an outbox published last.";
    OUTBOX_COUNTED: Gauge "tidegate_outbox_counted_timestamp_seconds" ["source"] "When the rows of an outbox were counted last; the figures are as old as this.";
    OUTBOUND_REQUESTS: Counter "tidegate_outbound_requests_total" ["target", "result"] "Calls to a target that ended since the start.";
    REPLY: Histogram "tidegate_reply_seconds" ["source", "outcome"] "Time from a request to its answer, on paths that answer with results, by how it ended.";
    HTTP_REQUESTS: Counter "tidegate_http_requests_total" ["status"] "Requests answered since the start, by the class of their status.";
    WAITING_REQUESTS: Gauge "tidegate_waiting_requests" [] "Requests that wait for the result of an event.";
    STORE_ANSWERS: Gauge "tidegate_store_answers" [] "1 when the store told of streams and groups; 0 when it is away and this page lacks what it would have told.";
    STORE_SYNC: Histogram "tidegate_store_sync_seconds" [] "Time that syncs of the store took.";
    STORE_BYTES: Gauge "tidegate_store_bytes" ["what"] "Bytes of the store, by what they are for.";
    DATA_DISK: Gauge "tidegate_data_disk_bytes" ["what"] "The disk of the data directory: its size, and what is free.";
    UNACCOUNTED: Gauge "tidegate_messages_unaccounted" [] "Events missing in the accounting of any group; anything but 0 is a fault of Tidegate.";
    LAST_PROGRESS: Gauge "tidegate_last_progress_timestamp_seconds" ["component"] "When a part of the node last made progress, or found nothing to do.";
    PROCESS_CPU: Counter "process_cpu_seconds_total" [] "Processor time that the process used.";
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" [] "Memory of the process that is in RAM.";
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" [] "Address space of the process.";
    PROCESS_OPEN_FDS: Gauge "process_open_fds" [] "Open files.";
    PROCESS_MAX_FDS: Gauge "process_max_fds" [] "Most open files that the process may have.";
    PROCESS_START: Gauge "process_start_time_seconds" [] "When the process started, in seconds since 1970.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_kind() {
        for spec in ALL {
            assert_eq!(spec.kind == MetricKind::Counter, spec.name.ends_with("_total"), "{}", spec.name);
            assert!(spec.kind != MetricKind::Histogram || spec.name.ends_with("_seconds"), "{}", spec.name);
        }
        let mut names: Vec<_> = ALL.iter().map(|spec| spec.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
