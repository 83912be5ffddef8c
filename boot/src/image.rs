//! Makes disk images: kernel, ramdisk and boot loader in one file each.

use crate::archive::Archive;
use crate::cargo::{Build, Workspace};
use crate::options::Firmware;
use crate::symbols;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds everything and writes `quarry-<firmware>.img` into `dir` for each of
/// `firmwares`, with `cmdline` built in. Returns the images in that order.
///
/// An image appears under its name only when it is whole, so one that a machine
/// is running from stays as it was.
///
/// # Errors
///
/// Something does not build or a file cannot be written.
pub fn make(
    workspace: &Workspace,
    dir: &Path,
    build: Build,
    firmwares: &[Firmware],
    cmdline: &str,
) -> Result<Vec<PathBuf>> {
    let kernel = workspace.kernel(build)?;
    let writer = workspace.image_writer()?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let scratch = tempfile::tempdir_in(dir).context("cannot make a scratch directory")?;

    let elf = fs::read(&kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let ramdisk = scratch.path().join("ramdisk");
    let scripts = lab_scripts(&workspace.root().join("lab/stories"))?;
    fs::write(&ramdisk, self::ramdisk(&elf, cmdline, &scripts)?)?;

    // The loader reads the file whole, sector by sector on a BIOS: leave out
    // what only a debugger wants.
    let stripped = scratch.path().join(LABEL);
    let mut strip = Command::new(workspace.llvm_tool("llvm-objcopy")?);
    let status = strip.arg("--strip-all").arg(&kernel).arg(&stripped).status()?;
    ensure!(status.success(), "the kernel could not be stripped");

    let mut images = Vec::new();
    for firmware in firmwares {
        let new = scratch.path().join(image_name(*firmware));
        let mut write = Command::new(&writer);
        write.arg(firmware.name()).args([&stripped, &ramdisk, &new]);
        ensure!(write.status()?.success(), "the {} image was not written", firmware.name());
        let image = image_path(dir, *firmware);
        fs::rename(&new, &image).with_context(|| format!("cannot write {}", image.display()))?;
        images.push(image);
    }
    Ok(images)
}

/// The boot partition's label, which the image writer makes of the kernel file's
/// name; padded as labels are.
const LABEL: &str = "QUARRY     ";

fn image_name(firmware: Firmware) -> String {
    format!("quarry-{}.img", firmware.name())
}

/// Where the image for `firmware` lies in `dir`.
pub fn image_path(dir: &Path, firmware: Firmware) -> PathBuf {
    dir.join(image_name(firmware))
}

/// What the command line's section says to who edits it.
const CMDLINE_HINT: &str = "\
# The next lines are the kernel's command line: words such as selftest=full.
# The file may be edited and saved as it is, as UTF-8; leave the lines that begin
# with ===.
";

/// A lab script to boot with: its name and text.
type Script = (String, String);

/// The scripts `*.lab` of `dir`, by name; none if there is no such directory.
fn lab_scripts(dir: &Path) -> Result<Vec<Script>> {
    let mut scripts = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return Ok(scripts) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "lab") {
            let text = fs::read_to_string(&path);
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            scripts.push((name.into_owned(), text));
        }
    }
    scripts.sort();
    Ok(scripts)
}

/// The ramdisk's bytes for the kernel in `elf`.
fn ramdisk(elf: &[u8], cmdline: &str, scripts: &[Script]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.section("cmdline", &format!("{CMDLINE_HINT}{cmdline}"))?;
    for (name, text) in scripts {
        archive.section(&format!("lab/{name}"), text)?;
    }
    archive.section("symbols", &symbols::table(elf).context("the kernel is no ELF file")?)?;
    Ok(archive.into_bytes())
}

/// Writes `<image>.sha256` beside `image`, for `sha256sum -c`; returns the sum.
///
/// # Errors
///
/// The image cannot be read or the sum not written.
pub fn write_sha256(image: &Path) -> Result<String> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let name = image.file_name().context("the image has no name")?.to_string_lossy();
    let sum = hex(&Sha256::digest(bytes));
    fs::write(format!("{}.sha256", image.display()), sha256_line(&sum, &name))?;
    Ok(sum)
}

fn sha256_line(sum: &str, name: &str) -> String {
    format!("{sum}  {name}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_kernel::{archive, symbols as kernel_symbols};

    #[test]
    fn sums_are_as_sha256sum_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("x.img");
        fs::write(&image, "abc").unwrap();
        let sum = write_sha256(&image).unwrap();
        assert_eq!(sum, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let text = fs::read_to_string(dir.path().join("x.img.sha256")).unwrap();
        assert_eq!(text, format!("{sum}  x.img\n"));
    }

    #[test]
    fn the_kernel_finds_in_the_ramdisk_what_was_put_there() {
        let elf = fs::read(std::env::current_exe().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("holes.lab"), "alloc a 3\nfree a\n").unwrap();
        fs::write(dir.path().join("areas.lab"), "cma a 16\n").unwrap();
        fs::write(dir.path().join("notes.txt"), "no script\n").unwrap();
        let scripts = lab_scripts(dir.path()).unwrap();
        let ramdisk = ramdisk(&elf, "cma=16M exit", &scripts).unwrap();
        let mut line = [0; 64];
        let joined = archive::join_lines(archive::section(&ramdisk, "cmdline").unwrap(), &mut line);
        assert_eq!(&line[..joined.len], b"cma=16M exit");
        assert_eq!(archive::section(&ramdisk, "lab/holes"), Some(&b"alloc a 3\nfree a\n"[..]));
        let names: Vec<_> = archive::sections(&ramdisk).map(|found| found.0).collect();
        assert_eq!(names, [&b"cmdline"[..], b"lab/areas", b"lab/holes", b"symbols"]);

        let table = symbols::table(&elf).unwrap();
        let (line, next) = table.lines().zip(table.lines().skip(1)).last().unwrap();
        let address =
            |line: &str| u64::from_str_radix(line.split_once(' ').unwrap().0, 16).unwrap();
        assert!(address(line) < address(next));
        let found = archive::section(&ramdisk, "symbols").unwrap();
        let (name, offset) = kernel_symbols::lookup(found, address(next) - 1).unwrap();
        assert_eq!(Some(name), line.split_once(' ').map(|(_, name)| name));
        assert_eq!(offset, address(next) - 1 - address(line));
    }

    #[test]
    fn images_are_named_after_their_firmware() {
        assert_eq!(image_path(Path::new("d"), Firmware::Uefi), Path::new("d/quarry-uefi.img"));
    }
}
