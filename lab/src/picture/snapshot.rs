//! Snapshots of memory, found in a file of their own or in whatever log they were
//! printed to. Pure.

use mm::census::{BlockRun, Usage};
use mm::proc::PAGEBLOCKS;
use mm::types::PAGEBLOCK_PAGES;
use shell::SNAPSHOT;
use std::fmt;

/// What was in each pageblock at some moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// What it is called.
    pub name: String,
    /// Its pageblocks, lowest first.
    pub runs: Vec<BlockRun>,
}

/// Why a text has no snapshots that can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// The line, from 1 on; 0 if it is no single one.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.why)
    }
}

impl std::error::Error for Unreadable {}

impl Snapshot {
    /// Pages of that usage.
    pub fn pages(&self, usage: Usage) -> u64 {
        self.runs.iter().map(|run| run.blocks() * run.block.pages(usage)).sum()
    }

    /// Pageblocks that are one free piece each.
    pub fn whole_blocks(&self) -> u64 {
        self.runs.iter().filter(|run| run.block.is_whole()).map(BlockRun::blocks).sum()
    }

    /// Movable pages that were elsewhere in `before`: there are at least so many.
    pub fn moved_since(&self, before: &Self) -> u64 {
        let movable = |run: &BlockRun| run.block.pages(Usage::Movable);
        let gained = |from: &Self, to: &Self| -> u64 {
            let mut old = from.runs.iter().peekable();
            let mut gained = 0;
            for run in &to.runs {
                let mut at = run.range.start;
                while at < run.range.end {
                    while old.next_if(|old| old.range.end <= at).is_some() {}
                    let next = old.peek().copied();
                    let there = next.filter(|old| old.range.start <= at);
                    let next = match (there, next) {
                        (Some(old), _) => old.range.end,
                        (None, Some(later)) => later.range.start,
                        (None, None) => run.range.end,
                    };
                    let next = next.min(run.range.end);
                    let more = movable(run).saturating_sub(there.map_or(0, movable));
                    gained += more * ((next.0 - at.0) / PAGEBLOCK_PAGES);
                    at = next;
                }
            }
            gained
        };
        // Pages that came or went altogether have not moved.
        gained(before, self).min(gained(self, before))
    }
}

/// Whether a line is one of a kernel's log, which may come in between.
fn is_log(line: &str) -> bool {
    let stamp = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    stamp.is_some_and(|(time, _)| time.trim_start().parse::<f64>().is_ok())
}

/// All snapshots in a text: the file `pageblocks` as it is, or a log in which it
/// was printed, by `cat` or by `snapshot NAME`. One that has no name gets `name`.
///
/// # Errors
/// What is wrong with the first one that cannot be read, or that there is none.
pub fn read(text: &str, name: &str) -> Result<Vec<Snapshot>, Unreadable> {
    let mut snapshots: Vec<Snapshot> = Vec::new();
    let mut open: Option<Snapshot> = None;
    let mut named = None;
    for (line, text) in text.lines().enumerate() {
        let text = text.trim_end();
        let wrong = |why: String| Err(Unreadable { line: line + 1, why });
        if let Some(name) = text.strip_prefix(SNAPSHOT) {
            named = Some(name.to_owned());
        } else if let Some(rest) = text.strip_prefix(PAGEBLOCKS) {
            if rest == format!("{PAGEBLOCK_PAGES} pages each") {
                if open.is_some() {
                    return wrong("the snapshot before has no end".into());
                }
                let name = named.take().unwrap_or_else(|| name.to_owned());
                open = Some(Snapshot { name, runs: Vec::new() });
                continue;
            }
            let Some(snapshot) = open.take() else {
                return wrong(
                    "the end of a snapshot that has not begun, or of another kind".into(),
                );
            };
            let blocks: u64 = snapshot.runs.iter().map(BlockRun::blocks).sum();
            if rest != format!("end, {blocks} blocks") {
                return wrong(format!("it ends otherwise than with `end, {blocks} blocks`"));
            }
            snapshots.push(snapshot);
        } else if let Some(snapshot) = open.as_mut().filter(|_| !is_log(text)) {
            let run: BlockRun = match text.parse() {
                Ok(run) => run,
                Err(why) => return wrong(format!("{why}: {:?}", excerpt(text))),
            };
            if snapshot.runs.last().is_some_and(|last| last.range.end > run.range.start) {
                return wrong("the frames are not above those of the line before".into());
            }
            snapshot.runs.push(run);
        }
    }
    let whole = |why: String| Err(Unreadable { line: 0, why });
    match (open, snapshots.is_empty()) {
        (Some(snapshot), _) => whole(format!("the snapshot {} is not complete", snapshot.name)),
        (None, true) => whole(
            "there is no snapshot in it: want /sys/kernel/debug/quarry/pageblocks, \
             or what `snapshot NAME` printed"
                .into(),
        ),
        (None, false) => Ok(snapshots),
    }
}

/// The beginning of a line, for a message.
fn excerpt(line: &str) -> String {
    line.chars().take(60).collect()
}
