//! Arrows between our crates point downwards: what `cargo metadata` says against an allow-list.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Finding;

/// What a crate may depend on, for its product code.
const ALLOWED: [(&str, &[&str]); 12] = [
    (
        "tidegate",
        &[
            "tidegate-control",
            "tidegate-modules",
            "tidegate-store",
            "tidegate-engine",
            "tidegate-rules",
            "tidegate-tls",
            "tidegate-core",
        ],
    ),
    ("tidegate-control", &["tidegate-engine", "tidegate-rules", "tidegate-core"]),
    ("tidegate-engine", &["tidegate-rules", "tidegate-core"]),
    ("tidegate-modules", &["tidegate-rules", "tidegate-tls", "tidegate-core"]),
    ("tidegate-rules", &["tidegate-core"]),
    ("tidegate-store", &["tidegate-tls", "tidegate-core"]),
    ("tidegate-tls", &["tidegate-core"]),
    ("tidegate-testkit", &["tidegate-store", "tidegate-engine", "tidegate-core"]),
    ("tidegate-core", &[]),
    // What a program of a user would take.
    ("tidegate-example-embed", &["tidegate-store", "tidegate-engine", "tidegate-core"]),
    // It talks to the binary over HTTP only.
    ("tidegate-torture", &[]),
    ("xtask", &[]),
];

/// The kit for tests; others may take it for their tests only.
const KIT: &str = "tidegate-testkit";

/// The crate that holds the memory engine, which the tests of all who sit above the seam run on.
const STORE: &str = "tidegate-store";

/// The measuring crate; it may depend on everything.
const BENCH: &str = "tidegate-bench";

/// A dependency of one of our crates on another.
pub(super) struct Arrow {
    from: String,
    to: String,
    /// `None` for product code, else `dev` or `build`.
    kind: Option<String>,
}

/// Reads the arrows between the packages of the workspace.
pub(super) fn read(root: &Path) -> anyhow::Result<Vec<Arrow>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    parse(&serde_json::from_slice(&output.stdout).context("read the answer of cargo metadata")?)
}

fn parse(metadata: &Value) -> anyhow::Result<Vec<Arrow>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut arrows = Vec::new();
    for package in packages {
        let from = package["name"].as_str().context("a package has a name")?;
        let dependencies = package["dependencies"].as_array().context("a package lists dependencies")?;
        for dependency in dependencies {
            let to = dependency["name"].as_str().context("a dependency has a name")?;
            let kind = dependency["kind"].as_str().map(str::to_owned);
            if names.contains(&to) {
                arrows.push(Arrow { from: from.to_owned(), to: to.to_owned(), kind });
            }
        }
    }
    Ok(arrows)
}

pub(super) fn check(arrows: &[Arrow]) -> Vec<Finding> {
    arrows.iter().filter_map(refused).collect()
}

fn refused(arrow: &Arrow) -> Option<Finding> {
    let Arrow { from, to, kind } = arrow;
    let allowed = ALLOWED.iter().find(|(name, _)| name == from).map(|(_, allowed)| *allowed);
    let is_dev = kind.as_deref() == Some("dev");
    let is_fine = match allowed {
        _ if from == BENCH => true,
        // What a crate may use it may also use in its tests, and the kit and the memory engine besides.
        Some(allowed) => allowed.contains(&to.as_str()) || (is_dev && (to == KIT || to == STORE) && from != "xtask"),
        None => false,
    };
    let is_bench = is_dev && to == BENCH && from == "tidegate";
    if is_fine || is_bench {
        return None;
    }
    let what = match allowed {
        Some(allowed) => format!("{from} depends on {to}; it may depend on {}", words(allowed)),
        None => format!("{from} is not in the list of crates"),
    };
    let mend = "move the code to where the arrow is allowed; a new crate needs a decision record and a line in xtask/src/tidy/arrows.rs";
    let folder = if from == "xtask" { from.clone() } else { format!("crates/{from}") };
    Some(Finding { path: format!("{folder}/Cargo.toml"), line: 1, rule: "arrows", what, mend: mend.to_owned() })
}

fn words(allowed: &[&str]) -> String {
    if allowed.is_empty() { "none of our crates".to_owned() } else { allowed.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(from: &str, to: &str, kind: Option<&str>) -> bool {
        let package = |name: &str, dependencies: Value| serde_json::json!({"name": name, "dependencies": dependencies});
        let dependencies = serde_json::json!([{"name": to, "kind": kind}, {"name": "serde", "kind": null}]);
        let metadata =
            serde_json::json!({"packages": [package(from, dependencies), package(to, serde_json::json!([]))]});
        let arrows = parse(&metadata).unwrap();
        assert_eq!(arrows.len(), 1);
        check(&arrows).is_empty()
    }

    #[test]
    fn arrows_point_downwards() {
        assert!(check_one("tidegate", "tidegate-store", None));
        assert!(check_one("tidegate-control", "tidegate-engine", None));
        assert!(!check_one("tidegate-engine", "tidegate-control", None));
        assert!(!check_one("tidegate-store", "tidegate-engine", Some("dev")));
        assert!(!check_one("tidegate-core", "tidegate-store", Some("build")));
        assert!(!check_one("xtask", "tidegate-core", None));
        assert!(!check_one("tidegate-extra", "tidegate-core", None));
    }

    #[test]
    fn the_kit_is_for_tests() {
        assert!(check_one("tidegate-store", KIT, Some("dev")));
        assert!(!check_one("tidegate-store", KIT, None));
        assert!(!check_one("xtask", KIT, Some("dev")));
        assert!(check_one(BENCH, KIT, None));
    }
}
