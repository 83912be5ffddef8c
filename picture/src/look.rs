//! Colours: a hue for each migratetype, lighter the more of it is free. The hues
//! differ in lightness too, for those who do not see some of them.

use mm::types::MigrateType;

/// Red, green, blue.
pub type Colour = [u8; 3];

/// What marks free memory in pieces.
pub const MARK: Colour = [0x16, 0x1b, 0x22];
/// Of memory that never came to the buddy.
pub const RESERVED: Colour = [0x8c, 0x95, 0x9f];

/// Shades between free and full that can be told apart.
const SHADES: u64 = 16;

const fn hue(ty: MigrateType) -> Colour {
    match ty {
        MigrateType::Unmovable => [0xc4, 0x3d, 0x1f],
        MigrateType::Movable => [0x1d, 0x62, 0xb0],
        MigrateType::Reclaimable => [0x1b, 0x85, 0x4a],
        MigrateType::HighAtomic => [0x86, 0x32, 0xa8],
        MigrateType::Cma => [0xd0, 0x8a, 0x00],
        MigrateType::Isolate => [0x3c, 0x44, 0x4d],
    }
}

/// The colour of memory of that type of which `used` of `all` pages are not
/// free.
pub fn shade(ty: MigrateType, used: u64, all: u64) -> Colour {
    let step = (used * SHADES + all / 2).checked_div(all).unwrap_or(SHADES).min(SHADES);
    // Something of the hue is left of what is free, and a full block stands out
    // from one that is nearly full.
    let part = 30 + step * 70 / SHADES;
    hue(ty).map(|full| (255 - (255 - u64::from(full)) * part / 100) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuller_is_darker_and_types_differ() {
        let light = |colour: Colour| colour.iter().map(|&part| u32::from(part)).sum::<u32>();
        let mut seen = [[0; 3]; 12];
        for (i, ty) in MigrateType::ALL.into_iter().enumerate() {
            for used in 0..16 {
                assert!(light(shade(ty, used, 16)) > light(shade(ty, used + 1, 16)));
            }
            seen[2 * i] = shade(ty, 0, 512);
            seen[2 * i + 1] = shade(ty, 512, 512);
            assert_eq!(shade(ty, 0, 0), shade(ty, 512, 512));
        }
        for (i, colour) in seen.iter().enumerate() {
            assert!(!seen[..i].contains(colour) && *colour != RESERVED);
        }
    }
}
