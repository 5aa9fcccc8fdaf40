//! Generated pages say what the code says. `TIDEGATE_BLESS=1` writes them again.

use std::path::Path;

#[test]
#[expect(clippy::disallowed_methods, reason = "the switch of this test alone")]
fn generated_pages_are_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let is_blessed = std::env::var("TIDEGATE_BLESS").is_ok_and(|value| value == "1");
    let mut stale = Vec::new();
    for page in tidegate::pages::all() {
        let path = root.join(page.path);
        let text = format!("{}\n", page.text.trim_end());
        if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            continue;
        }
        if is_blessed {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        } else {
            stale.push(page.path);
        }
    }
    assert!(stale.is_empty(), "{stale:?} differ from the code; `cargo xtask docs` writes them again");
}
