//! The kernel's virtual memory: tables of its own, built before the memory
//! manager starts and extended with the manager's frames afterwards. Calls
//! `mm` and `arch`.

mod build;
mod hotplug;
pub(crate) mod kstack;
pub(crate) mod layout;
mod loader;
pub(crate) mod roots;
pub(crate) mod space;
pub(crate) mod stacks;
pub(crate) mod tables;

pub(crate) use build::{Devices, Plan, build};
pub(crate) use hotplug::{extend_direct_map, is_direct, take_frames, withdraw_direct_map};
pub(crate) use loader::Loader;
pub(crate) use tables::{activate, frame_ptr, map_frames, pfn_of, root};
