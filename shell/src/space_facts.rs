//! Facts about address spaces, their regions and single pages of them, and about
//! the lists and places that reclaim brings pages to. May call `mm`.

use crate::errno::{Errno, Error};
use crate::facts::Value;
use crate::lab::{Lab, Subject};
use crate::spaces::Place;
use crate::world::World;
use mm::lru::{LruKind, LruList};
use mm::mmu::{Entry, MapSize, Mapping, VirtAddr};
use mm::proc::KPageFlags;
use mm::space::Space;
use mm::stats::Event;
use mm::types::{NodeId, PAGE_SIZE, PAGEBLOCK_PAGES, Pfn};

/// What can be asked of a space, in pages where it is memory.
pub(crate) const OF_SPACE: [&str; 15] = [
    "rss",
    "swap",
    "huge",
    "size",
    "locked",
    "shared",
    "referenced",
    "lazyfree",
    "tables",
    "faults",
    "majfaults",
    "adj",
    "points",
    "killed",
    "protected",
];
/// What can be asked of a region.
pub(crate) const OF_REGION: [&str; 9] =
    ["rss", "swap", "huge", "size", "locked", "shared", "referenced", "lazyfree", "addr"];
/// What can be asked of a page of a region.
pub(crate) const OF_PAGE: [&str; 15] = [
    "state",
    "pfn",
    "zone",
    "node",
    "mapcount",
    "young",
    "writable",
    "dirty",
    "lru",
    "active",
    "referenced",
    "swapcache",
    "lazyfree",
    "mlocked",
    "unevictable",
];
/// What can be asked of the lists of pages.
pub(crate) const OF_LRU: [&str; 7] = [
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "isolated_anon",
    "isolated_file",
];
/// What can be asked of swap.
pub(crate) const OF_SWAP: [&str; 4] = ["total", "used", "free", "cached"];
/// What can be asked of free memory that could be whole.
pub(crate) const OF_FRAG: [&str; 4] = ["free", "whole", "possible", "percent"];

impl<W: World> Lab<W> {
    /// A fact about a space, one of its regions, or a page of that; `place` is
    /// all but what is asked. None for an unknown one.
    ///
    /// # Errors
    /// ENOENT where there is no such region or page.
    pub(crate) fn space_fact(&self, on: Subject<W>, fact: &str) -> Result<Option<Value>, Error> {
        let Some((place, asked)) = fact.rsplit_once('.') else { return Ok(None) };
        let place = self.spaces.place(place)?;
        let gone = Error::new(Errno::ENOENT, "no such space");
        let held = self.spaces.at(place.space).ok_or(gone)?;
        let space = &held.space;
        let Some(region) = place.region.and_then(|at| self.spaces.region(at)) else {
            let Some(value) = of_space(space, asked) else {
                return Ok(match asked {
                    "tables" => Some(Value::Number(space.tables())),
                    // Who is never chosen has none.
                    "points" => {
                        let points = on.mm.oom_points(space).unwrap_or(0);
                        Some(Value::Number(points.max(0) as u64))
                    }
                    _ => self.usage_fact(on, place, asked)?,
                });
            };
            return Ok(Some(value));
        };
        if let Some(page) = place.page {
            let entry = on.mm.entry_at(space, region.page(page));
            return Ok(on.page_fact(entry, region.page(page), asked));
        }
        if asked == "addr" {
            return Ok(Some(Value::Frame(region.start.0)));
        }
        self.usage_fact(on, place, asked)
    }

    /// What there is of memory in the regions of a place, in pages.
    fn usage_fact(
        &self,
        on: Subject<W>,
        place: Place,
        asked: &str,
    ) -> Result<Option<Value>, Error> {
        let mut bytes = 0;
        for at in self.spaces.regions_at(place) {
            let Some(region) = self.spaces.region(at) else { continue };
            let Some(held) = self.spaces.at(region.space) else { continue };
            let usage = on.mm.space_usage(&held.space, region.start, region.bytes())?;
            bytes += match asked {
                "rss" => usage.rss,
                "swap" => usage.swap,
                "huge" => usage.huge,
                "size" => usage.size,
                "locked" => usage.locked,
                "shared" => usage.shared_clean + usage.shared_dirty,
                "referenced" => usage.referenced,
                "lazyfree" => usage.lazy_free,
                _ => return Ok(None),
            };
        }
        // A space without regions has none of what there is.
        let known = OF_REGION.contains(&asked);
        Ok(known.then_some(Value::Number(bytes / PAGE_SIZE as u64)))
    }
}

/// What a space knows of itself.
fn of_space(space: &Space, asked: &str) -> Option<Value> {
    let (faults, major) = space.faults();
    Some(match asked {
        "rss" => Value::Number(space.rss()),
        "swap" => Value::Number(space.swapped()),
        "huge" => Value::Number(space.huge()),
        "faults" => Value::Number(faults),
        "majfaults" => Value::Number(major),
        // Shown as a number without a sign: what is below 0 is 0.
        "adj" => Value::Number(space.oom_score_adj().max(0) as u64),
        "killed" => Value::Truth(space.is_killed()),
        "protected" => Value::Truth(space.is_protected()),
        _ => return None,
    })
}

impl<W: World> Subject<W> {
    /// A fact about the page that an entry names.
    fn page_fact(self, entry: Entry, va: VirtAddr, asked: &str) -> Option<Value> {
        let zeros = self.mm.maps_zeros(entry);
        if asked == "state" {
            return Some(Value::Word(match entry {
                Entry::None => "none",
                Entry::Page(_) if zeros => "zero",
                Entry::Page(m) if m.size == MapSize::Large => "huge",
                Entry::Page(_) => "page",
                Entry::Swap(_) => "swap",
                Entry::Moving(_) => "moving",
            }));
        }
        let (Entry::Page(mapping) | Entry::Moving(mapping)) = entry else {
            // Of what is not there nothing is true.
            return match asked {
                "mapcount" => Some(Value::Number(0)),
                "pfn" | "zone" | "node" => None,
                _ => OF_PAGE.contains(&asked).then_some(Value::Truth(false)),
            };
        };
        let frame = frame_of(&mapping, va);
        let flags = self.mm.kpageflags(mapping.pfn);
        let block = self.mm.map().try_block(frame);
        Some(match asked {
            "pfn" => Value::Frame(frame.0),
            "zone" => Value::Word(self.mm.zones().get(block?.zone_index())?.kind.name()),
            "node" => Value::Number(u64::from(block?.node().0)),
            "mapcount" => Value::Number(self.mm.kpagecount(mapping.pfn)),
            "young" => Value::Truth(mapping.young),
            "writable" => Value::Truth(mapping.writable),
            "dirty" => Value::Truth(mapping.dirty || flags.contains(KPageFlags::DIRTY)),
            "lru" => Value::Truth(flags.contains(KPageFlags::LRU)),
            "active" => Value::Truth(flags.contains(KPageFlags::ACTIVE)),
            "referenced" => Value::Truth(flags.contains(KPageFlags::REFERENCED)),
            "swapcache" => Value::Truth(flags.contains(KPageFlags::SWAPCACHE)),
            "lazyfree" => {
                let anon = flags.contains(KPageFlags::ANON);
                Value::Truth(anon && !flags.contains(KPageFlags::SWAPBACKED))
            }
            "mlocked" => Value::Truth(flags.contains(KPageFlags::MLOCKED)),
            "unevictable" => Value::Truth(flags.contains(KPageFlags::UNEVICTABLE)),
            _ => return None,
        })
    }

    /// Pages on a node's lists, or taken off them for a while.
    pub(crate) fn lru_fact(self, node: NodeId, asked: &str) -> Option<u64> {
        // Those that are about to be listed count as what they will be.
        self.mm.lru_drain_all();
        Some(match asked {
            "isolated_anon" => self.mm.node_isolated_pages(node, LruKind::Anon),
            "isolated_file" => self.mm.node_isolated_pages(node, LruKind::File),
            _ => {
                let named = |list: &LruList| list.key().strip_prefix("nr_") == Some(asked);
                self.mm.node_lru_pages(node, LruList::ALL.into_iter().find(named)?)
            }
        })
    }

    /// Slots of all swap devices.
    pub(crate) fn swap_fact(self, asked: &str) -> Option<u64> {
        let swap = self.mm.swap_totals();
        Some(match asked {
            "total" => swap.total,
            "used" => swap.used,
            "free" => swap.total.saturating_sub(swap.used),
            "cached" => swap.cached,
            _ => return None,
        })
    }

    /// What the OOM killer has done.
    pub(crate) fn oom_fact(self, asked: &str) -> Option<u64> {
        (asked == "kills").then(|| self.mm.vmstat_value(Event::OomKill.name()).unwrap_or(0))
    }

    /// Free memory where nothing stays: how much of it is whole.
    pub(crate) fn frag_fact(self, asked: &str) -> Option<u64> {
        let room = self.mm.movable_room();
        Some(match asked {
            "free" => room.free,
            "whole" => room.whole,
            "possible" => room.free / PAGEBLOCK_PAGES * PAGEBLOCK_PAGES,
            "percent" => room.percent(),
            _ => return None,
        })
    }
}

/// The frame that `va` is in.
fn frame_of(mapping: &Mapping, va: VirtAddr) -> Pfn {
    let part = (va.0 - va.align_down(mapping.size).0) / PAGE_SIZE as u64;
    mapping.pfn.add(part)
}
