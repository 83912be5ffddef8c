//! How a device stands, for people. May call: `config`.

use super::config::MemConfig;
use core::fmt;
use mm::types::NodeId;

/// What a driver has done so far, in units and requests.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Units plugged.
    pub plugged: u64,
    /// Units unplugged one by one.
    pub unplugged: u64,
    /// Times that all was unplugged at once.
    pub unplug_all: u64,
    /// Requests that the device did not grant.
    pub refused: u64,
}

impl Tally {
    /// How much has been changed.
    pub(super) const fn steps(&self) -> u64 {
        self.plugged + self.unplugged + self.unplug_all
    }
}

/// A device as its driver sees it. Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// What the device said last.
    pub config: MemConfig,
    /// The node that its memory is of.
    pub node: NodeId,
    /// What is plugged and unplugged at once.
    pub unit: u64,
    /// What the memory manager learns of at once.
    pub group: u64,
    /// What is plugged, as the driver counts.
    pub plugged: u64,
    /// The part of it that the memory manager does not have.
    pub withheld: u64,
    /// If something waits: for how long, from one try to the next, in ms.
    pub retry_ms: Option<u64>,
    /// What was done so far.
    pub tally: Tally,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (config, tally) = (&self.config, &self.tally);
        for (name, bytes) in [
            ("addr", config.addr),
            ("region_size", config.region_size),
            ("usable_region_size", config.usable_region_size),
            ("block_size", config.block_size),
            ("unit_size", self.unit),
            ("group_size", self.group),
            ("requested_size", config.requested_size),
            ("plugged_size", self.plugged),
            ("withheld_size", self.withheld),
        ] {
            writeln!(f, "{name} {bytes:#x}")?;
        }
        writeln!(f, "node {}", self.node.0)?;
        writeln!(f, "units_plugged {}", tally.plugged)?;
        writeln!(f, "units_unplugged {}", tally.unplugged)?;
        writeln!(f, "requests_refused {}", tally.refused)?;
        writeln!(f, "retry_ms {}", self.retry_ms.unwrap_or(0))
    }
}
