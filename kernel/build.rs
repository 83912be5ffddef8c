//! Gives the kernel its build id: what `git describe` says of the sources, or
//! a hash of them where there is no repository (or no git).

// A program of the host, where an allocation that fails may end it.
#![allow(clippy::disallowed_macros)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that end up in the kernel, as seen from this one.
const SOURCES: [&str; 4] = [".", "../mm", "../selftest", "../Cargo.lock"];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    // A commit moves HEAD's log, and changes the answer without any source.
    if let Some(git_dir) = git(&["rev-parse", "--absolute-git-dir"]) {
        let log = Path::new(&git_dir).join("logs/HEAD");
        if log.exists() {
            println!("cargo::rerun-if-changed={}", log.display());
        }
    }
    let id = git(&["describe", "--always", "--dirty", "--abbrev=12"])
        .unwrap_or_else(|| format!("sources-{:016x}", hash_of(&SOURCES)));
    println!("cargo::rustc-env=QUARRY_BUILD_ID={id}");
}

/// Standard output of a git command that succeeded and said something.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// FNV-1a over names and contents of all files, in sorted order.
fn hash_of(roots: &[&str]) -> u64 {
    let mut files = Vec::new();
    for root in roots {
        collect(Path::new(root), &mut files);
    }
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for file in files {
        mix(file.to_string_lossy().as_bytes());
        mix(&fs::read(&file).unwrap_or_default());
    }
    hash
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(path) else {
        files.push(path.to_owned());
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name() != "target" {
            collect(&entry.path(), files);
        }
    }
}
