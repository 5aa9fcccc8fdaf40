//! The node's own log, read back: lines of JSON in a bounded number of files, oldest first.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tidegate_core::{clock::Timestamp, limits};

/// How bad a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For those who mend the node.
    Trace,
    /// Every step.
    Debug,
    /// What happens.
    Info,
    /// What should not happen.
    Warn,
    /// What somebody must look at.
    Error,
}

impl std::str::FromStr for LogLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warn" | "warning" => Self::Warn,
            "error" => Self::Error,
            _ => return Err(format!("level {text:?} is none of trace, debug, info, warn and error")),
        })
    }
}

/// Which lines.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Only from this time on.
    pub since: Option<Timestamp>,
    /// Only this bad or worse.
    pub level: Option<LogLevel>,
    /// Only with this text anywhere.
    pub grep: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    timestamp: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    level: std::borrow::Cow<'a, str>,
}

impl LogQuery {
    /// Tells whether a line is wanted.
    pub fn wants(&self, line: &str) -> bool {
        if self.grep.as_ref().is_some_and(|grep| !line.contains(grep.as_str())) {
            return false;
        }
        if self.since.is_none() && self.level.is_none() {
            return true;
        }
        let Ok(read) = serde_json::from_str::<Line<'_>>(line) else { return false };
        let late = self.since.is_none_or(|since| Timestamp::parse(&read.timestamp).is_ok_and(|at| at >= since));
        late && self.level.is_none_or(|least| read.level.parse::<LogLevel>().is_ok_and(|level| level >= least))
    }
}

/// Returns the files of the log in a directory with their numbers, oldest first.
pub fn log_files(dir: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let number =
        |path: &Path| path.file_name()?.to_str()?.strip_prefix("tidegate-")?.strip_suffix(".jsonl")?.parse().ok();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<(u64, PathBuf)> = paths.filter_map(|path| Some((number(&path)?, path))).collect();
    files.sort();
    files
}

/// Returns the newest lines that are wanted, oldest first, at most so many.
pub fn read_logs(dir: &Path, query: &LogQuery, limit: usize) -> Vec<String> {
    let mut wanted: VecDeque<String> = VecDeque::new();
    for (_, path) in log_files(dir).into_iter().rev() {
        // A file that went away in the meantime was the oldest.
        let Ok(text) = read_from(&path, 0) else { continue };
        let lines = text.lines().rev().filter(|line| query.wants(line));
        for line in lines.take(limit - wanted.len()) {
            wanted.push_front(line.to_owned());
        }
        if wanted.len() >= limit {
            break;
        }
    }
    wanted.into()
}

fn read_from(path: &Path, from: u64) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(limits::LOG_FILE_BYTES_MAX as u64 * 2).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A place in the log from which it is read on.
#[derive(Debug)]
pub(crate) struct LogTail {
    dir: PathBuf,
    file: u64,
    offset: u64,
}

impl LogTail {
    /// Starts behind the newest line.
    pub(crate) fn at_end(dir: &Path) -> Self {
        let newest = log_files(dir).pop();
        let offset = newest.as_ref().and_then(|(_, path)| fs::metadata(path).ok()).map_or(0, |file| file.len());
        Self { dir: dir.to_owned(), file: newest.map_or(0, |(number, _)| number), offset }
    }

    /// Returns the lines that came since the last time.
    pub(crate) fn read(&mut self, query: &LogQuery) -> Vec<String> {
        let mut wanted = Vec::new();
        let mut files = log_files(&self.dir);
        files.retain(|(number, _)| *number >= self.file);
        for (number, path) in files {
            if number > self.file {
                (self.file, self.offset) = (number, 0);
            }
            let Ok(text) = read_from(&path, self.offset) else { continue };
            // A line is read when it is whole.
            let Some(end) = text.rfind('\n') else { continue };
            self.offset += end as u64 + 1;
            let lines = text.get(..end).unwrap_or_default().lines();
            wanted.extend(lines.filter(|line| query.wants(line)).map(str::to_owned));
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: u32, level: &str, words: &str) -> String {
        format!(
            "{{\"timestamp\":\"2026-01-01T00:00:{second:02}.000000Z\",\"level\":\"{level}\",\"message\":\"{words}\"}}"
        )
    }

    #[test]
    fn lines_are_chosen() {
        let text = line(5, "WARN", "queue_latency of x");
        let query = |since: Option<&str>, level: Option<LogLevel>, grep: Option<&str>| LogQuery {
            since: since.map(|at| Timestamp::parse(at).unwrap()),
            level,
            grep: grep.map(str::to_owned),
        };
        for wanted in [
            query(None, None, None),
            query(Some("2026-01-01T00:00:05Z"), Some(LogLevel::Warn), Some("queue_latency")),
            query(None, Some(LogLevel::Info), None),
        ] {
            assert!(wanted.wants(&text), "{wanted:?}");
        }
        for other in [
            query(Some("2026-01-01T00:00:06Z"), None, None),
            query(None, Some(LogLevel::Error), None),
            query(None, None, Some("memory")),
        ] {
            assert!(!other.wants(&text), "{other:?}");
        }
        assert!(!query(None, Some(LogLevel::Info), None).wants("half a li"));
        assert!("loud".parse::<LogLevel>().is_err());
    }

    #[test]
    fn files_are_read_in_order_and_on() {
        let dir = std::env::temp_dir().join(format!("tidegate-logs-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).unwrap();
        let write = |number: u32, text: &str| fs::write(dir.join(format!("tidegate-{number:08}.jsonl")), text).unwrap();
        write(1, &format!("{}\n{}\n", line(1, "INFO", "a"), line(2, "WARN", "b")));
        write(2, &format!("{}\n", line(3, "WARN", "c")));
        let words = |lines: Vec<String>| -> String {
            lines.iter().filter_map(|line| line.split("message\":\"").nth(1)?.chars().next()).collect()
        };
        let all = LogQuery::default();
        assert_eq!(words(read_logs(&dir, &all, 10)), "abc");
        assert_eq!(words(read_logs(&dir, &all, 2)), "bc");
        let bad = LogQuery { level: Some(LogLevel::Warn), ..LogQuery::default() };
        assert_eq!(words(read_logs(&dir, &bad, 10)), "bc");
        let mut tail = LogTail::at_end(&dir);
        assert!(tail.read(&all).is_empty());
        write(2, &format!("{}\n{}\n{{\"half", line(3, "WARN", "c"), line(4, "INFO", "d")));
        assert_eq!(words(tail.read(&all)), "d");
        write(3, &format!("{}\n", line(5, "INFO", "e")));
        assert_eq!(words(tail.read(&all)), "e");
        assert!(read_logs(Path::new("/no such place"), &all, 1).is_empty());
        fs::remove_dir_all(&dir).unwrap();
    }
}
