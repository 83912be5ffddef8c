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
    store(buffer, &text[..len], file.size as usize);
    true
}

fn from_ramdisk(buffer: &mut Buffer) {
    ramdisk::with(|bytes| match archive::section(bytes, "cmdline") {
        Some(body) => {
            log::info!("cmdline: from the boot image");
            store(buffer, body, body.len());
        }
        None => log::warn!("the boot image has no command line"),
    });
}

/// Keeps the first line of `text`, which is cut off already if `len` says so.
fn store(buffer: &mut Buffer, text: &[u8], len: usize) {
    let line = archive::one_line(text);
    let mut cut = line.len().min(MAX);
    while !line.is_char_boundary(cut) {
        cut -= 1;
    }
    if len > MAX {
        log::warn!("the command line is longer than {MAX} bytes; the rest is ignored");
    }
    let kept = &mut buffer.text[..cut];
    kept.copy_from_slice(&line.as_bytes()[..cut]);
    for byte in kept.iter_mut().filter(|byte| byte.is_ascii_control()) {
        *byte = b' ';
    }
    buffer.len = cut;
}
