//! virtio-balloon against simulated devices, honest and evil.

mod device;
mod evil;
mod honest;
