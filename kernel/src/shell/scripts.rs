//! Lab scripts at boot: the one that QEMU hands over, then those of the boot
//! image that the command line names. Calls `fw_cfg`, `ramdisk`.

use super::Shell;
use crate::console::{self, input};
use crate::fw_cfg::FwCfg;
use crate::ramdisk;
use crate::take::Take;
use ::shell::Verdict;
use quarry_kernel::archive;
use selftest::Filter;

/// The file that QEMU hands over.
const FILE: &str = "opt/quarry/lab";
/// Bytes that it may have.
const MAX: usize = 128 * 1024;

static TEXT: Take<[u8; MAX]> = Take::new([0; MAX]);

/// Where scripts lie in the boot image.
const PREFIX: &str = "lab/";

impl Shell {
    /// Runs all scripts that this boot is to run, each in a lab of its own.
    /// Returns whether all went well. What the last one holds at its end stays
    /// held.
    pub(crate) fn scripts(&mut self, names: Option<&str>) -> bool {
        let mut all = self.handed_over();
        for pattern in names.into_iter().flat_map(|names| names.split(',')) {
            let found = ramdisk::with(|bytes| {
                let mut found = false;
                for (name, text) in archive::sections(bytes) {
                    let name = core::str::from_utf8(name).unwrap_or_default();
                    let Some(name) = name.strip_prefix(PREFIX) else { continue };
                    if Filter::new(pattern).selects(name, "") {
                        found = true;
                        all &= self.script(name, text);
                    }
                }
                found
            });
            if !found {
                log::error!("lab: the boot image has no script {pattern}");
                all = false;
            }
        }
        all
    }

    /// The script that QEMU hands over, if it does. Returns whether it went well.
    fn handed_over(&mut self) -> bool {
        let Some(device) = FwCfg::detect() else { return true };
        let Some(file) = device.file(FILE) else { return true };
        let len = file.size as usize;
        if len > MAX {
            log::error!("lab: {FILE} has {len} bytes, more than {MAX}");
            return false;
        }
        let Some(buffer) = TEXT.take() else { return false };
        let text = &mut buffer[..len];
        device.read(file, text);
        self.script(FILE, text)
    }

    fn script(&mut self, name: &str, text: &[u8]) -> bool {
        self.lab.reset();
        input::take_interrupt();
        console::line(format_args!("lab: {name}"));
        self.lab.world_mut().hold_workers(true);
        let verdict = self.lab.script(text);
        self.lab.world_mut().hold_workers(false);
        matches!(verdict, Verdict::Ok(_))
    }
}
