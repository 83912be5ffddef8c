//! Makes disk images: kernel, ramdisk and boot loader in one file each.

use crate::archive::Archive;
use crate::cargo::Workspace;
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
    firmwares: &[Firmware],
    cmdline: &str,
) -> Result<Vec<PathBuf>> {
    let kernel = workspace.kernel()?;
    let writer = workspace.image_writer()?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let scratch = tempfile::tempdir_in(dir).context("cannot make a scratch directory")?;

    let elf = fs::read(&kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let ramdisk = scratch.path().join("ramdisk");
    fs::write(&ramdisk, archive(workspace, &elf, cmdline)?)?;

    // The loader reads the file whole, sector by sector on a BIOS: leave out
    // what only a debugger wants.
    let stripped = scratch.path().join("kernel");
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

fn image_name(firmware: Firmware) -> String {
    format!("quarry-{}.img", firmware.name())
}

/// Where the image for `firmware` lies in `dir`.
pub fn image_path(dir: &Path, firmware: Firmware) -> PathBuf {
    dir.join(image_name(firmware))
}

/// The ramdisk's bytes for the kernel in `elf`.
fn archive(workspace: &Workspace, elf: &[u8], cmdline: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.section("cmdline", cmdline)?;
    archive.section("build", &build(&hex(&Sha256::digest(elf)), &commit(workspace)))?;
    archive.section("symbols", &symbols::table(elf).context("the kernel is no ELF file")?)?;
    Ok(archive.into_bytes())
}

/// What names the kernel in a crash report: `id`, the beginning of its ELF
/// file's sha256, and the commit it was built from.
fn build(sha256: &str, commit: &str) -> String {
    format!("id {}\ncommit {commit}\n", &sha256[..16])
}

/// The commit that is checked out, `-dirty` where files differ from it.
fn commit(workspace: &Workspace) -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(workspace.root());
    match git.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        // No git, or sources from an archive.
        _ => "unknown".to_owned(),
    }
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
    fn the_build_section_has_an_id_of_16_digits() {
        let sum = hex(&Sha256::digest("abc"));
        assert_eq!(build(&sum, "c03b125-dirty"), "id ba7816bf8f01cfea\ncommit c03b125-dirty\n");
    }

    #[test]
    fn images_are_named_after_their_firmware() {
        assert_eq!(image_path(Path::new("d"), Firmware::Uefi), Path::new("d/quarry-uefi.img"));
    }
}
