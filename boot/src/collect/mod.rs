//! `quarry collect`: every report file of a running Quarry, into a directory.
//! Calls `session`, `transcript`, `run`.

pub mod session;
pub mod transcript;

use anyhow::{Context, Result, bail};
use mm::proc::{BLOCK_FILES, MEMORY_BLOCKS};
use session::Session;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use transcript::{Unusable, replies};

/// Files that the kernel has beside those that the memory manager reports.
const OTHERS: [&str; 3] = ["/proc/cmdline", "/proc/iomem", "/sys/kernel/debug/quarry/virtio_mem"];
/// Where each memory block has a directory of files.
const BLOCKS: &str = "/sys/devices/system/memory";
/// Knobs that can only be turned: nothing to read.
const WRITE_ONLY: [&str; 1] = ["/proc/sys/vm/compact_memory"];
/// Files with a word for each page frame, which take long.
const FRAMES: [&str; 2] = ["/proc/kpagecount", "/proc/kpageflags"];
/// The file whose counters change when anything is allocated.
const PULSE: &str = "/proc/vmstat";
/// The command that prints the log.
const LOG: &str = "dmesg";
/// Lets workers do what they have to, such as giving empty slabs back.
const REST: &str = "tick 5000";
/// Times that a machine may take such a rest.
const RESTS: u32 = 20;
/// Rests in a row without an event that make a machine count as quiet: what was
/// in use lately is not given back at the first look.
const QUIET: u32 = 2;
/// Times that all files are read.
const ATTEMPTS: u32 = 4;

/// What a session has brought.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Files {
    /// Contents by path.
    pub contents: BTreeMap<String, Vec<u8>>,
    /// What the machine would not show, by path, and why.
    pub refused: BTreeMap<String, String>,
}

/// The paths of all files that there are to collect.
pub fn paths() -> impl Iterator<Item = &'static str> {
    let readable = |path: &&str| !WRITE_ONLY.contains(path);
    OTHERS.into_iter().chain(mm::proc::FILES.iter().copied().filter(readable))
}

/// The name of a file in the directory: `/proc/buddyinfo` is `proc_buddyinfo`.
pub fn file_name(path: &str) -> String {
    path.trim_start_matches('/').replace('/', "_")
}

/// Has a command run before the files are read, and shows what it says.
///
/// # Errors
/// It failed, or the machine does not answer.
pub fn do_first(session: &mut Session, line: &str) -> Result<()> {
    session.command(line)?;
    let replies = replies(session.transcript());
    let Some(reply) = replies.last() else { bail!("{line}: no answer") };
    eprint!("{line}\n{}", reply.text);
    match reply.content() {
        Err(Unusable::Refused(why)) => bail!("{line}: {why}"),
        _ => Ok(()),
    }
}

/// Reads all files over a session whose prompt has been seen, those with a word
/// for each frame if `frames`. On a machine at
/// rest they agree with each other: they are read again until nothing has
/// happened meanwhile. False if it never was at rest. The files of each memory
/// block are as many as the machine is large, and come with those of frames.
///
/// # Errors
/// The machine does not answer, or not with files.
pub fn read_all(session: &mut Session, frames: bool) -> Result<(Files, bool)> {
    let mut before = pulse(session)?;
    let mut quiet = 0;
    for _ in 0..RESTS {
        session.command(REST)?;
        let after = pulse(session)?;
        quiet = if after == before { quiet + 1 } else { 0 };
        if quiet == QUIET {
            break;
        }
        before = after;
    }
    for _ in 1..ATTEMPTS {
        let files = read_once(session, frames)?;
        if files.contents.get(PULSE) == pulse(session)?.as_ref() {
            return Ok((files, true));
        }
    }
    Ok((read_once(session, frames)?, false))
}

/// The counters as they are now.
fn pulse(session: &mut Session) -> Result<Option<Vec<u8>>> {
    session.command(&format!("cat {PULSE}"))?;
    Ok(contents(session.transcript())?.contents.remove(PULSE))
}

fn read_once(session: &mut Session, frames: bool) -> Result<Files> {
    session.command(LOG)?;
    // First of all: what comes later must not have changed it.
    session.command(&format!("cat {PULSE}"))?;
    let wanted = |path: &&str| *path != PULSE && (frames || !FRAMES.contains(path));
    for path in paths().filter(wanted) {
        session.command(&format!("cat {path}"))?;
    }
    if frames {
        let blocks = session.ask(&format!("cat {MEMORY_BLOCKS}"))?;
        for path in blocks.text.lines().filter_map(block_files).flatten() {
            session.command(&format!("cat {path}"))?;
        }
    }
    contents(session.transcript())
}

/// The files of the memory block that has this line among all blocks.
fn block_files(line: &str) -> Option<impl Iterator<Item = String>> {
    let (name, rest) = line.split_once(' ')?;
    let number = name.strip_prefix("memory")?;
    let number = number.bytes().all(|b| b.is_ascii_digit()).then_some(number)?;
    let node = rest.split(' ').find_map(|word| word.strip_prefix("node="))?;
    let files = BLOCK_FILES.iter().map(|&file| file.to_owned()).chain([format!("node{node}")]);
    Some(files.map(move |file| format!("{BLOCKS}/memory{number}/{file}")))
}

/// The files that were printed in a session, each as it was the last time.
///
/// # Errors
/// None was printed, or one was lost on the way.
pub fn contents(transcript: &[u8]) -> Result<Files> {
    let mut files = Files::default();
    for reply in replies(transcript) {
        if reply.command == LOG {
            files.contents.insert(LOG.into(), reply.text.into_bytes());
        } else if let Some(path) = reply.command.strip_prefix("cat ") {
            let path = path.trim().to_owned();
            files.contents.remove(&path);
            files.refused.remove(&path);
            match reply.content() {
                Ok(content) => drop(files.contents.insert(path, content)),
                Err(Unusable::Refused(why)) => drop(files.refused.insert(path, why)),
                Err(error @ Unusable::Garbled) => bail!("{path}: {error}"),
            }
        }
    }
    if !files.contents.keys().any(|path| path.starts_with('/')) {
        bail!("no file was printed");
    }
    Ok(files)
}

/// Writes the files into `dir`, which need not exist.
///
/// # Errors
/// One cannot be written.
pub fn save(dir: &Path, files: &Files) -> Result<()> {
    let what = || format!("cannot write to {}", dir.display());
    fs::create_dir_all(dir).with_context(what)?;
    for (path, content) in &files.contents {
        fs::write(dir.join(file_name(path)), content).with_context(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_people_name_such_dumps() {
        assert_eq!(file_name("/proc/buddyinfo"), "proc_buddyinfo");
        assert_eq!(file_name("/proc/sys/vm/min_free_kbytes"), "proc_sys_vm_min_free_kbytes");
        assert_eq!(file_name("dmesg"), "dmesg");
        assert!(paths().any(|path| path == PULSE));
        let names: Vec<_> = paths().map(file_name).collect();
        assert!(names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)));
    }

    #[test]
    fn each_memory_block_has_files() {
        let line = "memory32 0x100000000-0x107ffffff online zones=Movable node=1 pages=32768";
        let files: Vec<_> = block_files(line).unwrap().collect();
        assert_eq!(files.len(), BLOCK_FILES.len() + 1);
        assert!(files.contains(&"/sys/devices/system/memory/memory32/state".to_owned()));
        assert!(files.contains(&"/sys/devices/system/memory/memory32/node1".to_owned()));
        for line in ["", "memory", "memory1", "memoryx node=1", "[    1.2] memory3 node=1"] {
            assert!(block_files(line).is_none(), "{line}");
        }
    }

    #[test]
    fn files_of_a_session_are_saved() {
        let session = "quarry> cat /proc/a\r\nold\r\nquarry> dmesg\r\n[    0.000001] hello\r\n\
             quarry> cat /proc/a\r\nnew\r\nquarry> cat /proc/b\r\nerror: ENOENT: no such file\r\n\
             quarry> cat /proc/kpageflags\r\nbegin-base64 444 kpageflags\r\nAAECAwQFBgc=\r\n====\r\nquarry> ";
        let files = contents(session.as_bytes()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        save(&dir, &files).unwrap();
        assert_eq!(fs::read(dir.join("proc_a")).unwrap(), b"new\n");
        assert_eq!(fs::read(dir.join("dmesg")).unwrap(), b"[    0.000001] hello\n");
        assert_eq!(fs::read(dir.join("proc_kpageflags")).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(!dir.join("proc_b").exists());
        assert_eq!(files.refused["/proc/b"], "error: ENOENT: no such file");
        assert!(contents(b"quarry> help\r\nhelp\r\nquarry> ").is_err());
        let cut = session.replace("====\r\n", "");
        assert!(contents(cut.as_bytes()).is_err());
    }
}
