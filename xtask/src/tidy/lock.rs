//! One TLS provider and no system OpenSSL: what must not enter Cargo.lock.

use super::Finding;
use crate::tree::Tree;

const BANNED: [&str; 3] = ["aws-lc-sys", "openssl-sys", "native-tls"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(file) = tree.file("Cargo.lock") else { return findings };
    for (number, line) in file.text.lines().enumerate() {
        let name = line.strip_prefix("name = \"").and_then(|rest| rest.strip_suffix('"'));
        if let Some(name) = name.filter(|name| BANNED.contains(name)) {
            findings.push(Finding {
                path: file.path.clone(),
                line: number + 1,
                rule: "lock",
                what: format!("`{name}` entered the tree"),
                mend: format!("see `cargo tree -i {name}` and switch that crate to rustls with ring"),
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    #[test]
    fn a_second_tls_provider_is_found() {
        expect(check, &[("Cargo.lock", "[[package]]\nname = \"ring\"\n")], &[]);
        expect(
            check,
            &[("Cargo.lock", "[[package]]\nname = \"aws-lc-sys\"\nname = \"native-tls\"\n")],
            &["Cargo.lock:2", "Cargo.lock:3"],
        );
    }
}
