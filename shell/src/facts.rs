//! Facts: what can be asked about the machine and about what the lab holds.
//! May call `mm`.

use crate::errno::{Errno, Error};
use crate::groups::{GONE, Group, Kind};
use crate::lab::{Lab, Subject};
use crate::parse::{indexed, number};
use crate::world::World;
use core::fmt;
use mm::slab::CacheInfo;
use mm::types::{MigrateType, NR_ORDERS, NodeId, ZoneKind};
use mm::zone::{Mark, Zone};

/// The answer to a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Number(u64),
    /// A frame's number, shown as such.
    Frame(u64),
    Word(&'static str),
    Truth(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Frame(n) => write!(f, "{n:#x}"),
            Self::Word(word) => f.write_str(word),
            Self::Truth(truth) => truth.fmt(f),
        }
    }
}

impl Value {
    /// The value as a number; a truth is 0 or 1.
    pub(crate) fn number(self) -> Option<u64> {
        match self {
            Self::Number(n) | Self::Frame(n) => Some(n),
            Self::Truth(truth) => Some(u64::from(truth)),
            Self::Word(_) => None,
        }
    }
}

fn unknown(fact: &str) -> Error {
    Error::new(Errno::ENOENT, "no such fact").about(fact)
}

/// The migratetype of that name.
fn migratetype(word: &str) -> Option<MigrateType> {
    MigrateType::ALL.into_iter().find(|ty| ty.name() == word)
}

impl<W: World> Lab<W> {
    /// The value of a fact.
    ///
    /// # Errors
    /// ENOENT for an unknown one.
    pub(crate) fn fact(&mut self, fact: &str) -> Result<Value, Error> {
        let on = self.subject()?;
        let (node, rest) = on_node(fact)?;
        if usize::from(node.0) >= on.mm.nodes() {
            return Err(Error::new(Errno::ENOENT, "no such node").about(fact));
        }
        // The subject ends at the first point, what is asked begins after the
        // last: names of caches have points of their own.
        let (subject, asked) = rest.split_once('.').ok_or_else(|| unknown(fact))?;
        let value = match subject {
            "zone" => on.zone_fact(node, asked),
            "buddy" => on.buddy_fact(node, asked),
            "blocks" => on.blocks_fact(node, asked),
            "lru" => on.lru_fact(node, asked).map(Value::Number),
            _ if rest != fact => None,
            "vmstat" => on.mm.vmstat_value(asked).map(Value::Number),
            "cache" => self.cache_fact(on, asked),
            "fault" => match asked {
                "seen" => Some(Value::Number(on.mm.fault_counts().seen)),
                "failed" => Some(Value::Number(on.mm.fault_counts().failed)),
                _ => None,
            },
            "report" => on.report_fact(asked),
            "balloon" => self.balloon_fact(asked).map(Value::Number),
            "zram" => self.zram_fact(asked).map(Value::Number),
            "swap" => on.swap_fact(asked).map(Value::Number),
            "oom" => on.oom_fact(asked).map(Value::Number),
            "frag" => on.frag_fact(asked).map(Value::Number),
            "plug" => self.plug_fact(asked).map(Value::Number),
            "host" => self.world.host_fact(asked).map(Value::Number),
            "bad" => match asked {
                "pages" => Some(Value::Number(on.mm.bad_pages())),
                "out" => Some(Value::Number(on.mm.taken_pages())),
                _ => None,
            },
            _ if self.spaces.find(subject).is_some() => self.space_fact(on, rest)?,
            _ => return self.group_fact(on, subject, asked),
        };
        value.ok_or_else(|| unknown(fact))
    }

    fn cache_fact(&self, on: Subject<W>, asked: &str) -> Option<Value> {
        let (name, asked) = asked.rsplit_once('.')?;
        let info = match self.caches.find(name) {
            Ok(entry) => on.mm.cache_info(entry.id).ok()?,
            Err(_) => on.mm.caches().find(|info| info.name() == name)?,
        };
        of_cache(&info, asked).map(Value::Number)
    }

    fn group_fact(&mut self, on: Subject<W>, subject: &str, asked: &str) -> Result<Value, Error> {
        let (name, index) = indexed(subject)?;
        let group = *self.groups.find(name)?;
        let words = match index {
            None => None,
            Some(index) => {
                let word = self.ledger.at(on.mm, &group.list, index).copied();
                let held = word.filter(|&word| word != GONE);
                let gone = Error::new(Errno::ENOENT, "the group has no such block");
                Some(held.ok_or_else(|| gone.about(subject))?)
            }
        };
        let live = if index.is_some() { 1 } else { group.live };
        let value = match asked {
            "count" => Some(Value::Number(live)),
            "pages" if matches!(group.kind, Kind::Objects(_)) => {
                let why = "objects have no pages of their own";
                return Err(Error::new(Errno::EINVAL, why).about(name));
            }
            "pages" => Some(Value::Number(live * group.kind.pages())),
            "pfn" | "zone" | "type" | "pfmemalloc" | "node" => {
                self.place_fact(on, &group, words, asked)
            }
            _ => None,
        };
        value.ok_or_else(|| unknown(asked))
    }

    /// Where a group's blocks are, or the one that is given.
    fn place_fact(
        &mut self,
        on: Subject<W>,
        group: &Group,
        block: Option<u64>,
        asked: &str,
    ) -> Option<Value> {
        let seen = match block {
            None => on.seen(&mut self.ledger, group),
            Some(word) => on.seen_one(group.kind, word),
        };
        Some(match asked {
            "pfn" => Value::Frame(seen.pfn?.0),
            "zone" => Value::Word(seen.zone()),
            "type" => Value::Word(seen.ty()),
            "node" => Value::Number(u64::from(seen.node?.0)),
            _ => Value::Truth(seen.pfmemalloc),
        })
    }
}

impl<W: World> Subject<W> {
    fn zone_named(self, node: NodeId, name: &str) -> Option<&'static Zone> {
        let kind = ZoneKind::ALL.into_iter().find(|kind| kind.name() == name)?;
        self.mm.zone(node, kind)
    }

    fn zone_fact(self, node: NodeId, asked: &str) -> Option<Value> {
        let (name, asked) = asked.split_once('.')?;
        let zone = self.zone_named(node, name)?;
        Some(Value::Number(match asked {
            "free" => zone.free_pages(),
            "min" => zone.mark(Mark::Min),
            "low" => zone.mark(Mark::Low),
            "high" => zone.mark(Mark::High),
            "spanned" => zone.span().pages(),
            "present" => zone.present(),
            "managed" => zone.managed(),
            "cma_free" => zone.free_cma_pages(),
            "cma" => zone.cma_pages(),
            "boost" => zone.boost(),
            "highatomic" => zone.reserved_highatomic(),
            "pcp" => self.mm.pcp_pages(zone),
            _ => return None,
        }))
    }

    fn report_fact(self, asked: &str) -> Option<Value> {
        if asked == "known_pages" {
            return Some(Value::Number(self.mm.reported_pages()));
        }
        let stats = self.mm.report_stats();
        let found = stats.each().find(|&(name, _)| name == asked);
        found.map(|(_, value)| Value::Number(value))
    }

    fn buddy_fact(self, node: NodeId, asked: &str) -> Option<Value> {
        let (name, asked) = asked.split_once('.')?;
        let (ty, order) = indexed(asked).ok()?;
        let zone = self.zone_named(node, name)?;
        let order = usize::try_from(order?).ok().filter(|&order| order < NR_ORDERS)?;
        let blocks = self.mm.free_blocks(zone)[order];
        Some(Value::Number(u64::from(*blocks.get(migratetype(ty)?.index())?)))
    }

    fn blocks_fact(self, node: NodeId, asked: &str) -> Option<Value> {
        let (name, ty) = asked.split_once('.')?;
        let zone = self.zone_named(node, name)?;
        let blocks = self.mm.pageblocks_by_type(zone);
        Some(Value::Number(*blocks.get(migratetype(ty)?.index())?))
    }
}

/// What a fact begins with: `nodeN.` and the rest, or node 0.
fn on_node(fact: &str) -> Result<(NodeId, &str), Error> {
    let of = |fact: &'_ str| {
        let (node, _) = fact.strip_prefix("node")?.split_once('.')?;
        (!node.is_empty() && node.bytes().all(|b| b.is_ascii_digit())).then_some(node.len())
    };
    let Some(digits) = of(fact) else { return Ok((NodeId(0), fact)) };
    let node = number(&fact[4..4 + digits])?;
    let node = u8::try_from(node).map_err(|_| unknown(fact))?;
    Ok((NodeId(node), &fact[4 + digits + 1..]))
}

fn of_cache(info: &CacheInfo, asked: &str) -> Option<u64> {
    Some(match asked {
        "active_objs" => info.active_objs,
        "num_objs" => info.num_objs,
        "active_slabs" => info.active_slabs,
        "num_slabs" => info.num_slabs,
        "objperslab" => u64::from(info.objperslab),
        "pagesperslab" => u64::from(info.pagesperslab),
        "reserve_objs" => info.reserve_objs,
        "objsize" => u64::from(info.size),
        "shared_avail" => info.shared_avail,
        "alien_avail" => info.alien_avail,
        _ => return None,
    })
}
