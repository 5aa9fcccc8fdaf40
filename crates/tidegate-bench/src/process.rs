//! Processes: what one costs, read from `/proc`, and children that end with the measurement.

use std::{
    fs,
    process::{Child, Command},
};

use anyhow::{Context as _, Result};

/// Steps per second in which the kernel counts processor time (`USER_HZ`, 100 on every Linux of today).
const TICKS: f64 = 100.0;

/// Returns the processor time that a process has used so far, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read the processor time of a process")?;
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th word after it.
    let words: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| words.get(index).and_then(|word| word.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) / TICKS)
}

/// Returns the resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read the memory of a process")?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    Ok(kib.unwrap_or(0.0) * 1024.0)
}

/// Returns how many files a process has open.
pub(crate) fn open_files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).context("read the open files of a process")?.count())
}

/// Returns how busy the machine is: runnable processes over the last minute.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("?").to_owned()
}

/// A process of ours: it is killed, by its id, when this is dropped.
#[derive(Debug)]
pub(crate) struct Owned(pub(crate) Child);

impl Owned {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills it, as a loss of power would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.0.kill().context("kill a process")?;
        self.0.wait().context("wait for a process")?;
        Ok(())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
