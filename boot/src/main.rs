//! `quarry`: builds the boot images and runs them under QEMU.

use anyhow::{Result, bail};
use boot::benchmark;
use boot::cargo::{Build, Workspace};
use boot::image;
use boot::options::{Cli, Command, Firmware, ImageOptions, RunOptions};
use boot::outcome::{Outcome, Reason};
use boot::qemu::{self, Ovmf};
use boot::run;
use boot::script::{Scripts, Verdict};
use clap::Parser;
use std::fs::File;
use std::io;
use std::process::ExitCode;

/// Wrong usage, as clap has it too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Image(options)) => make_images(options),
        Some(Command::Run(options)) => boot(options),
        Some(Command::Bench(options)) => benchmark::benchmark(options),
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
    let scripts = match Scripts::read(&options.lab) {
        Ok(scripts) => scripts,
        Err(error) => {
            eprintln!("quarry: {error:#}");
            return Ok(USAGE);
        }
    };
    let script = (!options.lab.is_empty()).then(|| dir.join("script.lab"));
    if let Some(script) = &script {
        std::fs::create_dir_all(&dir)?;
        scripts.write(script)?;
    }
    let args = qemu::arguments(options, &disk, ovmf.as_ref(), script.as_deref());
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
    if !options.exits() {
        eprintln!("quarry: booting; Ctrl-A X leaves QEMU");
    }
    let limit = options.time_limit();
    let ran = run::run(qemu::QEMU, &args, !options.exits(), limit, io::stdout(), log)?;
    let mut outcome = Outcome::judge(ran.end, ran.seen.report);
    if script.is_some() || ran.seen.lab.is_some() {
        outcome = outcome.with_script(ran.seen.lab);
    }
    eprintln!("\nquarry: {outcome}");
    if let Outcome::Failed(Reason::Script(Verdict::Failed(line))) = outcome
        && let Some((path, line)) = scripts.place(line)
    {
        eprintln!("quarry: that is {}:{line}", path.display());
    }
    if let Some(time) = ran.seen.first_ktap {
        eprintln!("quarry: first KTAP line after {:.1} s", time.as_secs_f32());
    }
    if ran.memory_kib > 0 {
        eprintln!("quarry: QEMU had {} MiB of this host's memory at most", ran.memory_kib >> 10);
    }
    if outcome.status() != 0 && !ran.seen.last_line.is_empty() {
        eprintln!("quarry: the last line was: {}", ran.seen.last_line);
    }
    Ok(outcome.status())
}
