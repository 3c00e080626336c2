//! Processes as the system sees them.

use std::{collections::BTreeMap, fs, io, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{Pid as RawPid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// A process that somebody started. It may have ended.
#[derive(Debug)]
pub struct Pid {
    raw: RawPid,
    /// Refers to this very process even when its number is given to another.
    handle: Option<OwnedFd>,
}

impl Pid {
    pub fn new(id: u32) -> io::Result<Self> {
        let raw = i32::try_from(id).ok().and_then(RawPid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::other(format!("{id} is no process id")))?;
        Ok(Pid { raw, handle: pidfd_open(raw, PidfdFlags::empty()).ok() })
    }

    pub fn id(&self) -> u32 {
        self.raw.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn interrupt(&self) -> io::Result<()> {
        Ok(kill_process(self.raw, Signal::INT)?)
    }

    pub fn terminate(&self) -> io::Result<()> {
        Ok(kill_process(self.raw, Signal::TERM)?)
    }

    /// Ends it in a way that makes runtimes say where they are.
    pub fn abort(&self) -> io::Result<()> {
        Ok(kill_process(self.raw, Signal::ABORT)?)
    }

    /// As `kill -9` does.
    pub fn kill(&self) -> io::Result<()> {
        Ok(kill_process(self.raw, Signal::KILL)?)
    }

    /// Stops it where it is, until it is resumed: nothing of it runs, and nobody is told.
    pub fn stop(&self) -> io::Result<()> {
        Ok(kill_process(self.raw, Signal::STOP)?)
    }

    pub fn resume(&self) -> io::Result<()> {
        Ok(kill_process(self.raw, Signal::CONT)?)
    }

    /// Waits until the process has ended, at most `patience`; says whether it has.
    pub fn wait_end(&self, patience: Duration) -> bool {
        let Some(handle) = &self.handle else { return true };
        let timeout = Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(patience.subsec_nanos()),
        };
        let mut fds = [PollFd::new(handle, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timeout)), Ok(1..))
    }
}

/// The processes that `parent` started and that still live.
pub fn children_of(parent: u32) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&id| stat_field(id, 4) == Some(u64::from(parent)))
        .filter_map(|id| Pid::new(id).ok())
        .collect()
}

/// The first argument of a process: the subcommand.
pub(crate) fn command_of(id: u32) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
    line.split('\0').nth(1).map(str::to_owned)
}

/// Processor time a process has used in all its threads, user and system.
pub fn cpu_time(id: u32) -> Option<Duration> {
    let ticks = stat_field(id, 14)? + stat_field(id, 15)?;
    let rate = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(ticks * 1000 / rate))
}

/// How often each thread of a process has slept and been woken.
pub fn wake_ups(id: u32) -> BTreeMap<u32, u64> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let wake_ups = |thread: &fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    threads
        .filter_map(|thread| Some((thread.file_name().to_str()?.parse().ok()?, wake_ups(&thread)?)))
        .collect()
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Its own memory that is in use now, in KiB: no pages of files or shared ones.
    pub memory: u64,
    pub threads: u64,
    /// Files and sockets that it has open.
    pub files: u64,
}

pub fn footprint(id: u32) -> Option<Footprint> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let files = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count() as u64;
    Some(Footprint { memory: field("RssAnon:")?, threads: field("Threads:")?, files })
}

/// A field of `/proc/ID/stat`, numbered as in its manual page; those after the name only.
fn stat_field(id: u32, number: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(number - 3)?.parse().ok()
}
