//! What the machine says: disk, memory, processors. What it does not say is absent.

use std::{fs, path::Path};

use serde::Serialize;
use utoipa::ToSchema;

use crate::metrics::process::parse_kilobytes;

/// The disk of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct DiskFacts {
    pub(crate) size_bytes: u64,
    /// What the process may still write.
    pub(crate) free_bytes: u64,
}

impl DiskFacts {
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(path).ok()?;
        Some(Self { size_bytes: stat.f_blocks * stat.f_frsize, free_bytes: stat.f_bavail * stat.f_frsize })
    }

    /// Share of the disk that is not free, in percent.
    pub(crate) fn used_percent(&self) -> f64 {
        if self.size_bytes == 0 {
            return 0.0;
        }
        100.0 * (1.0 - self.free_bytes as f64 / self.size_bytes as f64)
    }
}

/// The machine.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SystemFacts {
    processors: usize,
    /// Mean number of runnable threads over one minute.
    load_1m: Option<f64>,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    /// Most memory that this process may use.
    memory_max_bytes: Option<u64>,
    /// The disk of the data directory.
    disk: Option<DiskFacts>,
    disk_used_percent: Option<f64>,
}

impl SystemFacts {
    pub(crate) fn read(data: Option<&Path>) -> Self {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let disk = data.and_then(DiskFacts::read);
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            load_1m: load.split_whitespace().next().and_then(|load| load.parse().ok()),
            memory_bytes: parse_kilobytes(&memory, "MemTotal:"),
            memory_available_bytes: parse_kilobytes(&memory, "MemAvailable:"),
            memory_max_bytes: memory_max(),
            disk_used_percent: disk.map(|disk| disk.used_percent()),
            disk,
        }
    }
}

/// Most memory that this process may use: the limit of its control group, or all there is.
pub(crate) fn memory_max() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let all = parse_kilobytes(&memory, "MemTotal:");
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    limits.into_iter().filter_map(number).chain(all).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_used_by_what_is_not_free() {
        let percent = |size_bytes, free_bytes| DiskFacts { size_bytes, free_bytes }.used_percent();
        assert!((percent(200, 50) - 75.0).abs() < 1e-9);
        assert!(percent(0, 0).abs() < 1e-9);
        assert!(DiskFacts::read(Path::new("/")).is_some_and(|disk| disk.size_bytes > 0));
        assert_eq!(DiskFacts::read(Path::new("/no such directory")), None);
    }
}
