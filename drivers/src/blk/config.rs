//! What the device's configuration space says, and whether it can be true.
//! Calls nothing but the device.

use super::{
    FEATURE_BLK_SIZE, FEATURE_DISCARD, FEATURE_SEG_MAX, SECTOR_BYTES, SECTORS_PER_BLOCK, ring,
};
use crate::{Device, Env, Error, Link};
use core::fmt;

/// Offsets in the configuration (virtio 1.2, 5.2.4).
const CAPACITY: usize = 0;
const SEG_MAX: usize = 12;
const BLK_SIZE: usize = 20;
const MAX_DISCARD_SECTORS: usize = 36;

/// The device's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlkConfig {
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of its own blocks, if it says so: what it can write at least.
    pub block_bytes: Option<u32>,
    /// Pieces of memory that a request may have.
    pub segments: u32,
    /// Sectors that it can be told of at once that are not needed; None if it
    /// does not want to know.
    pub discard_sectors: Option<u32>,
}

/// Why a device cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// Its blocks are larger than a page, or no power of two from 512 on (bytes).
    BlockSize(u32),
    /// Its size in bytes is more than can be counted (sectors).
    Capacity(u64),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockSize(bytes) => write!(f, "has blocks of {bytes} bytes"),
            Self::Capacity(sectors) => write!(f, "has {sectors} sectors"),
        }
    }
}

impl core::error::Error for ConfigError {}

impl BlkConfig {
    /// Reads the fields that device and driver have agreed on.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] if one is missing, or they never stop changing.
    pub(super) fn read<T: Link, E: Env>(device: &Device<T, E>) -> Result<Self, Error> {
        let has = |feature: u64| device.features() & feature != 0;
        device.config(|config| {
            let field = |feature, at| has(feature).then(|| config.u32(at)).transpose();
            // As Linux has it: who says nothing takes one piece.
            let segments = field(FEATURE_SEG_MAX, SEG_MAX)?.unwrap_or(1);
            Ok(Self {
                sectors: config.u64(CAPACITY)?,
                block_bytes: field(FEATURE_BLK_SIZE, BLK_SIZE)?,
                segments: segments.clamp(1, ring::MOST_SEGMENTS as u32),
                discard_sectors: field(FEATURE_DISCARD, MAX_DISCARD_SECTORS)?
                    // No limit, that is.
                    .map(|sectors| if sectors == 0 { u32::MAX } else { sectors })
                    .filter(|&sectors| u64::from(sectors) >= SECTORS_PER_BLOCK),
            })
        })
    }

    /// Whether blocks of a page each can be had of it.
    ///
    /// # Errors
    ///
    /// What speaks against it.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Some(bytes) = self.block_bytes
            && !(bytes.is_power_of_two() && (512..=4096).contains(&bytes))
        {
            return Err(ConfigError::BlockSize(bytes));
        }
        if self.sectors.checked_mul(SECTOR_BYTES).is_none() {
            return Err(ConfigError::Capacity(self.sectors));
        }
        Ok(())
    }
}
