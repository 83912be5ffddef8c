//! The policy of the scheduler without the machine: who runs next on a CPU, who
//! is to be woken when, which CPUs a thread may use. Pure.

mod name;
mod runqueue;
mod sleepers;

pub use crate::cpuset::CpuSet;
pub use name::Name;
pub use runqueue::{Entity, EntityRef, Priority, RunQueue, SLICE_TICKS, Slice};
pub use sleepers::Sleepers;
