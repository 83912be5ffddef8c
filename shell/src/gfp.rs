//! The words for how to get memory. Calls nothing.

use crate::errno::{Errno, Error};
use mm::Gfp;

/// What a caller may do: one of them at most, KERNEL if none.
const BASES: [(&str, Gfp); 5] = [
    ("KERNEL", Gfp::KERNEL),
    ("ATOMIC", Gfp::ATOMIC),
    ("NOWAIT", Gfp::NOWAIT),
    ("NOIO", Gfp::NOIO),
    ("NOFS", Gfp::NOFS),
];

const MODIFIERS: [(&str, Gfp); 14] = [
    ("MOVABLE", Gfp::MOVABLE),
    ("RECLAIMABLE", Gfp::RECLAIMABLE),
    ("DMA", Gfp::DMA),
    ("DMA32", Gfp::DMA32),
    ("ZERO", Gfp::ZERO),
    ("HIGH", Gfp::HIGH),
    ("MEMALLOC", Gfp::MEMALLOC),
    ("NOMEMALLOC", Gfp::NOMEMALLOC),
    ("NORETRY", Gfp::NORETRY),
    ("RETRY_MAYFAIL", Gfp::RETRY_MAYFAIL),
    ("NOFAIL", Gfp::NOFAIL),
    ("THISNODE", Gfp::THISNODE),
    ("NOWARN", Gfp::NOWARN),
    ("PINNED", Gfp::PINNED),
];

/// All words, for completion.
pub fn gfp_words() -> impl Iterator<Item = &'static str> {
    BASES.iter().chain(&MODIFIERS).map(|&(word, _)| word)
}

/// The flags that words joined by `|` stand for. MOVABLE opens zone Movable,
/// unless a lower zone is named.
///
/// # Errors
/// EINVAL for unknown words and those that contradict each other.
pub(crate) fn gfp(text: &str) -> Result<Gfp, Error> {
    let invalid = |why| Error::new(Errno::EINVAL, why).about(text);
    let mut base = None;
    let mut flags = Gfp::empty();
    for word in text.split('|') {
        if let Some(&(_, gfp)) = BASES.iter().find(|(name, _)| *name == word) {
            if base.is_some_and(|b| b != gfp) {
                return Err(invalid("one of KERNEL ATOMIC NOWAIT NOIO NOFS"));
            }
            base = Some(gfp);
        } else if let Some(&(_, gfp)) = MODIFIERS.iter().find(|(name, _)| *name == word) {
            flags |= gfp;
        } else {
            return Err(Error::new(Errno::EINVAL, "no such gfp word").about(word));
        }
    }
    let mut gfp = flags | base.unwrap_or(Gfp::KERNEL);
    if gfp.contains(Gfp::MOVABLE) && !gfp.intersects(Gfp::DMA | Gfp::DMA32) {
        gfp |= Gfp::HIGHMEM;
    }
    gfp.zone().map_err(|bad| invalid(bad.0))?;
    gfp.migratetype().map_err(|bad| invalid(bad.0))?;
    Ok(gfp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_to_flags() {
        for (text, flags) in [
            ("KERNEL", Gfp::KERNEL),
            ("MOVABLE", Gfp::HIGHUSER_MOVABLE),
            ("ZERO", Gfp::KERNEL | Gfp::ZERO),
            ("ATOMIC|MOVABLE", Gfp::ATOMIC | Gfp::MOVABLE | Gfp::HIGHMEM),
            ("DMA32|MOVABLE", Gfp::KERNEL | Gfp::MOVABLE | Gfp::DMA32),
            ("NOWAIT|DMA|NOMEMALLOC", Gfp::NOWAIT | Gfp::DMA | Gfp::NOMEMALLOC),
        ] {
            assert_eq!(gfp(text), Ok(flags), "{text}");
        }
        for text in ["", "kernel", "KERNEL|ATOMIC", "MOVABLE|RECLAIMABLE", "DMA|DMA32", "KERNEL|"] {
            assert_eq!(gfp(text).map_err(|e| e.errno), Err(Errno::EINVAL), "{text}");
        }
    }
}
