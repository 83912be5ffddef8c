//! How much of the host's memory backs a guest's RAM, again and again, with the
//! time. Calls `smaps`.

use super::Kib;
use super::smaps::{mappings, sum};
use anyhow::{Context, Result};
use std::fs;
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two looks. One takes some milliseconds.
const INTERVAL: Duration = Duration::from_millis(100);

/// What was seen at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sample {
    /// When.
    pub at: Instant,
    /// What was in memory.
    pub resident: Kib,
    /// What of it was in huge pages.
    pub huge: Kib,
}

/// What meter and thread share.
#[derive(Default)]
struct Seen {
    ranges: Vec<Range<u64>>,
    samples: Vec<Sample>,
}

/// Looks at a process until it is dropped.
pub(super) struct Meter {
    pid: u32,
    seen: Arc<Mutex<Seen>>,
    /// Ends the thread by going.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    /// Begins to look at what process `pid` has of its addresses `range`.
    pub(super) fn start(pid: u32, range: Range<u64>) -> Self {
        let seen = Arc::new(Mutex::new(Seen { ranges: vec![range], samples: Vec::new() }));
        let (stop, stopped) = channel();
        let theirs = Arc::clone(&seen);
        let thread = thread::spawn(move || watch(pid, &theirs, &stopped));
        Self { pid, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// Looks at these addresses too from now on.
    pub(super) fn add(&self, range: Range<u64>) {
        lock(&self.seen).ranges.push(range);
    }

    /// Looks right now.
    ///
    /// # Errors
    /// The process has gone, or its mappings are not ours to see.
    pub(super) fn now(&self) -> Result<Sample> {
        look(self.pid, &self.seen)
    }

    /// All that was seen, in order of time.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let mut samples = lock(&self.seen).samples.clone();
        samples.sort_by_key(|sample| sample.at);
        samples
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        drop(self.stop.take());
        // What it had to say is of no interest any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn watch(pid: u32, seen: &Mutex<Seen>, stopped: &Receiver<()>) {
    // A process that has gone is not looked at any more.
    while look(pid, seen).is_ok()
        && stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout)
    {}
}

fn look(pid: u32, seen: &Mutex<Seen>) -> Result<Sample> {
    let path = format!("/proc/{pid}/smaps");
    // A large process takes a while: the time is that of the end.
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let at = Instant::now();
    let mut seen = lock(seen);
    let (resident, huge) = sum(&mappings(&text), &seen.ranges);
    let sample = Sample { at, resident, huge };
    seen.samples.push(sample);
    Ok(sample)
}

/// Nothing that holds the lock leaves things half done.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_seen() {
        const LEN: usize = 64 << 20;
        let mut memory: Vec<u8> = Vec::with_capacity(LEN);
        let start = memory.as_ptr().addr() as u64;
        let meter = Meter::start(std::process::id(), start..start + LEN as u64);
        let before = meter.now().unwrap().resident;
        memory.resize(LEN, 1);
        let after = meter.now().unwrap().resident;
        assert!(after.0 >= before.0 + (LEN as u64 >> 10) * 9 / 10, "{before:?} {after:?}");
        let samples = meter.samples();
        assert!(samples.len() >= 2 && samples.is_sorted_by_key(|sample| sample.at));
    }

    #[test]
    fn no_process_is_an_error() {
        let meter = Meter::start(u32::MAX, 0..1);
        assert!(meter.now().is_err() && meter.samples().is_empty());
    }
}
