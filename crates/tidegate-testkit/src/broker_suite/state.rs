//! Control state: small things that must be remembered, such as "this group is paused".

use tidegate_core::store::Broker as _;

use super::case::Case;

async fn all(case: &Case, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let mut states = case.store.states(prefix).await.unwrap();
    states.sort();
    states
}

fn pair(key: &str, value: &[u8]) -> (String, Vec<u8>) {
    (key.to_owned(), value.to_vec())
}

pub(super) async fn values_are_put_replaced_and_taken_away(mut case: Case) {
    let put = async |case: &Case, key: &str, value: Option<&[u8]>| case.store.put_state(key, value).await.unwrap();
    put(&case, "pause/a", Some(b"1")).await;
    put(&case, "pause/b", Some(&[0, 255])).await;
    put(&case, "scale/a", Some(b"")).await;
    put(&case, "pause/a", Some(b"2")).await;
    put(&case, "gone", Some(b"x")).await;
    put(&case, "gone", None).await;
    put(&case, "never", None).await;
    for _ in 0..3 {
        assert_eq!(all(&case, "pause/").await, [pair("pause/a", b"2"), pair("pause/b", &[0, 255])]);
        assert_eq!(all(&case, "").await.len(), 3);
        assert_eq!(all(&case, "scale").await, [pair("scale/a", b"")]);
        assert_eq!(all(&case, "pause/c").await, []);
        assert_eq!(all(&case, "gone").await, []);
        if !case.store.promises().durable {
            return;
        }
        case.kill().await;
    }
    case.restart().await;
    put(&case, "pause/a", None).await;
    case.restart().await;
    assert_eq!(all(&case, "pause/").await, [pair("pause/b", &[0, 255])]);
}

pub(super) async fn a_value_may_be_large(mut case: Case) {
    let large: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
    case.store.put_state("config", Some(&large)).await.unwrap();
    if case.store.promises().durable {
        case.kill().await;
    }
    assert_eq!(all(&case, "config").await, [pair("config", &large)]);
}

pub(super) async fn a_value_is_swapped_only_when_it_is_known(mut case: Case) {
    let swap = async |case: &Case, was: Option<&str>, value: Option<&str>| {
        case.store.swap_state("owner", was.map(str::as_bytes), value.map(str::as_bytes)).await.unwrap()
    };
    assert!(!swap(&case, Some("a"), Some("b")).await, "there is none");
    assert!(!swap(&case, Some("a"), None).await);
    assert!(swap(&case, None, None).await, "there is none, and none is wanted");
    assert!(swap(&case, None, Some("a")).await);
    assert!(!swap(&case, None, Some("b")).await, "there is one already");
    assert!(!swap(&case, None, None).await);
    assert!(!swap(&case, Some(""), Some("b")).await);
    assert!(swap(&case, Some("a"), Some("")).await);
    assert!(swap(&case, Some(""), Some("b")).await, "nothing is not the same as an empty value");
    assert_eq!(all(&case, "").await, [pair("owner", b"b")]);
    if case.store.promises().durable {
        case.kill().await;
        assert_eq!(all(&case, "").await, [pair("owner", b"b")]);
        case.restart().await;
    }
    let (one, two) = tokio::join!(swap(&case, Some("b"), Some("1")), swap(&case, Some("b"), Some("2")));
    assert!(one ^ two, "of two who know the same, one comes first");
    let left = if one { "1" } else { "2" };
    assert!(swap(&case, Some(left), None).await);
    assert_eq!(all(&case, "").await, []);
}
