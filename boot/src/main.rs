//! Builds the boot images and runs them under QEMU.
fn main() {}
