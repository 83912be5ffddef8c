//! Simulated machines: from lines that describe one, by the way that a real
//! firmware's map, tables and command line go, to a manager over sparsely backed
//! memory. May call: `mm`, `output`.

mod affinity;
mod boot;
mod describe;
mod host;
mod lent;
mod plug;
mod ram;

pub use boot::Simulated;
pub use describe::Description;
pub(crate) use host::Host;
