//! Runs cargo for what `quarry` needs built, and shows that it is alive.

use anyhow::{Context, Result, ensure};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The kernel's target.
const TARGET: &str = "x86_64-unknown-none";
/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How the kernel is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Build {
    /// As it is used.
    Release,
    /// With the checks of debug builds: assertions, overflow, the order of
    /// locks, waiting and per-CPU data where they are forbidden.
    Checked,
}

impl Build {
    /// Cargo's name for it, as in the workspace's `Cargo.toml`.
    pub const fn profile(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Checked => "checked",
        }
    }
}

/// Where the sources are and where cargo leaves what it makes.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace this program was built from.
    ///
    /// # Errors
    ///
    /// The sources are gone.
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let root = root.canonicalize().context("the sources of Quarry have moved")?;
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => env::current_dir()?.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The top of the sources.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Builds the kernel as `build` says and returns its ELF file.
    ///
    /// # Errors
    ///
    /// It does not build.
    pub fn kernel(&self, build: Build) -> Result<PathBuf> {
        let args = ["-p", "kernel", "--profile", build.profile(), "--target", TARGET];
        self.build("the kernel", &args)?;
        Ok(self.target.join(TARGET).join(build.profile()).join("kernel"))
    }

    /// Builds the image writer, which takes minutes the first time: its boot
    /// loader comes in several stages, each with a core library of its own.
    ///
    /// # Errors
    ///
    /// It does not build.
    pub fn image_writer(&self) -> Result<PathBuf> {
        let args = ["-p", "boot", "--bin", "quarry-image", "--features", "image"];
        self.build("the image writer and its boot loader", &args)?;
        Ok(self.target.join("debug/quarry-image"))
    }

    fn build(&self, what: &str, args: &[&str]) -> Result<()> {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.arg("build").args(args).arg("--target-dir").arg(&self.target);
        command.current_dir(&self.root);
        eprintln!("quarry: building {what}");
        let status = alive(what, || command.status()).context("cannot run cargo")?;
        ensure!(status.success(), "{what} did not build");
        Ok(())
    }

    /// A tool of the pinned toolchain's `llvm-tools`.
    ///
    /// # Errors
    ///
    /// `rustc` does not run or the component is not installed.
    pub fn llvm_tool(&self, name: &str) -> Result<PathBuf> {
        let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--print", "target-libdir"]).current_dir(&self.root);
        let output = rustc.output().context("cannot run rustc")?;
        ensure!(output.status.success(), "rustc does not tell where its libraries are");
        let libdir = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        let tool = libdir.with_file_name("bin").join(name);
        ensure!(tool.is_file(), "{name} is missing: rustup component add llvm-tools");
        Ok(tool)
    }
}

/// Does `work`, saying every quarter of a minute that it still goes on.
fn alive<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let (done, waiting) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while waiting.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("quarry: still building {what} ({} s)", started.elapsed().as_secs());
            }
        });
        let result = work();
        drop(done);
        result
    })
}
