//! Starts `peers`, which compares the manager with other allocators: a program
//! of its own, so that only those who want the comparison build the others.

use std::path::Path;
use std::process::{Command, exit};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = root.join("peers/Cargo.toml");
    if !manifest.is_file() {
        eprintln!("the comparison with other allocators is not part of this package");
        return;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--release", "--quiet", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target.join("peers"))
        .arg("--")
        // What cargo tells every benchmark is not meant for the program.
        .args(std::env::args().skip(1).filter(|argument| argument != "--bench"))
        .status();
    match status {
        Ok(status) => exit(status.code().unwrap_or(1)),
        Err(error) => {
            eprintln!("cargo cannot be started: {error}");
            exit(1);
        }
    }
}
