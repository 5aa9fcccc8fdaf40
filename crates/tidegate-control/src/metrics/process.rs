//! What the system says of this process, where it says so under `/proc`.

use std::fs;

/// Clock ticks per second in which the kernel reports times to programs; the same on every platform we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Facts of this process. What the system does not tell is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ProcessFacts {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) max_files: Option<u64>,
    pub(crate) started_at: Option<f64>,
}

impl ProcessFacts {
    pub(crate) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = text("/proc/self/status");
        let (cpu_seconds, started_at) = parse_stat(&text("/proc/self/stat"), &text("/proc/stat"));
        Self {
            cpu_seconds,
            started_at,
            resident_bytes: parse_kilobytes(&status, "VmRSS:"),
            virtual_bytes: parse_kilobytes(&status, "VmSize:"),
            open_files: fs::read_dir("/proc/self/fd").ok().and_then(|open| u64::try_from(open.count()).ok()),
            max_files: parse_max_files(&text("/proc/self/limits")),
        }
    }
}

/// Returns processor time and start.
fn parse_stat(own: &str, system: &str) -> (Option<f64>, Option<f64>) {
    // The name of the program stands in parentheses and may hold anything, spaces and parentheses too.
    let fields: Vec<&str> = own.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let seconds = |index: usize| Some(fields.get(index)?.parse::<u64>().ok()? as f64 / TICKS_PER_SECOND);
    let booted = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let cpu = seconds(11).zip(seconds(12)).map(|(user, kernel)| user + kernel);
    (cpu, seconds(19).zip(booted).map(|(after, booted)| booted + after))
}

pub(crate) fn parse_kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn parse_max_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_words_are_read() {
        let own = "17 (a) b) S 1 17 17 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 3 0 1000 8192000 25 18446744073709551615";
        assert_eq!(parse_stat(own, "cpu 1 2\nbtime 1700000000\n"), (Some(3.0), Some(1_700_000_010.0)));
        assert_eq!(parse_stat("", ""), (None, None));
        assert_eq!(parse_kilobytes("VmSize:\t 8 kB\nVmRSS:\t   5 kB\n", "VmRSS:"), Some(5120));
        assert_eq!(parse_max_files("Max open files            1024                 4096     files"), Some(1024));
        assert_eq!(parse_max_files("Max open files            unlimited  unlimited  files"), None);
    }
}
