//! Swap: anonymous pages whose memory is wanted go to slots of devices, and come
//! back when they are used. May call: `alloc`, `free`, `page`, `mmu`.

mod device;

pub use device::{IoFailed, PageBytes, SwapDevice, SwapKind};
