//! The door to environment variables and to the files that a configuration refers to.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tidegate_core::config::Environment;

/// Longest file that can be the value of a reference.
const VALUE_BYTES_MAX: u64 = 64 * 1024;

/// Directories in which container runtimes hang secrets that look open to everybody but are seen only inside.
const MOUNTED_SECRETS: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// The process's own environment; paths are relative to the directory of the configuration file.
#[derive(Debug, Clone)]
pub struct SystemEnvironment {
    directory: PathBuf,
}

impl SystemEnvironment {
    /// Makes the environment of a configuration file in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }
}

impl Environment for SystemEnvironment {
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    fn variable(&self, name: &str) -> Result<String, String> {
        std::env::var(name).map_err(|error| match error {
            std::env::VarError::NotPresent => format!("environment variable {name} is not set"),
            std::env::VarError::NotUnicode(_) => format!("environment variable {name} is not UTF-8"),
        })
    }

    fn file(&self, path: &str, secret: bool) -> Result<String, String> {
        let path = self.directory.join(path);
        read(&path, secret).map_err(|why| format!("file {}: {why}", path.display()))
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the system's own words for what is rare")]
fn words(error: std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "does not exist".to_owned(),
        ErrorKind::PermissionDenied => "may not be read by this process".to_owned(),
        ErrorKind::InvalidData => "is not UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

fn read(path: &Path, secret: bool) -> Result<String, String> {
    // Looked at before it is opened: to open a pipe is to wait for its other end.
    if !std::fs::metadata(path).map_err(words)?.is_file() {
        return Err("is no ordinary file".to_owned());
    }
    let file = File::open(path).map_err(words)?;
    let metadata = file.metadata().map_err(words)?;
    if metadata.len() > VALUE_BYTES_MAX {
        return Err(format!("is larger than {VALUE_BYTES_MAX} bytes"));
    }
    let mode = metadata.permissions().mode();
    let mounted = MOUNTED_SECRETS.iter().any(|directory| path.starts_with(directory));
    if secret && mode & 0o007 != 0 && !mounted {
        return Err(format!(
            "holds a secret that everybody on this machine may read (mode {:03o}); chmod 600 it",
            mode & 0o777
        ));
    }
    let mut text = String::new();
    // One byte more than is allowed: a file that grew since it was looked at is noticed.
    file.take(VALUE_BYTES_MAX + 1).read_to_string(&mut text).map_err(words)?;
    if text.len() as u64 > VALUE_BYTES_MAX {
        return Err(format!("is larger than {VALUE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, SystemEnvironment) {
        let directory = tempfile::tempdir().unwrap();
        let environment = SystemEnvironment::new(directory.path());
        (directory, environment)
    }

    fn put(directory: &tempfile::TempDir, name: &str, bytes: &[u8], mode: u32) {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_are_read_beside_the_configuration() {
        let (directory, environment) = directory();
        put(&directory, "plain", b"value\n", 0o644);
        put(&directory, "secret", b"value", 0o640);
        assert_eq!(environment.file("plain", false).unwrap(), "value\n");
        assert_eq!(environment.file("secret", true).unwrap(), "value");
        let absolute = directory.path().join("plain");
        assert_eq!(environment.file(absolute.to_str().unwrap(), false).unwrap(), "value\n");
    }

    #[test]
    fn files_that_are_no_value_are_refused() {
        let (directory, environment) = directory();
        put(&directory, "open", b"value", 0o644);
        put(&directory, "binary", &[0xff, 0xfe], 0o600);
        put(&directory, "large", &vec![b'x'; 64 * 1024 + 1], 0o600);
        let check = |name: &str, word: &str| {
            let refused = environment.file(name, true).unwrap_err();
            assert!(refused.contains(word) && refused.contains(name), "{refused}");
        };
        check("open", "chmod 600");
        check("binary", "not UTF-8");
        check("large", "larger than 65536");
        check("missing", "does not exist");
        assert!(environment.file("", true).unwrap_err().contains("no ordinary file"));
    }

    #[test]
    fn variables_come_from_the_process() {
        let (_directory, environment) = directory();
        assert!(environment.variable("PATH").is_ok());
        assert!(environment.variable("TIDEGATE_SURELY_NOT_SET").unwrap_err().contains("is not set"));
    }
}
