//! Builds the kernel and its disk images, and runs them under QEMU.
//!
//! The pure parts live here, where they can be tested: what the options mean
//! ([`options`]), the QEMU command line ([`qemu`]), what a run's end means
//! ([`outcome`]), lab scripts and their verdicts ([`script`]), what was measured ([`figures`], [`growth`]), the ramdisk
//! ([`archive`], [`symbols`]), and what the host has of a guest's memory ([`giveback`]). The programs are `quarry` and `quarry-image`; only the latter
//! needs the boot loader.

pub mod archive;
pub mod benchmark;
pub mod blind;
pub mod cargo;
pub mod collect;
pub mod figures;
pub mod flash;
pub mod giveback;
pub mod growth;
pub mod image;
pub mod options;
pub mod outcome;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod screendump;
pub mod script;
pub mod symbols;
pub mod volume;
