//! A simulated device's registers, as its driver sees them. Calls the board.

use super::Handle;
use super::board::Areas;
use crate::{Bell, Fault, Link};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The registers.
#[derive(Debug)]
pub struct HostLink(Handle);

impl HostLink {
    pub(super) const fn new(handle: Handle) -> Self {
        Self(handle)
    }
}

/// The bell of one queue: the device works at once.
#[derive(Debug)]
pub struct HostBell {
    handle: Handle,
    queue: u16,
}

impl Bell for HostBell {
    fn ring(&self) {
        self.handle.with(|board| board.rung(self.queue));
        self.handle.work();
    }
}

impl Link for HostLink {
    type Bell = HostBell;

    fn bell(&mut self, queue: u16) -> core::result::Result<HostBell, Fault> {
        match self.0.with(|board| board.bell_fault) {
            Some(fault) => Err(fault),
            None => Ok(HostBell { handle: self.0.clone(), queue }),
        }
    }

    fn cut_off(&mut self) -> bool {
        self.0.with(|board| {
            board.cut_off |= board.obeys_cut_off;
            board.cut_off
        })
    }
}

impl Transport for HostLink {
    fn device_type(&self) -> DeviceType {
        self.0.with(|board| board.kind())
    }

    fn read_device_features(&mut self) -> u64 {
        self.0.with(|board| if board.gone { u64::MAX } else { board.offered })
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.0.with(|board| board.accepted = driver_features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.with(|board| if board.gone { u16::MAX.into() } else { board.queue_size(queue) })
    }

    fn notify(&mut self, queue: u16) {
        self.0.with(|board| board.rung(queue));
        self.0.work();
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.0.with(|board| board.read_status()))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.0.with(|board| board.write_status(status.bits()));
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        let areas = Areas { descriptors, available: driver_area, used: device_area };
        self.0.with(|board| board.set_queue(queue, size as u16, areas));
    }

    fn queue_unset(&mut self, queue: u16) {
        self.0.with(|board| board.unset_queue(queue));
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.with(|board| board.queue_is_set(queue))
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        self.0.with(|board| {
            if board.config_flaps {
                board.generation = board.generation.wrapping_add(1);
            }
            if board.gone { u8::MAX.into() } else { board.generation }
        })
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        let found = self.0.read_config(offset, value.as_mut_bytes());
        if found { Ok(value) } else { Err(Error::ConfigSpaceTooSmall) }
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        let found = self.0.write_config(offset, value.as_bytes());
        if found { Ok(()) } else { Err(Error::ConfigSpaceTooSmall) }
    }
}
