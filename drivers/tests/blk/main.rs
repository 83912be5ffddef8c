//! virtio-blk against simulated devices, honest, failing and evil.

mod device;
mod evil;
mod honest;
mod threads;
