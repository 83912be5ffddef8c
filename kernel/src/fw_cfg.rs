//! QEMU's firmware configuration device, by its two ports: files that the
//! command line of QEMU hands to the guest. Calls the pure `fw_cfg_dir`.

use quarry_kernel::fw_cfg_dir::{ENTRY_LEN, File, MAX_ENTRIES, entry_named};
use x86_64::instructions::port::{PortReadOnly, PortWriteOnly};

const SELECTOR: PortWriteOnly<u16> = PortWriteOnly::new(0x510);

const DATA: u16 = 0x511;

/// Item that reads `QEMU` where the device is.
const SIGNATURE: u16 = 0x00;
/// Item that holds the directory of files.
const FILE_DIR: u16 = 0x19;

/// The device, found by its signature.
pub(crate) struct FwCfg(());

impl FwCfg {
    /// The device, if one answers.
    pub(crate) fn detect() -> Option<Self> {
        let mut signature = [0; 4];
        read_item(SIGNATURE, &mut signature);
        (&signature == b"QEMU").then_some(Self(()))
    }

    /// The file called `name`.
    pub(crate) fn file(&self, name: &str) -> Option<File> {
        let mut count = [0; 4];
        read_item(FILE_DIR, &mut count);
        let count = u32::from_be_bytes(count).min(MAX_ENTRIES);
        // Reading goes on where it stopped: with the first entry.
        (0..count).find_map(|_| {
            let mut entry = [0; ENTRY_LEN];
            read_on(&mut entry);
            entry_named(&entry, name)
        })
    }

    /// Fills `buffer` from the start of `file`.
    pub(crate) fn read(&self, file: File, buffer: &mut [u8]) {
        read_item(file.selector, buffer);
    }
}

fn read_item(selector: u16, buffer: &mut [u8]) {
    let mut port = SELECTOR;
    // SAFETY: selects an item of the device; where there is no device, nothing
    // listens at this port.
    unsafe { port.write(selector) };
    read_on(buffer);
}

fn read_on(buffer: &mut [u8]) {
    let mut port: PortReadOnly<u8> = PortReadOnly::new(DATA);
    for byte in buffer {
        // SAFETY: reading moves the device's offset, which `read_item` resets.
        *byte = unsafe { port.read() };
    }
}
