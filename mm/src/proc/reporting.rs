//! Free page reporting's knob, where Linux has it, and its counters, for which
//! Linux has no file. May call: `report`.

use super::FileError;
use super::sysctl::parse_numbers;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::Order;
use core::fmt;

/// What reporting is doing and has done: a word and a value a line.
pub const REPORTING: &str = "/sys/kernel/debug/quarry/page_reporting";

/// The smallest order that is reported: -1 until a device or somebody at the
/// prompt decides, 0 to 10 to be written.
pub const REPORT_ORDER: &str = "/sys/module/page_reporting/parameters/page_reporting_order";

impl<P: Platform> Mm<P> {
    /// Writes [`REPORTING`].
    pub(super) fn write_reporting(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let status = self.report_status();
        let device = match (status.registered, status.on) {
            (false, _) => "none",
            (true, true) => "on",
            (true, false) => "off",
        };
        writeln!(out, "device {device}")?;
        writeln!(out, "state {}", status.state.name())?;
        writeln!(out, "order {}", status.order)?;
        for (name, value) in self.report_stats().each() {
            writeln!(out, "{name} {value}")?;
        }
        writeln!(out, "known_pages {}", self.reported_pages())
    }

    /// Sets the smallest order that is reported, as Linux reads it.
    pub(super) fn report_order_write(&self, text: &str) -> Result<(), FileError> {
        let mut values = [0];
        parse_numbers(text, &mut values)?;
        let order = u8::try_from(values[0]).map_err(|_| FileError::Invalid)?;
        if self.set_report_order(Order(order)) { Ok(()) } else { Err(FileError::Invalid) }
    }
}
