//! What an answer means: the table from status to fault class. Pure.

use std::time::Duration;

use tidegate_core::{clock::Timestamp, fault::FaultClass, limits};

/// Shortest wait after an answer that asks to slow down, so that `Retry-After: 0` makes no hot loop.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(limits::RETRY_AFTER_SECONDS_MAX);

/// How an answer that is no success is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) class: FaultClass,
    /// How long the target asked to wait.
    pub(super) after: Option<Duration>,
    /// The target wants nothing any more.
    pub(super) is_gone: bool,
}

/// Judges an answer; none for a success.
pub(super) fn judge(status: u16, retry_after: Option<&str>, now: Timestamp) -> Option<Verdict> {
    let after = retry_after.and_then(|text| wait(text, now));
    let class = match status {
        200..=299 => return None,
        // Destination or credentials are wrong: it would be wrong for every message, so no message pays for it.
        300..=399 | 401 | 403 | 404 | 405 | 407 | 410 => FaultClass::Auth,
        408 => FaultClass::Timeout,
        429 => FaultClass::Throttled,
        502..=504 if after.is_some() => FaultClass::Throttled,
        502..=504 => FaultClass::DependencyDown,
        425 | 500..=599 => FaultClass::Transient,
        400..=499 => FaultClass::Invalid,
        _ => FaultClass::Ambiguous,
    };
    let after = if class == FaultClass::Throttled { Some(after.unwrap_or(WAIT_MIN)) } else { after };
    Some(Verdict { class, after, is_gone: status == 410 })
}

/// Reads `Retry-After`: seconds, or an HTTP date in any of its three forms.
fn wait(text: &str, now: Timestamp) -> Option<Duration> {
    const FORMS: [&str; 3] = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let text = text.trim();
    let asked = if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = FORMS.iter().find_map(|form| jiff::civil::DateTime::strptime(form, text).ok())?;
        let at = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        Timestamp::from_millis(at.as_millisecond()).since(now)
    };
    Some(asked.clamp(WAIT_MIN, WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: Timestamp = Timestamp::from_millis(784_111_777_000);

    #[test]
    fn every_status_has_one_class() {
        use FaultClass::{Ambiguous, Auth, DependencyDown, Invalid, Throttled, Timeout, Transient};
        let expect = |status: u16| match status {
            200..=299 => None,
            300..=399 | 401 | 403 | 404 | 405 | 407 | 410 => Some(Auth),
            408 => Some(Timeout),
            425 | 500 | 501 | 505..=599 => Some(Transient),
            429 => Some(Throttled),
            502..=504 => Some(DependencyDown),
            400..=499 => Some(Invalid),
            _ => Some(Ambiguous),
        };
        for status in 100..=999 {
            let verdict = judge(status, None, NOW);
            assert_eq!(verdict.map(|verdict| verdict.class), expect(status), "{status}");
            assert_eq!(verdict.is_some_and(|verdict| verdict.is_gone), status == 410, "{status}");
        }
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept() {
        let after = |status, text| judge(status, text, NOW).map(|verdict| (verdict.class, verdict.after));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(after(429, None), Some((FaultClass::Throttled, seconds(1))));
        assert_eq!(after(429, Some("7")), Some((FaultClass::Throttled, seconds(7))));
        assert_eq!(after(503, Some("7")), Some((FaultClass::Throttled, seconds(7))));
        assert_eq!(after(503, Some("soon")), Some((FaultClass::DependencyDown, None)));
        assert_eq!(after(500, Some("7")), Some((FaultClass::Transient, seconds(7))));
        assert_eq!(after(204, Some("7")), None);
    }

    #[test]
    fn waits_are_read_in_every_form_and_bounded() {
        let check =
            |text: &str, expect: Option<u64>| assert_eq!(wait(text, NOW), expect.map(Duration::from_secs), "{text}");
        check("120", Some(120));
        check(" 120 ", Some(120));
        check("0", Some(1));
        check("99999999999999999999999", Some(limits::RETRY_AFTER_SECONDS_MAX));
        check("Sun, 06 Nov 1994 08:50:37 GMT", Some(60));
        check("Sunday, 06-Nov-94 08:50:37 GMT", Some(60));
        check("Sun Nov  6 08:50:37 1994", Some(60));
        check("Sun, 06 Nov 1994 08:00:00 GMT", Some(1));
        check("Sat, 06 Nov 2094 08:00:00 GMT", Some(limits::RETRY_AFTER_SECONDS_MAX));
        for bad in ["", "-1", "1.5", "soon", "Sun, 06 Nov 1994 08:50:37 CET", "06 Nov"] {
            check(bad, None);
        }
    }
}
