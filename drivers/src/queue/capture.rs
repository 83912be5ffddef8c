//! Learns from a transport where a queue's used ring lies, which virtio-drivers'
//! queue keeps to itself. Calls the transport.

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Passes everything on, and keeps what was said of the queue.
pub(super) struct Capture<'a, T> {
    link: &'a mut T,
    device_area: Option<PhysAddr>,
}

impl<'a, T: Transport> Capture<'a, T> {
    pub(super) fn new(link: &'a mut T) -> Self {
        Self { link, device_area: None }
    }

    /// Where the queue's used ring lies, once it is set up.
    pub(super) fn device_area(&self) -> Option<PhysAddr> {
        self.device_area
    }
}

impl<T: Transport> Transport for Capture<'_, T> {
    fn device_type(&self) -> DeviceType {
        self.link.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.link.read_device_features()
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.link.write_driver_features(driver_features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.link.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.link.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.link.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.link.set_status(status);
    }

    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.link.set_guest_page_size(guest_page_size);
    }

    /// Never: no driver here speaks it.
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
        self.device_area = Some(device_area);
        self.link.queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.link.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.link.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.link.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.link.read_config_generation()
    }

    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V> {
        self.link.read_config_space(offset)
    }

    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: V,
    ) -> Result<()> {
        self.link.write_config_space(offset, value)
    }
}
