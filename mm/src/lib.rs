//! Quarry's physical memory manager.
#![no_std]
#[cfg(test)]
extern crate std;

pub mod platform;
pub mod types;
