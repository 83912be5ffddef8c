//! Boots kernels that measure, and judges their figures. Calls `figures`,
//! `growth`, `run`.

use crate::cargo::{Build, Workspace};
use crate::figures::{self, Figures};
use crate::growth::{self, MACHINES};
use crate::image;
use crate::options::{BenchOptions, Firmware, RunOptions};
use crate::outcome::Outcome;
use crate::qemu;
use crate::run;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// What `quarry bench` does; returns its exit status.
///
/// # Errors
/// Something does not build, or cannot be read or written.
pub fn benchmark(options: &BenchOptions) -> Result<u8> {
    let workspace = Workspace::find()?;
    let dir = workspace.target().join("run");
    image::make(&workspace, &dir, Build::Release, &[Firmware::Bios], "")?;
    if options.growth {
        return grow(&workspace, options.save);
    }
    let root = workspace.root();
    let baseline = options.baseline.clone().unwrap_or_else(|| root.join("bench/baseline.txt"));
    let saved = read_saved(&baseline, options.check)?;
    let measured = match measure(&workspace, &figures::run_options(&options.glob))? {
        Ok(measured) => measured,
        Err(status) => return Ok(status),
    };

    print!("{}", measured.table(options.goals));
    if options.save {
        fs::write(&baseline, saved.updated(&measured).to_saved())?;
        eprintln!("quarry: {} figures saved in {}", measured.len(), baseline.display());
    }
    if options.readme {
        write_table(root, "scripts/bench --readme", &measured.table(true))?;
    }
    if options.check {
        let comparison = figures::compare(&saved, &measured, options.glob == "*");
        eprint!("{comparison}");
        return Ok(u8::from(!comparison.is_good()));
    }
    Ok(0)
}

/// Writes the table of that command into `README.md` of the sources at `root`.
///
/// # Errors
/// It cannot be read or written, or has no place for it.
pub(crate) fn write_table(root: &Path, command: &str, table: &str) -> Result<()> {
    let path = root.join("README.md");
    let text = fs::read_to_string(&path)?;
    let text = figures::replace_table(&text, command, table)
        .with_context(|| format!("{} has no place for the table", path.display()))?;
    Ok(fs::write(&path, text)?)
}

/// The baseline; without one there is nothing to compare with, unless it `must`
/// be there.
fn read_saved(path: &Path, must: bool) -> Result<Figures> {
    match fs::read_to_string(path) {
        Ok(text) => Figures::parse_saved(&text)
            .with_context(|| format!("{} cannot be understood", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must => Ok(Figures::default()),
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    }
}

/// Boots the image that is there, and reads its figures; an exit status if there
/// are none.
fn measure(workspace: &Workspace, options: &RunOptions) -> Result<Result<Figures, u8>> {
    let disk = image::image_path(&workspace.target().join("run"), Firmware::Bios);
    let args = qemu::arguments(options, &disk, None, None);
    let log = workspace.target().join("bench.log");
    let file = Some(File::create(&log)?);
    let ran = run::run(qemu::QEMU, &args, false, options.time_limit(), io::sink(), file)?;
    let outcome = Outcome::judge(ran.end, ran.seen.report);
    let measured = Figures::parse_log(&String::from_utf8_lossy(&fs::read(&log)?));
    match measured {
        Ok(measured) if outcome.status() == 0 => Ok(Ok(measured)),
        failed => {
            let why = failed.err().map_or_else(|| outcome.to_string(), |why| why.to_string());
            eprintln!("quarry: {why}; all that it said is in {}", log.display());
            Ok(Err(outcome.status().max(1)))
        }
    }
}

/// Measures on machine after machine.
fn grow(workspace: &Workspace, save: bool) -> Result<u8> {
    let mut measured = Vec::new();
    for machine in &MACHINES {
        eprintln!("quarry: a machine of {}", machine.label);
        match measure(workspace, &machine.run_options())? {
            Ok(figures) => measured.push(figures),
            Err(status) => return Ok(status),
        }
    }
    let table = growth::table(&measured);
    print!("{table}");
    if save {
        let docs = workspace.root().join("docs");
        let heading = "<!-- Written by `scripts/bench --growth --save`. -->\n\n";
        fs::write(docs.join("growth-kernel.md"), format!("{heading}{table}"))?;
        fs::write(docs.join("growth-kernel.svg"), growth::plot(&measured))?;
        eprintln!("quarry: docs/growth-kernel.md and .svg are written");
    }
    Ok(0)
}
