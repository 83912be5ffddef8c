//! `quarry giveback`: how a guest gives memory back, proven by what its host has.
//! Calls the experiments (`reporting`, `balloon`, `virtio_mem`, `idle`) and shows
//! what came of them.

mod balloon;
mod busy;
mod idle;
mod meter;
mod record;
mod reporting;
mod rig;
mod smaps;
mod table;
mod virtio_mem;

use crate::benchmark;
use crate::cargo::{Build, Workspace};
use crate::image;
use crate::options::{CmdLine, Experiment, Firmware, GivebackOptions, Machine, Memory, RunOptions};
use anyhow::{Context, Result};
use record::Record;
use rig::Rig;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use table::Row;

/// Memory in KiB, as Linux tells it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Kib(pub u64);

impl Kib {
    /// So many MiB.
    pub const fn of_mib(mib: u64) -> Self {
        Self(mib << 10)
    }

    /// In MiB.
    pub fn mib(self) -> f64 {
        self.0 as f64 / 1024.0
    }
}

impl fmt::Display for Kib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} MiB", self.mib())
    }
}

/// What an experiment is judged by, and what it has to tell.
#[derive(Default)]
struct Report {
    rows: Vec<Row>,
    failed: u32,
    checks: u32,
}

impl Report {
    /// Says whether something is as it should be.
    fn check(&mut self, ok: bool, what: &str) {
        println!("{}: {what}", if ok { "ok" } else { "FAILED" });
        self.checks += 1;
        self.failed += u32::from(!ok);
    }

    /// Says whether data is what it was written as.
    fn check_data(&mut self, verified: &Result<(), String>, whose: &str) {
        match verified {
            Ok(()) => self.check(true, &format!("{whose}: the data is right")),
            Err(why) => self.check(false, &format!("{whose}: the data is wrong: {why}")),
        }
    }
}

/// What experiments boot, and where they leave what they saw.
struct Lab {
    options: RunOptions,
    disk: PathBuf,
    out: PathBuf,
    docs: Option<PathBuf>,
}

impl Lab {
    /// Boots a machine of 1 GiB with more of QEMU's `arguments`.
    fn boot(&self, arguments: &[&str]) -> Result<Rig> {
        self.boot_with(self.options.machine, "", arguments)
    }

    /// Boots a machine of 1 GiB and that kind, with more on the kernel's command
    /// line and more of QEMU's `arguments`.
    fn boot_with(&self, machine: Machine, cmdline: &str, arguments: &[&str]) -> Result<Rig> {
        let mut options = self.options.clone();
        options.machine = machine;
        options.memory = Memory("1G".to_owned());
        let words = [options.append.map_or(String::new(), |line| line.0), cmdline.to_owned()];
        options.append = Some(CmdLine(words.join(" ").trim().to_owned()));
        let more = arguments.iter().flat_map(|argument| argument.split(' '));
        options.qemu.0.extend(more.map(str::to_owned));
        Rig::boot(&options, &self.disk)
    }

    /// Does `work` with a machine, switches it off, and keeps what was seen as files
    /// called after `name`, whatever came of it.
    fn work(
        &self,
        mut rig: Rig,
        report: &mut Report,
        (name, title): (&str, &str),
        work: impl FnOnce(&mut Rig, &mut Report) -> Result<()>,
    ) -> Result<()> {
        let done = work(&mut rig, report);
        // That it has nothing once it has gone is no news.
        let record = rig.record();
        if done.is_ok() {
            report.check(rig.power_off()?, &format!("{name}: the guest switches itself off"));
        }
        self.keep(&record, rig.transcript(), name, title)?;
        done
    }

    /// Leaves what was seen of a run as files called after `name`, pictures with
    /// that title.
    fn keep(&self, record: &Record, console: &[u8], name: &str, title: &str) -> Result<()> {
        write(&self.out.join(format!("{name}.csv")), record.csv().as_bytes())?;
        write(&self.out.join(format!("{name}.console")), console)?;
        let picture = record.svg(title);
        let docs = self.docs.iter().map(|docs| docs.join(format!("giveback-{name}.svg")));
        for path in docs.chain([self.out.join(format!("{name}.svg"))]) {
            write(&path, picture.as_bytes())?;
        }
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// What `quarry giveback` does; returns its exit status.
///
/// # Errors
/// Something does not build, or a file cannot be written. What a machine does not
/// do fails the experiment.
pub fn giveback(options: &GivebackOptions, mut run: RunOptions) -> Result<u8> {
    let workspace = Workspace::find()?;
    let dir = workspace.target().join("run");
    if run.image.is_none() {
        image::make(&workspace, &dir, Build::Release, &[Firmware::Bios], "")?;
    }
    let line = run.append.take().map_or(String::new(), |line| format!(" {}", line.0));
    run.append = Some(CmdLine(format!("selftest=off{line}")));
    let lab = Lab {
        disk: run.image.clone().unwrap_or_else(|| image::image_path(&dir, Firmware::Bios)),
        options: run,
        out: options.out.clone().unwrap_or_else(|| workspace.target().join("giveback")),
        docs: options.save.then(|| workspace.root().join("docs")),
    };
    fs::create_dir_all(&lab.out).with_context(|| format!("cannot make {}", lab.out.display()))?;

    let chosen = match &*options.experiments {
        [] => Experiment::ALL,
        chosen => chosen,
    };
    let mut report = Report::default();
    for experiment in chosen {
        eprintln!("quarry: {}", experiment.name());
        let done = match experiment {
            Experiment::Reporting => reporting::private(&lab, &mut report),
            Experiment::ReportingMemfd => reporting::shared(&lab, &mut report),
            Experiment::Balloon => balloon::ten_times(&lab, &mut report),
            Experiment::BalloonBelowNeed => balloon::below_need(&lab, &mut report),
            Experiment::VirtioMem => virtio_mem::up_and_down(&lab, &mut report),
            Experiment::Idle => idle::idle(&lab, &mut report),
        };
        if let Err(error) = done {
            report.check(false, &format!("{}: {error:#}", experiment.name()));
        }
    }
    let table = table::markdown(&report.rows);
    print!("{table}");
    if options.save {
        benchmark::write_table(workspace.root(), "scripts/giveback --save", &table)?;
    }
    println!("giveback: {} checks, {} failed", report.checks, report.failed);
    eprintln!("quarry: curves and consoles are in {}", lab.out.display());
    Ok(u8::from(report.failed > 0))
}
