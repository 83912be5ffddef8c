//! Pictures of memory as SVG: a cell a pageblock, snapshots side by side. May
//! call: `mm::census`, `picture`, `plot`.

mod draw;
mod layout;
mod snapshot;

pub use draw::{MOST_PANELS, TooMany, draw};
pub use snapshot::{Snapshot, Unreadable, read};
