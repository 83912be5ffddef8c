//! The kernel's parts that need no hardware, so that host tests reach them; what
//! each is for, its first lines say. Calls `mm`'s pure parts only.
#![cfg_attr(not(test), no_std)]
// On the host, in tests, an allocation may fail as it likes.
#![cfg_attr(test, allow(clippy::disallowed_macros, clippy::disallowed_methods))]

pub mod archive;
pub mod banner;
pub mod bringup;
pub mod calls;
pub mod cpuset;
pub mod direct_map;
pub mod fw_cfg_dir;
pub mod lapic;
pub mod mca;
pub mod memtest;
pub mod options;
pub mod pagetable;
pub mod sched;
pub mod sdt;
pub mod slots;
pub mod symbols;
pub mod tsc;
pub mod tty;
