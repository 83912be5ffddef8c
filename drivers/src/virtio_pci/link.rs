//! A virtio device's registers. Calls `layout`, `mmio`, `pci`.

use super::Layout;
use crate::pci::{ConfigRegionAccess, Function};
use crate::{Bell, Fault, Link, Mmio};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Offsets in the common structure.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u32 = 0;
    pub(super) const DEVICE_FEATURE: u32 = 4;
    pub(super) const DRIVER_FEATURE_SELECT: u32 = 8;
    pub(super) const DRIVER_FEATURE: u32 = 12;
    pub(super) const CONFIG_VECTOR: u32 = 16;
    pub(super) const STATUS: u32 = 20;
    pub(super) const CONFIG_GENERATION: u32 = 21;
    pub(super) const QUEUE_SELECT: u32 = 22;
    pub(super) const QUEUE_SIZE: u32 = 24;
    pub(super) const QUEUE_VECTOR: u32 = 26;
    pub(super) const QUEUE_ENABLE: u32 = 28;
    pub(super) const QUEUE_NOTIFY_OFF: u32 = 30;
    pub(super) const QUEUE_DESC: u32 = 32;
    pub(super) const QUEUE_DRIVER: u32 = 40;
    pub(super) const QUEUE_DEVICE: u32 = 48;
}

/// Messages of the device's MSI-X table that are ready for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vectors {
    /// The message for changes of the configuration.
    pub config: u16,
    /// The message for the first queue.
    pub queue: u16,
    /// Messages for queues: with fewer than queues, they take turns. 0: the one
    /// for the configuration serves all.
    pub queues: u16,
}

impl Vectors {
    const fn of_queue(self, queue: u16) -> u16 {
        if self.queues == 0 { self.config } else { self.queue + queue % self.queues }
    }
}

/// The registers. `M` is how they are reached, `A` how the configuration space
/// is.
#[derive(Debug)]
pub struct PciLink<M, A> {
    kind: DeviceType,
    function: Function,
    access: A,
    common: M,
    notify: M,
    stride: u32,
    isr: M,
    device: Option<M>,
    vectors: Option<Vectors>,
}

/// A queue's bell.
#[derive(Debug)]
pub struct MmioBell<M> {
    at: M,
    queue: u16,
}

impl<M: Mmio> Bell for MmioBell<M> {
    fn ring(&self) {
        self.at.write16(0, self.queue);
    }
}

impl<M: Mmio, A: ConfigRegionAccess + Send> PciLink<M, A> {
    /// The link to `function` with the structures of `layout`; `range` gives the
    /// registers in the range of a base address register. None if `range` has
    /// less than the layout was checked against.
    pub fn new(
        function: Function,
        access: A,
        layout: &Layout,
        vectors: Option<Vectors>,
        range: impl Fn(u8) -> Option<M>,
    ) -> Option<Self> {
        let part = |part: super::Part| range(part.bar)?.part(part.offset, part.bytes);
        Some(Self {
            kind: layout.kind,
            function,
            access,
            common: part(layout.common)?,
            notify: part(layout.notify)?,
            stride: layout.stride,
            isr: part(layout.isr)?,
            device: match layout.device {
                Some(place) => Some(part(place)?),
                None => None,
            },
            vectors,
        })
    }

    fn select(&self, queue: u16) {
        self.common.write16(common::QUEUE_SELECT, queue);
    }

    fn write64(&self, offset: u32, value: u64) {
        self.common.write32(offset, value as u32);
        self.common.write32(offset + 4, (value >> 32) as u32);
    }

    /// The device's configuration from `offset` on, if it has `bytes` bytes
    /// there.
    fn config(&self, offset: usize, bytes: usize) -> Result<M> {
        let device = self.device.as_ref().ok_or(Error::ConfigSpaceMissing)?;
        device.part(offset as u64, bytes as u64).ok_or(Error::ConfigSpaceTooSmall)
    }
}

impl<M: Mmio, A: ConfigRegionAccess + Send> Link for PciLink<M, A> {
    type Bell = MmioBell<M>;

    fn config_interrupt(&mut self) -> core::result::Result<(), Fault> {
        let Some(Vectors { config, .. }) = self.vectors else { return Ok(()) };
        self.common.write16(common::CONFIG_VECTOR, config);
        // What it cannot do reads back as all ones.
        let has = self.common.read16(common::CONFIG_VECTOR);
        if has == config { Ok(()) } else { Err(Fault::NoInterrupt) }
    }

    fn bell(&mut self, queue: u16) -> core::result::Result<MmioBell<M>, Fault> {
        self.select(queue);
        if self.common.read16(common::QUEUE_ENABLE) != 1 {
            return Err(Fault::QueueState(queue));
        }
        if let Some(vectors) = self.vectors
            && self.common.read16(common::QUEUE_VECTOR) != vectors.of_queue(queue)
        {
            return Err(Fault::NoInterrupt);
        }
        let offset = u64::from(self.common.read16(common::QUEUE_NOTIFY_OFF));
        let offset = offset * u64::from(self.stride);
        let at = self.notify.part(offset, 2).filter(|_| offset.is_multiple_of(2));
        Ok(MmioBell { at: at.ok_or(Fault::NoBell(queue))?, queue })
    }

    fn cut_off(&mut self) -> bool {
        self.function.cut_off(&self.access)
    }
}

impl<M: Mmio, A: ConfigRegionAccess + Send> Transport for PciLink<M, A> {
    fn device_type(&self) -> DeviceType {
        self.kind
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |at| {
            self.common.write32(common::DEVICE_FEATURE_SELECT, at);
            u64::from(self.common.read32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        for at in 0..2 {
            self.common.write32(common::DRIVER_FEATURE_SELECT, at);
            self.common.write32(common::DRIVER_FEATURE, (driver_features >> (32 * at)) as u32);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.common.read16(common::QUEUE_SIZE).into()
    }

    fn notify(&mut self, queue: u16) {
        if let Ok(bell) = self.bell(queue) {
            bell.ring();
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.common.read8(common::STATUS).into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.common.write8(common::STATUS, status.bits() as u8);
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
        self.select(queue);
        self.common.write16(common::QUEUE_SIZE, size as u16);
        self.write64(common::QUEUE_DESC, descriptors);
        self.write64(common::QUEUE_DRIVER, driver_area);
        self.write64(common::QUEUE_DEVICE, device_area);
        if let Some(vectors) = self.vectors {
            self.common.write16(common::QUEUE_VECTOR, vectors.of_queue(queue));
        }
        self.common.write16(common::QUEUE_ENABLE, 1);
    }

    /// A queue goes with a reset of the whole device only.
    fn queue_unset(&mut self, _queue: u16) {}

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.common.read16(common::QUEUE_ENABLE) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_retain(self.isr.read8(0).into())
    }

    fn read_config_generation(&self) -> u32 {
        self.common.read8(common::CONFIG_GENERATION).into()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        let from = self.config(offset, bytes.len())?;
        // The standard wants each field read at its own width, 64 bits as two
        // times 32.
        match bytes.len() {
            2 if offset.is_multiple_of(2) => bytes.copy_from_slice(&from.read16(0).to_le_bytes()),
            len if len.is_multiple_of(4) && offset.is_multiple_of(4) => {
                for (at, word) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    word.copy_from_slice(&from.read32(4 * at as u32).to_le_bytes());
                }
            }
            _ => {
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = from.read8(at as u32);
                }
            }
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        let bytes = value.as_bytes();
        let to = self.config(offset, bytes.len())?;
        match bytes {
            [low, high] if offset.is_multiple_of(2) => {
                to.write16(0, u16::from_le_bytes([*low, *high]));
            }
            bytes if bytes.len().is_multiple_of(4) && offset.is_multiple_of(4) => {
                let (words, _) = bytes.as_chunks::<4>();
                for (at, word) in words.iter().enumerate() {
                    to.write32(4 * at as u32, u32::from_le_bytes(*word));
                }
            }
            bytes => {
                for (at, byte) in bytes.iter().enumerate() {
                    to.write8(at as u32, *byte);
                }
            }
        }
        Ok(())
    }
}
