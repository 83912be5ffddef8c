//! `quarry-image FIRMWARE KERNEL RAMDISK IMAGE`: writes one disk image.
//!
//! A program of its own so that nothing else waits for the boot loader, which
//! is built along with it; `quarry` calls it.

use anyhow::{Result, bail};
use boot::volume;
use bootloader::DiskImageBuilder;
use std::env;
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    let [firmware, kernel, ramdisk, image] = args.as_slice() else {
        bail!("usage: quarry-image bios|uefi KERNEL RAMDISK IMAGE");
    };
    let mut builder = DiskImageBuilder::new(PathBuf::from(kernel));
    builder.set_ramdisk(PathBuf::from(ramdisk));
    let image: &Path = image.as_ref();
    match firmware.to_str() {
        Some("bios") => builder.create_bios_image(image),
        Some("uefi") => {
            builder.create_uefi_image(image)?;
            volume::rewrite(image)
        }
        _ => bail!("{} is no firmware", firmware.display()),
    }
}
