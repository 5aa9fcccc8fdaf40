//! The example does what it says, and a second run in the same folder repeats nothing.

use std::process::Command;

#[test]
fn orders_are_shipped_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = |dir: &std::path::Path| {
        let out = Command::new(env!("CARGO_BIN_EXE_tidegate-example-embed")).arg(dir).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(run(dir.path()), "accepted 2 orders\norder 1 goes to c-17\ndone 1, dead 1, unaccounted 0\n");
    assert_eq!(run(dir.path()), "accepted 0 orders\ndone 1, dead 1, unaccounted 0\n");
}
