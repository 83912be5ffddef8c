//! Device registers in memory, behind a trait so that a test can be the device.
//! Calls nothing.

/// A range of a device's registers. Offsets are bytes from its start and
/// multiples of the access's width; beyond the end, reads give ones and writes
/// are lost, as with a device that is not there.
pub trait Mmio: Clone + Send + Sync {
    /// The `len` bytes from `offset` on; None unless all are inside.
    fn part(&self, offset: u64, len: u64) -> Option<Self>;

    /// Bytes.
    fn bytes(&self) -> u64;

    /// Reads 8 bits.
    fn read8(&self, offset: u32) -> u8;
    /// Reads 16 bits.
    fn read16(&self, offset: u32) -> u16;
    /// Reads 32 bits.
    fn read32(&self, offset: u32) -> u32;

    /// Writes 8 bits.
    fn write8(&self, offset: u32, value: u8);
    /// Writes 16 bits.
    fn write16(&self, offset: u32, value: u16);
    /// Writes 32 bits.
    fn write32(&self, offset: u32, value: u32);
}
