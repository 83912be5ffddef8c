#![doc = include_str!("../README.md")]
#![no_std]
#[cfg(any(test, feature = "host"))]
extern crate std;

mod alloc;
pub mod arena;
pub mod audit;
mod background;
mod backing;
pub mod balloon;
pub mod block;
mod boot_slice;
mod buddy;
mod bulk;
pub mod cache;
pub mod census;
pub mod cma;
pub mod cmdline;
pub mod compact;
pub mod contig;
mod cpus;
mod deferred;
mod dump;
pub mod early;
mod fallback;
mod fast;
pub mod fault;
pub mod firmware;
mod free;
pub mod gfp;
#[cfg(feature = "host")]
pub mod host;
pub mod hotplug;
pub mod list;
pub mod lru;
pub mod lru_page;
#[cfg(feature = "host")]
pub mod mailbox;
pub mod memmap;
pub mod migrate;
mod mm;
pub mod mmu;
pub mod oom;
pub mod options;
pub mod owner;
pub mod page;
mod page_stats;
mod pcp;
pub mod platform;
pub mod poison;
pub mod pressure;
pub mod proc;
pub mod reclaim;
pub mod report;
pub mod rmap;
mod room;
pub mod setup;
pub mod slab;
mod slow;
pub mod space;
pub mod stats;
pub mod steps;
pub mod swap;
pub mod sync;
mod table;
pub mod types;
mod walkers;
pub mod watermark;
pub mod zone;
mod zonelist;

pub use crate::gfp::{AllocError, FreeError, Gfp, Page, Request};
pub use crate::mm::Mm;
pub use crate::setup::{Config, SetupError};
