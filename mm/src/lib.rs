//! Quarry's physical memory manager.
#![no_std]
#[cfg(test)]
extern crate std;

pub mod early;
pub mod platform;
mod table;
pub mod types;
