//! What the device's configuration space says, and whether it can be true.
//! Calls nothing.

use core::fmt;

/// Physical addresses end here: what x86_64 can name.
const PHYS_END: u64 = 1 << 52;

/// The device's configuration, believed only as far as [`MemConfig::check`] and
/// [`MemConfig::check_successor`] go (virtio 1.2, 5.15.4). All but the node in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemConfig {
    /// What is plugged and unplugged at once, and all else is a multiple of.
    pub block_size: u64,
    /// The proximity domain, if ACPI_PXM was negotiated.
    pub pxm: Option<u16>,
    /// Physical address where the region begins.
    pub addr: u64,
    /// The region's length.
    pub region_size: u64,
    /// How much of the region, from its start, may be plugged.
    pub usable_region_size: u64,
    /// How much the device counts as plugged.
    pub plugged_size: u64,
    /// How much the host wants plugged.
    pub requested_size: u64,
}

/// What is wrong with a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// The block size is no power of two of whole pages.
    BlockSize(u64),
    /// A field that is not a multiple of the block size.
    Unaligned(&'static str, u64),
    /// The region is empty, or ends beyond what can be addressed.
    Region {
        /// Where it begins.
        addr: u64,
        /// Its length in bytes.
        size: u64,
    },
    /// A size that is larger than the one which bounds it.
    Beyond {
        /// The size.
        field: &'static str,
        /// Its value in bytes.
        value: u64,
        /// What bounds it, in bytes.
        limit: u64,
    },
    /// A field that must stay the same has changed.
    Changed(&'static str),
    /// The usable region has shrunk though nobody unplugged all.
    UsableShrank {
        /// Bytes before.
        from: u64,
        /// Bytes now.
        to: u64,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BlockSize(size) => write!(f, "invalid block size: {size:#x}"),
            Self::Unaligned(field, value) => {
                write!(f, "{field} is no multiple of the block size: {value:#x}")
            }
            Self::Region { addr, size } => {
                write!(f, "invalid region: {size:#x} bytes at {addr:#x}")
            }
            Self::Beyond { field, value, limit } => {
                write!(f, "{field} {value:#x} is beyond {limit:#x}")
            }
            Self::Changed(field) => write!(f, "{field} has changed"),
            Self::UsableShrank { from, to } => {
                write!(f, "usable region shrank from {from:#x} to {to:#x}")
            }
        }
    }
}

impl core::error::Error for ConfigError {}

impl MemConfig {
    /// Reads the fields through `u64_at` and `u16_at`, which get the byte each
    /// begins at; `has_pxm` is whether the feature ACPI_PXM was negotiated,
    /// without which the node means nothing.
    ///
    /// # Errors
    /// What either of the two says.
    pub fn read<E>(
        u64_at: impl Fn(usize) -> Result<u64, E>,
        u16_at: impl Fn(usize) -> Result<u16, E>,
        has_pxm: bool,
    ) -> Result<Self, E> {
        Ok(Self {
            block_size: u64_at(0)?,
            pxm: if has_pxm { Some(u16_at(8)?) } else { None },
            addr: u64_at(16)?,
            region_size: u64_at(24)?,
            usable_region_size: u64_at(32)?,
            plugged_size: u64_at(40)?,
            requested_size: u64_at(48)?,
        })
    }

    /// Whether it can be true, taken by itself.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let block = self.block_size;
        if !block.is_power_of_two() || block < mm::types::PAGE_SIZE as u64 || block > PHYS_END {
            return Err(ConfigError::BlockSize(block));
        }
        let region = ConfigError::Region { addr: self.addr, size: self.region_size };
        let end = self.addr.checked_add(self.region_size).ok_or(region)?;
        if self.region_size == 0 || end > PHYS_END {
            return Err(region);
        }
        for (field, value) in [
            ("region address", self.addr),
            ("region size", self.region_size),
            ("usable region size", self.usable_region_size),
            ("plugged size", self.plugged_size),
            ("requested size", self.requested_size),
        ] {
            if value % block != 0 {
                return Err(ConfigError::Unaligned(field, value));
            }
        }
        let limit = self.region_size;
        for (field, value) in [
            ("usable region size", self.usable_region_size),
            ("plugged size", self.plugged_size),
            ("requested size", self.requested_size),
        ] {
            if value > limit {
                return Err(ConfigError::Beyond { field, value, limit });
            }
        }
        Ok(())
    }

    /// Whether it can be true after `before` was: what never changes is the
    /// same, and the usable region has not shrunk, unless `may_shrink` because
    /// all was unplugged meanwhile.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_successor(&self, before: &Self, may_shrink: bool) -> Result<(), ConfigError> {
        self.check()?;
        for (field, same) in [
            ("block size", self.block_size == before.block_size),
            ("node", self.pxm == before.pxm),
            ("region address", self.addr == before.addr),
            ("region size", self.region_size == before.region_size),
        ] {
            if !same {
                return Err(ConfigError::Changed(field));
            }
        }
        let (from, to) = (before.usable_region_size, self.usable_region_size);
        if to < from && !may_shrink {
            return Err(ConfigError::UsableShrank { from, to });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: MemConfig = MemConfig {
        block_size: 2 << 20,
        pxm: None,
        addr: 4 << 30,
        region_size: 3 << 30,
        usable_region_size: 1 << 30,
        plugged_size: 256 << 20,
        requested_size: 512 << 20,
    };

    #[test]
    fn decodes_every_field_at_its_place() {
        let long = |at| match at {
            0 => Ok(2u64 << 20),
            16 => Ok(4 << 30),
            24 => Ok(3 << 30),
            32 => Ok(1 << 30),
            40 => Ok(256 << 20),
            48 => Ok(512 << 20),
            _ => Err(at),
        };
        let short = |at| if at == 8 { Ok(3) } else { Err(at) };
        assert_eq!(MemConfig::read(long, short, false), Ok(GOOD));
        assert_eq!(MemConfig::read(long, short, true), Ok(MemConfig { pxm: Some(3), ..GOOD }));
        assert_eq!(GOOD.check(), Ok(()));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let mib = 1u64 << 20;
        let bad = [
            (MemConfig { block_size: 0, ..GOOD }, ConfigError::BlockSize(0)),
            (MemConfig { block_size: 3 * mib, ..GOOD }, ConfigError::BlockSize(3 * mib)),
            (MemConfig { block_size: 2048, ..GOOD }, ConfigError::BlockSize(2048)),
            (MemConfig { block_size: 1 << 63, ..GOOD }, ConfigError::BlockSize(1 << 63)),
            (MemConfig { region_size: 0, ..GOOD }, ConfigError::Region { addr: 4 << 30, size: 0 }),
            (
                MemConfig { region_size: u64::MAX - (2 * mib - 1), ..GOOD },
                ConfigError::Region { addr: 4 << 30, size: u64::MAX - (2 * mib - 1) },
            ),
            (
                MemConfig { addr: 1 << 52, ..GOOD },
                ConfigError::Region { addr: 1 << 52, size: 3 << 30 },
            ),
            (MemConfig { addr: mib, ..GOOD }, ConfigError::Unaligned("region address", mib)),
            (
                MemConfig { requested_size: mib, ..GOOD },
                ConfigError::Unaligned("requested size", mib),
            ),
            (
                MemConfig { usable_region_size: 4 << 30, ..GOOD },
                ConfigError::Beyond { field: "usable region size", value: 4 << 30, limit: 3 << 30 },
            ),
            (
                MemConfig { requested_size: 4 << 30, ..GOOD },
                ConfigError::Beyond { field: "requested size", value: 4 << 30, limit: 3 << 30 },
            ),
            (
                MemConfig { plugged_size: 4 << 30, ..GOOD },
                ConfigError::Beyond { field: "plugged size", value: 4 << 30, limit: 3 << 30 },
            ),
        ];
        for (config, error) in bad {
            assert_eq!(config.check(), Err(error), "{config:?}");
        }
    }

    #[test]
    fn what_never_changes_may_not() {
        let grown = MemConfig { usable_region_size: 2 << 30, requested_size: 1 << 30, ..GOOD };
        assert_eq!(grown.check_successor(&GOOD, false), Ok(()));
        let shrank = ConfigError::UsableShrank { from: 2 << 30, to: 1 << 30 };
        assert_eq!(GOOD.check_successor(&grown, false), Err(shrank));
        assert_eq!(GOOD.check_successor(&grown, true), Ok(()));
        for (config, field) in [
            (MemConfig { block_size: 4 << 20, ..GOOD }, "block size"),
            (MemConfig { pxm: Some(1), ..GOOD }, "node"),
            (MemConfig { addr: 8 << 30, ..GOOD }, "region address"),
            (MemConfig { region_size: 4 << 30, ..GOOD }, "region size"),
        ] {
            assert_eq!(config.check_successor(&GOOD, true), Err(ConfigError::Changed(field)));
        }
    }
}
