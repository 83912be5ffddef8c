//! `quarry`: builds the boot images and runs them under QEMU.

use anyhow::{Context, Result, bail};
use boot::benchmark;
use boot::blind;
use boot::cargo::{Build, Workspace};
use boot::collect::{self, session::Session};
use boot::flash;
use boot::giveback;
use boot::image;
use boot::options::{
    Cli, CollectOptions, Command, Firmware, GivebackOptions, ImageOptions, RunOptions,
};
use boot::outcome::{Outcome, Reason};
use boot::qemu::{self, Ovmf};
use boot::run;
use boot::script::{Scripts, Verdict};
use clap::Parser;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Wrong usage, as clap has it too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Image(options)) => make_images(options),
        Some(Command::Flash(options)) => flash::flash(options),
        Some(Command::Run(options)) => boot(options),
        Some(Command::Bench(options)) => benchmark::benchmark(options),
        Some(Command::Collect(options)) => collect(options),
        Some(Command::Giveback(options)) => give_back(options),
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

/// A machine to be: its build, where its images are, its firmware.
struct Machine {
    workspace: Workspace,
    build: Build,
    dir: PathBuf,
    disk: PathBuf,
    ovmf: Option<Ovmf>,
}

impl Machine {
    fn new(options: &RunOptions) -> Result<Self> {
        let workspace = Workspace::find()?;
        // Apart from the images to keep: those may have a command line built in.
        let (build, dir) = match options.checked {
            false => (Build::Release, "run"),
            true => (Build::Checked, "run-checked"),
        };
        let dir = workspace.target().join(dir);
        let disk = match &options.image {
            Some(image) => image.clone(),
            None => image::image_path(&dir, options.firmware),
        };
        let ovmf = match options.firmware {
            Firmware::Bios => None,
            Firmware::Uefi => match Ovmf::find() {
                Some(ovmf) => Some(ovmf),
                None => bail!("no OVMF firmware found (on Debian and Ubuntu the package `ovmf`)"),
            },
        };
        Ok(Self { workspace, build, dir, disk, ovmf })
    }

    /// Builds the image.
    fn build(&self, options: &RunOptions) -> Result<()> {
        image::make(&self.workspace, &self.dir, self.build, &[options.firmware], "").map(|_| ())
    }
}

/// Saves every report file of a machine.
fn collect(options: &CollectOptions) -> Result<u8> {
    let Some(dir) = options.dir.as_ref().filter(|_| !options.list) else {
        collect::paths().for_each(|path| println!("{path}"));
        return Ok(0);
    };
    if let Some(path) = &options.transcript {
        let transcript = read(path).with_context(|| format!("cannot read {}", path.display()))?;
        return saved(dir, &collect::contents(&transcript)?);
    }
    let limit = Duration::from_secs(options.timeout);
    let (mut session, mut guest) = match &options.serial {
        Some(path) => (Session::open(path, limit)?, None),
        None => {
            let run = match options.run() {
                Ok(run) => run,
                Err(error) => {
                    error.print()?;
                    return Ok(USAGE);
                }
            };
            let machine = Machine::new(&run)?;
            machine.build(&run)?;
            let args = qemu::arguments(&run, &machine.disk, machine.ovmf.as_ref(), None);
            std::fs::create_dir_all(dir)?;
            let line = format!("{}\n", qemu::line(&args));
            std::fs::write(dir.join("qemu-cmdline"), line)?;
            let (guest, input, output) = run::Guest::start(qemu::QEMU, &args)?;
            (Session::new(input, output, limit), Some(guest))
        }
    };
    let read = session.log_in(options.serial.is_some()).and_then(|()| {
        eprintln!("quarry: the prompt is there");
        options.first.iter().try_for_each(|line| collect::do_first(&mut session, line))?;
        collect::read_all(&mut session, !options.no_frames)
    });
    if let Some(guest) = &mut guest {
        session.farewell("poweroff");
        guest.leave()?;
    }
    // Whatever became of it: this is what there was to see.
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("console"), session.transcript())?;
    let (files, at_rest) = read?;
    if !at_rest {
        eprintln!("quarry: the machine was never at rest: files need not agree with each other");
    }
    saved(dir, &files)
}

/// Has guests give memory back.
fn give_back(options: &GivebackOptions) -> Result<u8> {
    match options.run() {
        Ok(run) => giveback::giveback(options, run),
        Err(error) => {
            error.print()?;
            Ok(USAGE)
        }
    }
}

/// Saves the files, and tells whether all are there by the exit status.
fn saved(dir: &Path, files: &collect::Files) -> Result<u8> {
    collect::save(dir, files)?;
    for (path, why) in &files.refused {
        eprintln!("quarry: {path}: {why}");
    }
    eprintln!("quarry: {} files in {}", files.contents.len(), dir.display());
    Ok(u8::from(!files.refused.is_empty()))
}

/// Reads a file, `-` for standard input.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(path)
}

/// Boots, and tells how it went by the exit status.
fn boot(options: &RunOptions) -> Result<u8> {
    let machine = Machine::new(options)?;
    let Machine { dir, disk, ovmf, .. } = &machine;
    let scripts = match Scripts::read(&options.lab) {
        Ok(scripts) => scripts,
        Err(error) => {
            eprintln!("quarry: {error:#}");
            return Ok(USAGE);
        }
    };
    let script = (!options.lab.is_empty()).then(|| dir.join("script.lab"));
    if let Some(script) = &script {
        std::fs::create_dir_all(dir)?;
        scripts.write(script)?;
    }
    let args = qemu::arguments(options, disk, ovmf.as_ref(), script.as_deref());
    if options.dry_run {
        if !disk.exists() {
            eprintln!("quarry: there is no image yet; a run without --dry-run builds its own");
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

    if options.image.is_none() {
        machine.build(options)?;
    }
    if options.no_serial {
        return boot_blind(options, &args);
    }
    if !options.exits() {
        eprintln!("quarry: booting; Ctrl-A X leaves QEMU");
    }
    let limit = options.time_limit();
    let ran = run::run(qemu::QEMU, &args, !options.exits(), limit, io::stdout(), log)?;
    let mut outcome = Outcome::judge(ran.end, ran.seen.report);
    if !options.exits() {
        outcome = outcome.at_prompt(&ran.seen.last_line);
    }
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

/// Boots a machine that has nothing to tell by but its screen.
fn boot_blind(options: &RunOptions, args: &[String]) -> Result<u8> {
    let scratch = tempfile::tempdir().context("cannot make a scratch directory")?;
    let picture = match &options.picture {
        Some(path) => path::absolute(path)?,
        None => scratch.path().join("screen.ppm"),
    };
    let seen = blind::run(qemu::QEMU, args, options.time_limit(), &picture)?;
    let lines = seen.summary.as_ref().map_or(&seen.text, |summary| &summary.lines);
    lines.iter().for_each(|line| println!("{line}"));
    let outcome = seen.outcome();
    eprintln!("\nquarry: as the screen tells: {outcome}");
    Ok(outcome.status())
}
