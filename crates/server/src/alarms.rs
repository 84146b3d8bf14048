//! Alarms: publishers are blocked while memory or disk run low; consumers and acknowledgements go on.
//!
//! Memory is the process's resident set against a share of what machine and cgroup allow. Disk is what the file system
//! of the data folder has free, or the store's own word that a write found no space.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::{AlarmLevels, MemoryLevel, units::show_bytes};

/// Which alarms are raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Raised {
    /// Resident memory is above its level.
    pub memory: bool,
    /// The disk has too little space.
    pub disk: bool,
}

impl Raised {
    /// Whether publishers must wait.
    #[must_use]
    pub fn any(self) -> bool {
        self.memory || self.disk
    }

    /// What `connection.blocked` says, in RabbitMQ's words.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match (self.memory, self.disk) {
            (true, true) => "low on memory & disk",
            (true, false) => "low on memory",
            (false, true) => "low on disk",
            (false, false) => "",
        }
    }
}

/// What was read last, for metrics. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readings {
    /// Resident memory of the process.
    pub memory_resident: u64,
    /// Level above which the memory alarm is raised.
    pub memory_limit: u64,
    /// Free on the disk of the data folder, as far as this user may use it.
    pub disk_free: u64,
    /// Level below which the disk alarm is raised.
    pub disk_limit: u64,
}

/// The state of all alarms, shared by everybody who publishes.
#[derive(Debug)]
pub struct Alarms {
    raised: watch::Sender<Raised>,
    store_full: AtomicBool,
    memory_resident: AtomicU64,
    memory_limit: u64,
    disk_free: AtomicU64,
    disk_limit: u64,
    data_dir: PathBuf,
    interval: Duration,
}

impl Alarms {
    /// Alarms at these levels, looked at once. `data_dir` must exist.
    ///
    /// # Errors
    ///
    /// If memory or disk cannot be read.
    pub fn new(levels: &AlarmLevels, data_dir: &Path) -> io::Result<Self> {
        let memory_limit = match levels.memory_high {
            MemoryLevel::Bytes(bytes) => bytes,
            MemoryLevel::Fraction(fraction) => share(memory_total()?, fraction),
        };
        let alarms = Self {
            raised: watch::Sender::new(Raised::default()),
            store_full: AtomicBool::new(false),
            memory_resident: AtomicU64::new(0),
            memory_limit,
            disk_free: AtomicU64::new(u64::MAX),
            disk_limit: levels.disk_free_min,
            data_dir: data_dir.to_owned(),
            interval: levels.interval,
        };
        alarms.look()?;
        Ok(alarms)
    }

    /// Reads memory and disk, then raises or clears the alarms. Takes microseconds, or as long as the disk answers.
    ///
    /// # Errors
    ///
    /// If memory or disk cannot be read; the alarms stay as they were.
    pub fn look(&self) -> io::Result<()> {
        let resident = memory_resident()?;
        let free = disk_free(&self.data_dir)?;
        self.memory_resident.store(resident, Ordering::Relaxed);
        self.disk_free.store(free, Ordering::Relaxed);
        self.decide();
        Ok(())
    }

    /// The store's own word: a write found no space, or writes succeed again.
    pub fn set_store_full(&self, full: bool) {
        if self.store_full.swap(full, Ordering::Relaxed) != full {
            self.decide();
        }
    }

    /// Looks at intervals for ever; drop the future to stop.
    pub async fn keep_looking(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            ticks.tick().await;
            let alarms = Arc::clone(&self);
            // A disk that hangs must not take a thread that serves connections with it.
            let looked = tokio::task::spawn_blocking(move || alarms.look()).await;
            let failure = looked.ok().and_then(Result::err);
            if let (Some(error), false) = (&failure, failed) {
                warn!(%error, "memory and disk cannot be read; alarms stay as they are");
            }
            failed = failure.is_some();
        }
    }

    /// Which alarms are raised now.
    #[must_use]
    pub fn raised(&self) -> Raised {
        *self.raised.borrow()
    }

    /// Tells of every change; a slow subscriber sees the newest only.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Raised> {
        self.raised.subscribe()
    }

    /// What was read last.
    #[must_use]
    pub fn readings(&self) -> Readings {
        Readings {
            memory_resident: self.memory_resident.load(Ordering::Relaxed),
            memory_limit: self.memory_limit,
            disk_free: self.disk_free.load(Ordering::Relaxed),
            disk_limit: self.disk_limit,
        }
    }

    fn decide(&self) {
        let readings = self.readings();
        let now = Raised {
            memory: readings.memory_resident > readings.memory_limit,
            disk: readings.disk_free < readings.disk_limit
                || self.store_full.load(Ordering::Relaxed),
        };
        let mut before = Raised::default();
        let changed = self.raised.send_if_modified(|raised| {
            before = std::mem::replace(raised, now);
            before != now
        });
        if changed {
            log_changes(before, now, readings);
        }
    }
}

fn log_changes(before: Raised, now: Raised, readings: Readings) {
    let (resident, limit) =
        (show_bytes(readings.memory_resident), show_bytes(readings.memory_limit));
    match (before.memory, now.memory) {
        (false, true) => warn!(%resident, %limit, "memory alarm raised: publishers are blocked"),
        (true, false) => info!(%resident, %limit, "memory alarm cleared"),
        (true, true) | (false, false) => {}
    }
    let (free, limit) = (show_bytes(readings.disk_free), show_bytes(readings.disk_limit));
    match (before.disk, now.disk) {
        (false, true) => warn!(%free, %limit, "disk alarm raised: publishers are blocked"),
        (true, false) => info!(%free, %limit, "disk alarm cleared"),
        (true, true) | (false, false) => {}
    }
}

/// Resident memory of this process, in bytes.
///
/// # Errors
///
/// If `/proc` is not there or not as Linux writes it.
pub fn memory_resident() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 =
        statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).ok_or_else(
            || io::Error::new(io::ErrorKind::InvalidData, "/proc/self/statm has no resident size"),
        )?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Bytes that this user may still write to the file system of `path`.
fn disk_free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Memory of the machine or of the cgroup, whichever is less, in bytes.
fn memory_total() -> io::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let machine = parse_meminfo(&meminfo).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal")
    })?;
    Ok(cgroup_limit().map_or(machine, |limit| limit.min(machine)))
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The lowest limit on the way from our cgroup to the root, of version 2 or 1.
fn cgroup_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let version_2 =
        Path::new(path).ancestors().map(|p| Path::new("/sys/fs/cgroup").join(p).join("memory.max"));
    let version_1 = PathBuf::from("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    version_2
        .chain([version_1])
        .filter_map(|file| fs::read_to_string(file).ok())
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of memory between 0 and 1 needs no exact bytes"
)]
fn share(total: u64, fraction: f64) -> u64 {
    (total as f64 * fraction) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarms(memory_high: MemoryLevel, disk_free_min: u64) -> Alarms {
        let levels = AlarmLevels { memory_high, disk_free_min, interval: Duration::from_secs(1) };
        Alarms::new(&levels, Path::new("/")).unwrap()
    }

    #[test]
    fn memory_above_its_level_raises_the_alarm() {
        assert!(alarms(MemoryLevel::Bytes(1), 0).raised().memory);
        assert!(!alarms(MemoryLevel::Fraction(1.0), 0).raised().any());
    }

    #[test]
    fn a_disk_with_less_than_its_level_raises_the_alarm() {
        let raised = alarms(MemoryLevel::Fraction(1.0), u64::MAX).raised();

        assert_eq!((raised.disk, raised.reason()), (true, "low on disk"));
    }

    #[test]
    fn the_stores_word_raises_and_clears_the_alarm_and_subscribers_hear_of_it() {
        let alarms = alarms(MemoryLevel::Fraction(1.0), 0);
        let mut heard = alarms.subscribe();

        alarms.set_store_full(true);
        assert!(heard.has_changed().unwrap() && heard.borrow_and_update().disk);

        alarms.look().unwrap();
        assert!(alarms.raised().disk, "free space alone does not overrule the store");

        alarms.set_store_full(false);
        assert!(heard.has_changed().unwrap() && !heard.borrow_and_update().any());
    }

    #[test]
    fn readings_are_those_of_this_process() {
        let readings = alarms(MemoryLevel::Fraction(0.5), 0).readings();

        assert!(readings.memory_resident > 100_000);
        assert!(readings.memory_limit > readings.memory_resident);
    }

    #[test]
    fn the_machines_memory_is_read_in_kibibytes() {
        assert_eq!(
            parse_meminfo("MemTotal:        4014812 kB\nMemFree: 1 kB"),
            Some(4_014_812 * 1024)
        );
        assert_eq!(parse_meminfo("MemFree: 1 kB"), None);
    }
}
