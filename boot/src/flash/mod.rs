//! `quarry flash`: writes a boot image to a USB stick, and takes care that it is
//! one. Calls `image` for the image, `cargo` for where things are.

mod check;
mod copy;
mod device;

use crate::cargo::{Build, Workspace};
use crate::image;
use crate::options::FlashOptions;
use anyhow::{Context, Result, bail};
use device::{Device, Number, Places};
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::path::PathBuf;

/// Does what `options` ask for; the exit status.
///
/// # Errors
///
/// The device is refused, not confirmed, or does not hold afterwards what it
/// should.
pub fn flash(options: &FlashOptions) -> Result<u8> {
    let path = &options.device;
    let shown = path.display();
    let file = fs::metadata(path).with_context(|| format!("{shown} cannot be looked at"))?;
    let Some(number) = Number::of(&file) else { bail!("{shown} is no disk") };
    let look = || Places::default().device(number).with_context(|| format!("{shown}"));

    // Before a build that would be for nothing.
    refuse(&look()?, 0, options.force)?;
    let image = match &options.image {
        Some(image) => image.clone(),
        None => build(options)?,
    };
    if options.only_image {
        println!("{}", image.display());
        return Ok(0);
    }
    let open_image = || File::open(&image).with_context(|| format!("{}", image.display()));
    let len = open_image()?.metadata()?.len();
    let device = look()?;
    refuse(&device, len, options.force)?;

    eprint!("{}", describe(&device));
    eprintln!("All that is on it will be lost. To write {} to it,", image.display());
    eprint!("type its name, {}: ", device.name);
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != device.name {
        bail!("that is not its name; nothing was written");
    }

    // It took a person's time to answer.
    refuse(&look()?, len, options.force)?;
    let mut target = copy::open(path, number).with_context(|| format!("{shown}"))?;
    let progress = |done: u64| eprint!("\r{} of {} KiB", done >> 10, len >> 10);
    let written = copy::write(&mut open_image()?, &mut target, progress);
    eprintln!();
    written.with_context(|| format!("{shown}"))?;
    drop(target);
    eprintln!("reading back");
    copy::verify(&mut open_image()?, path, number).with_context(|| format!("{shown}"))?;
    eprintln!("{} holds {}, compared byte by byte", device.name, image.display());
    Ok(0)
}

/// Builds the image that is wanted, in a place of its own: those that
/// `scripts/image` leaves may be for something else.
fn build(options: &FlashOptions) -> Result<PathBuf> {
    let workspace = Workspace::find()?;
    let dir = workspace.target().join("flash");
    let cmdline = options.append.as_ref().map_or("", |line| &line.0);
    let firmware = [options.firmware];
    let images = image::make(&workspace, &dir, Build::Release, &firmware, cmdline)?;
    images.into_iter().next().context("no image was made")
}

fn refuse(device: &Device, len: u64, force: bool) -> Result<()> {
    let found = check::refusals(device, len, force);
    if found.is_empty() {
        return Ok(());
    }
    eprint!("{}", describe(device));
    let reasons: Vec<String> = found.iter().map(ToString::to_string).collect();
    bail!("{} is not written to: {}", device.name, reasons.join("; "))
}

/// The device for somebody who is to recognise it.
fn describe(device: &Device) -> String {
    let model = if device.model.is_empty() { "no model name" } else { &device.model };
    let kind = if device.removable { "removable" } else { "not removable" };
    let mut text = format!("{}: {model}, {}, {kind}\n", device.name, size(device.size));
    for (name, len) in &device.partitions {
        text += &format!("  {name}: {}\n", size(*len));
    }
    text
}

/// A size as it is printed on a stick's case, and exactly.
fn size(bytes: u64) -> String {
    let mut unit = ("bytes", 1);
    for (name, power) in [("kB", 1), ("MB", 2), ("GB", 3), ("TB", 4)] {
        if bytes >= 1000_u64.pow(power) {
            unit = (name, 1000_u64.pow(power));
        }
    }
    match unit {
        (name, 1) => format!("{bytes} {name}"),
        (name, one) => {
            format!("{}.{} {name} ({bytes} bytes)", bytes / one, bytes % one * 10 / one)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_on_the_case() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(999), "999 bytes");
        assert_eq!(size(4 << 20), "4.1 MB (4194304 bytes)");
        assert_eq!(size(16_008_609_792), "16.0 GB (16008609792 bytes)");
        assert_eq!(size(u64::MAX), "18446744.0 TB (18446744073709551615 bytes)");
    }

    #[test]
    fn a_person_sees_model_size_and_partitions() {
        let stick = device::tests::Fake::new().get("8:16").unwrap();
        assert_eq!(
            describe(&stick),
            "sdb: ACME Stick 3.0, 4.1 MB (4194304 bytes), removable\n  \
             sdb1: 1.0 MB (1048576 bytes)\n  sdb2: 2.0 MB (2097152 bytes)\n"
        );
    }
}
