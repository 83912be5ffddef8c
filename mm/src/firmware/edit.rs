//! What `mem=` and `memmap=` do to a firmware map. Calls nothing.

use super::{RawMap, RawRegion};

/// A change to the firmware's map that the command line asks for. Several are
/// applied in the order in which they were given, as in Linux
/// (`parse_memopt`, `parse_memmap_opt`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapEdit {
    /// Forget all that is known (`memmap=exactmap`).
    Clear,
    /// Only addresses below this one are RAM (`mem=nn`, `memmap=nn`).
    Limit(u64),
    /// Add an entry (`memmap=nn@ss`, `nn#ss`, `nn$ss`, `nn!ss`).
    Add(RawRegion),
}

/// Applies `edits` to what the firmware said. `Limit` takes nothing but RAM
/// away; an added entry is a word like the firmware's, so that `nn@ss` makes
/// RAM only of what nobody calls something else.
pub fn apply_edits(map: &mut RawMap<'_>, edits: &[MapEdit]) {
    for &edit in edits {
        match edit {
            MapEdit::Clear => map.clear(),
            MapEdit::Add(entry) => map.push(entry),
            MapEdit::Limit(limit) => {
                // RAM that wraps is the sanitiser's business.
                let cut = |e: &RawRegion| e.kind.is_ram() && !e.is_empty() && !e.wraps();
                map.retain(|e| !(cut(e) && e.start >= limit));
                for entry in map.entries_mut().iter_mut().filter(|e| cut(e)) {
                    entry.end = entry.end.min(limit);
                }
            }
        }
    }
}
