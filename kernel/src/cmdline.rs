//! Where the kernel's command line comes from: QEMU's firmware configuration
//! device, else the boot image. Calls `fw_cfg`, `ramdisk`.

use crate::fw_cfg::FwCfg;
use crate::ramdisk;
use quarry_kernel::archive;
use spin::Once;

/// The file that QEMU hands over.
const FILE: &str = "opt/quarry/cmdline";

/// Bytes of a command line at most (Linux x86: 2048).
const MAX: usize = 4096;

struct Buffer {
    text: [u8; MAX],
    len: usize,
}

static CMDLINE: Once<Buffer> = Once::new();

/// The command line of this boot; found out when it is first asked for. It has
/// no control characters.
pub(crate) fn get() -> &'static str {
    let buffer = CMDLINE.call_once(|| {
        let mut buffer = Buffer { text: [0; MAX], len: 0 };
        if !from_fw_cfg(&mut buffer) {
            from_ramdisk(&mut buffer);
        }
        buffer
    });
    core::str::from_utf8(&buffer.text[..buffer.len]).unwrap_or_default()
}

/// Takes the firmware's command line, if there is one (it may be empty).
fn from_fw_cfg(buffer: &mut Buffer) -> bool {
    let Some(device) = FwCfg::detect() else { return false };
    let Some(file) = device.file(FILE) else { return false };
    let len = (file.size as usize).min(MAX);
    let mut text = [0; MAX];
    device.read(file, &mut text[..len]);
    log::info!("cmdline: from fw_cfg");
    store(buffer, &text[..len], file.size as usize > MAX);
    true
}

fn from_ramdisk(buffer: &mut Buffer) {
    ramdisk::with(|bytes| match archive::section(bytes, "cmdline") {
        Some(body) => {
            log::info!("cmdline: from the boot image");
            store(buffer, body, false);
        }
        None if archive::is_utf16(bytes) => {
            log::warn!("the file `ramdisk` was saved as UTF-16 and cannot be read; want UTF-8");
        }
        None if bytes.is_empty() => log::warn!("the boot loader has found no file `ramdisk`"),
        None => log::warn!("the file `ramdisk` has no section `cmdline`"),
    });
}

/// Keeps `text` as one line; says what of it is lost, more than is known already.
fn store(buffer: &mut Buffer, text: &[u8], was_cut: bool) {
    let joined = archive::join_lines(text, &mut buffer.text);
    buffer.len = joined.len;
    if joined.too_long || was_cut {
        log::warn!("the command line is longer than {MAX} bytes; the rest is ignored");
    }
    if joined.not_utf8 {
        log::warn!("the command line is not all UTF-8; the rest is used");
    }
}
