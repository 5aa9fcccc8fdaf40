//! What notices count.

use std::time::Duration;

use tidegate_core::delivery::Position;

use super::*;

fn written(notices: &[Notice]) -> String {
    let metrics = Metrics::default();
    for notice in notices {
        metrics.notice(notice);
    }
    let mut page = Page::default();
    metrics.write(&mut page);
    page.finish(&[])
}

fn check(notices: &[Notice], lines: &[&str]) {
    let text = written(notices);
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line:?} is not in\n{text}");
    }
}

fn group() -> GroupName {
    GroupName::new("deliver").unwrap()
}

#[test]
fn attempts_are_counted_by_result_and_class() {
    let (event, position) = (ByteString::from_static("e"), Position::number(1));
    let started = |waited| Notice::AttemptStarted {
        group: group(),
        event: event.clone(),
        position,
        attempt: 1,
        waited: Duration::from_millis(waited),
    };
    let done = Notice::AttemptDone {
        group: group(),
        event: event.clone(),
        position,
        attempt: 1,
        took: Duration::from_millis(20),
    };
    let failed = Notice::AttemptFailed {
        group: group(),
        event: event.clone(),
        position,
        attempt: 1,
        took: Duration::from_secs(2),
        class: FaultClass::Timeout,
        message: "slow".into(),
        retry_at: None,
    };
    check(
        &[started(3), done.clone(), started(0), failed, started(700), done],
        &[
            "tidegate_attempts_total{group=\"deliver\",result=\"done\",class=\"\"} 2",
            "tidegate_attempts_total{group=\"deliver\",result=\"failed\",class=\"timeout\"} 1",
            "tidegate_queue_latency_seconds_bucket{group=\"deliver\",le=\"0.0001\"} 1",
            "tidegate_queue_latency_seconds_bucket{group=\"deliver\",le=\"0.005\"} 2",
            "tidegate_queue_latency_seconds_count{group=\"deliver\"} 3",
            "tidegate_handler_duration_seconds_sum{group=\"deliver\"} 2.04",
        ],
    );
}

#[test]
fn settlements_on_the_way_are_counted_too() {
    check(
        &[
            Notice::Settled { group: group(), outcome: "done", count: 5 },
            Notice::Claimed { group: group(), count: 3, duplicates: 2, expired: 1 },
        ],
        &[
            "tidegate_messages_settled_total{group=\"deliver\",outcome=\"done\"} 5",
            "tidegate_messages_settled_total{group=\"deliver\",outcome=\"duplicate\"} 2",
            "tidegate_messages_settled_total{group=\"deliver\",outcome=\"expired\"} 1",
        ],
    );
}

#[test]
fn calls_that_did_not_wait_are_not_hidden() {
    let call = |waited, result| Notice::TargetCalled {
        target: TargetName::new("partner").unwrap(),
        result,
        waited: Duration::from_millis(waited),
        took: Duration::ZERO,
    };
    check(
        &[call(0, "done"), call(40, "done"), call(0, "timeout")],
        &[
            "tidegate_rate_limiter_wait_seconds_bucket{target=\"partner\",le=\"0.0001\"} 2",
            "tidegate_rate_limiter_wait_seconds_count{target=\"partner\"} 3",
            "tidegate_outbound_requests_total{target=\"partner\",result=\"done\"} 2",
            "tidegate_outbound_requests_total{target=\"partner\",result=\"timeout\"} 1",
        ],
    );
}

#[test]
fn burials_are_counted_by_class() {
    let buried = Notice::DeadLettered {
        stream: StreamName::new("orders").unwrap(),
        group: group(),
        event: "e".into(),
        class: FaultClass::Invalid,
        message: "no".into(),
        attempts: 1,
    };
    check(
        &[buried.clone(), buried],
        &["tidegate_dead_letters_total{stream=\"orders\",group=\"deliver\",class=\"invalid\"} 2"],
    );
}
