//! Which facts there are, a part at a time: `zone.`, then `zone.DMA32.`, then
//! `zone.DMA32.free`. Calls `mm` for zones, caches and counters.

use crate::lab::{Lab, Subject};
use crate::space_facts::{OF_FRAG, OF_LRU, OF_PAGE, OF_REGION, OF_SPACE, OF_SWAP};
use crate::spaces::Place;
use crate::world::World;
use core::convert::Infallible;
use mm::types::{MigrateType, NR_ZONES};

/// What can be asked of a zone.
const OF_ZONE: [&str; 12] = [
    "free",
    "min",
    "low",
    "high",
    "boost",
    "spanned",
    "present",
    "managed",
    "cma",
    "cma_free",
    "highatomic",
    "pcp",
];
/// What can be asked of a cache.
const OF_CACHE: [&str; 10] = [
    "active_objs",
    "num_objs",
    "active_slabs",
    "num_slabs",
    "objperslab",
    "pagesperslab",
    "reserve_objs",
    "objsize",
    "shared_avail",
    "alien_avail",
];
/// What can be asked of a group.
const OF_GROUP: [&str; 7] = ["pages", "count", "pfn", "zone", "type", "node", "pfmemalloc"];

/// Says words with what stands before them, in one piece.
struct After<'a> {
    before: &'a str,
    each: &'a mut dyn FnMut(&str),
}

impl After<'_> {
    /// Says `parts`, joined. One that is longer than any fact is left out.
    fn say(&mut self, parts: &[&str]) {
        let mut text = [0; 128];
        let mut len = 0;
        for part in [self.before].iter().chain(parts) {
            let Some(place) = text.get_mut(len..len + part.len()) else { return };
            place.copy_from_slice(part.as_bytes());
            len += part.len();
        }
        (self.each)(core::str::from_utf8(&text[..len]).unwrap_or_default());
    }

    fn say_all(&mut self, words: &[&str]) {
        words.iter().for_each(|word| self.say(&[word]));
    }
}

impl<W: World> Lab<W> {
    /// Calls `each` with facts that begin as `word` does, up to their next part.
    pub(super) fn each_fact(&self, word: &str, each: &mut dyn FnMut(&str)) {
        let Ok(on) = self.subject() else { return };
        let before = &word[..word.rfind('.').map_or(0, |at| at + 1)];
        let mut after = After { before, each };
        let parts = &before[..before.len().saturating_sub(1)];
        let (node, asked) = match parts.split_once('.') {
            Some((node, asked)) if is_node(node) => (true, asked),
            None if is_node(parts) => (true, ""),
            _ => (false, parts),
        };
        match (asked, asked.split_once('.')) {
            ("", _) => {
                after.say_all(&["zone.", "buddy.", "blocks.", "lru."]);
                if !node {
                    self.others(on, &mut after);
                }
            }
            ("zone" | "buddy" | "blocks", _) => {
                let mut seen = [false; NR_ZONES];
                for zone in on.mm.zones() {
                    // Each node has its own.
                    if !core::mem::replace(&mut seen[zone.kind.index()], true) {
                        after.say(&[zone.kind.name(), "."]);
                    }
                }
            }
            (_, Some(("zone", _))) => after.say_all(&OF_ZONE),
            (_, Some(("buddy", _))) => {
                MigrateType::ALL.iter().for_each(|ty| after.say(&[ty.name(), "["]));
            }
            (_, Some(("blocks", _))) => {
                MigrateType::ALL.iter().for_each(|ty| after.say(&[ty.name()]));
            }
            ("lru", _) => after.say_all(&OF_LRU),
            _ if node => {}
            ("vmstat", _) => {
                let Ok(()) = on.mm.vmstat_each(|key, _| {
                    after.say(&[key]);
                    Ok::<(), Infallible>(())
                });
            }
            ("swap", _) => after.say_all(&OF_SWAP),
            ("oom", _) => after.say(&["kills"]),
            ("frag", _) => after.say_all(&OF_FRAG),
            ("bad", _) => after.say_all(&["pages", "out"]),
            ("fault", _) => after.say_all(&["seen", "failed"]),
            ("report", _) => {
                on.mm.report_stats().each().for_each(|(name, _)| after.say(&[name]));
                after.say(&["known_pages"]);
            }
            ("balloon", _) if self.world().balloon().is_some() => {
                after.say_all(&["pages", "target", "isolated"]);
            }
            ("zram", _) if self.world().zram().is_some() => {
                after.say_all(&crate::commands::zram::FACTS);
            }
            ("plug", _) if self.world().plugged().is_some() => {
                after.say_all(&["plugged", "requested", "most"]);
            }
            ("host", _) => after.say_all(self.world().host_facts()),
            ("cache", _) => on.mm.caches().for_each(|cache| after.say(&[cache.name(), "."])),
            (_, Some(("cache", _))) => after.say_all(&OF_CACHE),
            _ => self.of_held(asked, &mut after),
        }
    }

    /// What can be asked of a group, a space, a region or a page of one.
    fn of_held(&self, asked: &str, after: &mut After<'_>) {
        match self.spaces.place(asked) {
            Ok(Place { page: Some(_), .. }) => after.say_all(&OF_PAGE),
            Ok(Place { region: Some(_), .. }) => after.say_all(&OF_REGION),
            Ok(place) => {
                after.say_all(&OF_SPACE);
                for region in self.spaces.regions_of(place.space) {
                    after.say(&[region.name.as_str(), "."]);
                    after.say(&[region.name.as_str(), "[0]."]);
                }
            }
            Err(_) => after.say_all(&OF_GROUP),
        }
    }

    /// What facts begin with, but for those of zones.
    fn others(&self, on: Subject<W>, after: &mut After<'_>) {
        after.say_all(&["vmstat.", "cache.", "fault.", "report.", "host.", "bad."]);
        after.say_all(&["swap.", "oom.", "frag."]);
        if self.world().balloon().is_some() {
            after.say(&["balloon."]);
        }
        if self.world().zram().is_some() {
            after.say(&["zram."]);
        }
        if self.world().plugged().is_some() {
            after.say(&["plug."]);
        }
        if on.mm.nodes() > 1 {
            // Node 0 is what is meant without.
            let mut digits = [0; 3];
            (1..on.mm.nodes() as u8)
                .for_each(|n| after.say(&["node", decimal(n, &mut digits), "."]));
        }
        self.groups.iter().for_each(|group| after.say(&[group.name.as_str(), "."]));
        self.space_names().for_each(|name| after.say(&[name, "."]));
    }
}

fn is_node(part: &str) -> bool {
    part.strip_prefix("node")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn decimal(number: u8, digits: &mut [u8; 3]) -> &str {
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + rest % 10;
        rest /= 10;
        if rest == 0 {
            return core::str::from_utf8(&digits[at..]).unwrap_or_default();
        }
    }
}
