//! `quarry`: builds the boot images and runs them under QEMU.

use anyhow::{Context, Result, bail};
use boot::cargo::{Build, Workspace};
use boot::figures::{self, Figures};
use boot::image;
use boot::options::{BenchOptions, Cli, Command, Firmware, ImageOptions, RunOptions};
use boot::outcome::Outcome;
use boot::qemu::{self, Ovmf};
use boot::run;
use clap::Parser;
use std::fs::{self, File};
use std::io;
use std::process::ExitCode;

/// Wrong usage, as clap has it too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Image(options)) => make_images(options),
        Some(Command::Run(options)) => boot(options),
        Some(Command::Bench(options)) => benchmark(options),
        None => boot(&cli.run),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("quarry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the images to keep.
fn make_images(options: &ImageOptions) -> Result<u8> {
    let workspace = Workspace::find()?;
    let dir = options.out.clone().unwrap_or_else(|| workspace.target().join("images"));
    let cmdline = options.append.as_ref().map_or("", |line| &line.0);
    let both = [Firmware::Bios, Firmware::Uefi];
    for path in image::make(&workspace, &dir, Build::Release, &both, cmdline)? {
        println!("{}  {}", image::write_sha256(&path)?, path.display());
    }
    Ok(0)
}

/// Boots, and tells how it went by the exit status.
fn boot(options: &RunOptions) -> Result<u8> {
    let workspace = Workspace::find()?;
    // Apart from the images to keep: those may have a command line built in.
    let (build, dir) = match options.checked {
        false => (Build::Release, "run"),
        true => (Build::Checked, "run-checked"),
    };
    let dir = workspace.target().join(dir);
    let disk = image::image_path(&dir, options.firmware);
    let ovmf = match options.firmware {
        Firmware::Bios => None,
        Firmware::Uefi => match Ovmf::find() {
            Some(ovmf) => Some(ovmf),
            None => bail!("no OVMF firmware found (on Debian and Ubuntu the package `ovmf`)"),
        },
    };
    let args = qemu::arguments(options, &disk, ovmf.as_ref());
    if options.dry_run {
        if !disk.exists() {
            eprintln!("quarry: the image is not built yet; a run without --dry-run does that");
        }
        println!("{}", qemu::line(&args));
        return Ok(0);
    }
    let log = match &options.log {
        None => None,
        Some(path) => match File::create(path) {
            Ok(file) => Some(file),
            Err(error) => {
                eprintln!("quarry: cannot write the log {}: {error}", path.display());
                return Ok(USAGE);
            }
        },
    };

    image::make(&workspace, &dir, build, &[options.firmware], "")?;
    if !options.exit {
        eprintln!("quarry: booting; Ctrl-A X leaves QEMU");
    }
    let limit = options.time_limit();
    let ran = run::run(qemu::QEMU, &args, !options.exit, limit, io::stdout(), log)?;
    let outcome = Outcome::judge(ran.end, ran.seen.report);
    eprintln!("\nquarry: {outcome}");
    if let Some(time) = ran.seen.first_ktap {
        eprintln!("quarry: first KTAP line after {:.1} s", time.as_secs_f32());
    }
    if outcome.status() != 0 && !ran.seen.last_line.is_empty() {
        eprintln!("quarry: the last line was: {}", ran.seen.last_line);
    }
    Ok(outcome.status())
}

/// Boots a kernel that measures, and judges its figures.
fn benchmark(options: &BenchOptions) -> Result<u8> {
    let workspace = Workspace::find()?;
    let root = workspace.root();
    let baseline = options.baseline.clone().unwrap_or_else(|| root.join("bench/baseline.txt"));
    let saved = match fs::read_to_string(&baseline) {
        Ok(text) => Figures::parse_saved(&text)
            .with_context(|| format!("{} cannot be understood", baseline.display()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !options.check => {
            Figures::default()
        }
        Err(error) => bail!("cannot read {}: {error}", baseline.display()),
    };

    let dir = workspace.target().join("run");
    image::make(&workspace, &dir, Build::Release, &[Firmware::Bios], "")?;
    let run_options = figures::run_options(&options.glob);
    let args = qemu::arguments(&run_options, &image::image_path(&dir, Firmware::Bios), None);
    let log = workspace.target().join("bench.log");
    let limit = run_options.time_limit();
    let ran = run::run(qemu::QEMU, &args, false, limit, io::sink(), Some(File::create(&log)?))?;
    let outcome = Outcome::judge(ran.end, ran.seen.report);
    let measured = Figures::parse_log(&String::from_utf8_lossy(&fs::read(&log)?));
    let measured = match measured {
        Ok(measured) if outcome.status() == 0 => measured,
        failed => {
            let why = failed.err().map_or_else(|| outcome.to_string(), |why| why.to_string());
            eprintln!("quarry: {why}; all that it said is in {}", log.display());
            return Ok(outcome.status().max(1));
        }
    };

    print!("{}", measured.table(options.goals));
    if options.save {
        fs::write(&baseline, saved.updated(&measured).to_saved())?;
        eprintln!("quarry: {} figures saved in {}", measured.len(), baseline.display());
    }
    if options.readme {
        let path = root.join("README.md");
        let text = fs::read_to_string(&path)?;
        let Some(text) = figures::replace_table(&text, &measured.table(true)) else {
            bail!("{} has no place for the table", path.display());
        };
        fs::write(&path, text)?;
    }
    if options.check {
        let comparison = figures::compare(&saved, &measured, options.glob == "*");
        eprint!("{comparison}");
        return Ok(u8::from(!comparison.is_good()));
    }
    Ok(0)
}
