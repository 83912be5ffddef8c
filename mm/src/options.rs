//! The command line's options about memory. Calls `cmdline`, `firmware` and,
//! to fill its configuration, `setup`.

use crate::cma::{CmaRequest, MAX_CMA_AREAS};
use crate::cmdline::{Malformed, Token, parse_number, take_size};
use crate::firmware::{CoreSize, MapEdit, MovableSplit, RawRegion, RegionKind, ZoneLayout};
use crate::hotplug::OnlineType;
use crate::setup::Config;
use crate::types::{Order, PAGE_SIZE, PAGEBLOCK_ORDER};

/// Edits of the firmware's map that a command line can ask for.
pub const MAX_EDITS: usize = 64;

/// What slabs are to be checked for (`slab_debug=`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SlabDebug<'a> {
    /// F: check lists and pointers on every free.
    pub consistency: bool,
    /// Z: red zones around objects.
    pub red_zone: bool,
    /// P: fill free objects with a pattern and check it.
    pub poison: bool,
    /// U: remember who allocated and freed an object last.
    pub user: bool,
    /// Names of caches, divided by commas, a `*` at the end standing for
    /// anything; empty for all.
    pub caches: &'a str,
}

impl SlabDebug<'_> {
    /// Whether the checks are for the cache called `name`.
    pub fn applies_to(&self, name: &str) -> bool {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        self.caches.is_empty() || self.caches.split(',').any(matches)
    }
}

/// What became of a word of the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Accept<'a> {
    /// It is an option about memory, and in force.
    Known,
    /// It is none of these options.
    Unknown,
    /// It is, but does not make sense and was ignored.
    Malformed(Malformed<'a>),
}

/// All options about memory. Of an option given twice the last one counts;
/// edits of the map add up.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    edits: [MapEdit; MAX_EDITS],
    nr_edits: usize,
    /// `cma=`; of size 0 for none.
    cma: Option<CmaRequest>,
    /// `movablecore=` and `kernelcore=`.
    pub movable: MovableSplit,
    /// `init_on_alloc=`: zero pages and objects when they are allocated.
    pub init_on_alloc: bool,
    /// `init_on_free=`: zero them when they are freed.
    pub init_on_free: bool,
    /// `page_poison=`: fill free pages with a pattern and check it.
    pub page_poison: bool,
    /// `page_owner=`: record who allocates what.
    pub page_owner: bool,
    /// `deferred=`: give free memory descriptors when it is first wanted (the
    /// default), and not all at boot.
    pub deferred: bool,
    /// `slab_debug=`, also `slub_debug=`.
    pub slab_debug: Option<SlabDebug<'a>>,
    /// `slab_nomerge`, also `slub_nomerge`: every cache for itself.
    pub slab_nomerge: bool,
    /// `min_free_kbytes=`, also `sysctl.vm.min_free_kbytes=`.
    pub min_free_kbytes: Option<u64>,
    /// `watermark_scale_factor=`, also with `sysctl.vm.`: 1 to 3000.
    pub watermark_scale_factor: Option<u32>,
    /// `numa=off`: one node, whatever the firmware says.
    pub numa_off: bool,
    /// `memhp_default_state=`: what becomes of memory that is added; None: it
    /// stays out of use.
    pub memhp_default: Option<OnlineType>,
    /// `movable_node`: memory that is added is for movable pages, unless its
    /// neighbours say otherwise.
    pub movable_node: bool,
    /// `memtest=N`: patterns that free memory is tested with before use.
    pub memtest: u32,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            edits: [MapEdit::Clear; MAX_EDITS],
            nr_edits: 0,
            cma: None,
            movable: MovableSplit::default(),
            init_on_alloc: false,
            init_on_free: false,
            page_poison: false,
            page_owner: false,
            deferred: true,
            slab_debug: None,
            slab_nomerge: false,
            min_free_kbytes: None,
            watermark_scale_factor: None,
            numa_off: false,
            memhp_default: Some(OnlineType::Auto),
            movable_node: false,
            memtest: 0,
        }
    }
}

impl<'a> Options<'a> {
    /// Takes one word of the command line in.
    pub fn accept(&mut self, token: &Token<'a>) -> Accept<'a> {
        match self.set(token) {
            Ok(true) => Accept::Known,
            Ok(false) => Accept::Unknown,
            Err(malformed) => Accept::Malformed(malformed),
        }
    }

    /// Whether the word was one of ours.
    fn set(&mut self, token: &Token<'a>) -> Result<bool, Malformed<'a>> {
        // Boot options of their own here; in Linux only knobs, which its
        // command line reaches as sysctl.vm.NAME.
        let name = token.name.strip_prefix("sysctl.vm.").unwrap_or(token.name);
        let knob = Token { name, ..*token };
        if knob.is("min_free_kbytes") {
            self.min_free_kbytes = Some(token.number()?);
            return Ok(true);
        }
        if knob.is("watermark_scale_factor") {
            let factor = u32::try_from(token.number()?).ok().filter(|f| (1..=3000).contains(f));
            self.watermark_scale_factor = Some(factor.ok_or(token.malformed("not 1 to 3000"))?);
            return Ok(true);
        }
        match () {
            () if token.is("mem") => {
                let limit = token.size()?;
                if limit == 0 {
                    return Err(token.malformed("no memory at all"));
                }
                self.edit(MapEdit::Limit(limit)).map_err(|why| token.malformed(why))?;
            }
            () if token.is("memmap") => self.memmap(token.value()?)?,
            () if token.is("cma") => self.cma = Some(cma(token)?),
            () if token.is("movablecore") => self.movable.movablecore = Some(core_size(token)?),
            () if token.is("kernelcore") => self.movable.kernelcore = Some(core_size(token)?),
            () if token.is("init_on_alloc") => self.init_on_alloc = token.switch()?,
            () if token.is("init_on_free") => self.init_on_free = token.switch()?,
            () if token.is("page_poison") => self.page_poison = token.switch()?,
            () if token.is("page_owner") => self.page_owner = token.switch()?,
            () if token.is("deferred") => self.deferred = token.switch()?,
            () if token.is("slab_debug") || token.is("slub_debug") => {
                self.slab_debug = slab_debug(token)?;
            }
            () if token.is("slab_nomerge") || token.is("slub_nomerge") => {
                if token.value.is_some() {
                    return Err(token.malformed("takes no value"));
                }
                self.slab_nomerge = true;
            }
            () if token.is("numa") => match token.value()? {
                "off" => self.numa_off = true,
                _ => return Err(token.malformed("not off")),
            },
            () if token.is("memhp_default_state") => {
                let state = OnlineType::parse(token.value()?);
                self.memhp_default = state.ok_or(
                    token.malformed("not offline, online, online_kernel or online_movable"),
                )?;
            }
            () if token.is("movable_node") => {
                if token.value.is_some() {
                    return Err(token.malformed("takes no value"));
                }
                self.movable_node = true;
            }
            () if token.is("memtest") => {
                // Without a number, as many patterns as there are.
                self.memtest = match token.value {
                    None => u32::MAX,
                    Some(_) => u32::try_from(token.number()?)
                        .map_err(|_| token.malformed("too many patterns"))?,
                };
            }
            () => return Ok(false),
        }
        Ok(true)
    }

    /// Takes in the value of a `memmap=`. What makes sense in a list is in force
    /// even if other parts of it do not.
    fn memmap(&mut self, list: &'a str) -> Result<(), Malformed<'a>> {
        let mut result = Ok(());
        for text in list.split(',') {
            let edit = memmap_edit(text);
            let done = edit.and_then(|e| self.edit(e).map_err(|why| Malformed { text, why }));
            result = result.and(done);
        }
        result
    }

    fn edit(&mut self, edit: MapEdit) -> Result<(), &'static str> {
        let slot = self.edits.get_mut(self.nr_edits).ok_or("too many changes to the map")?;
        *slot = edit;
        self.nr_edits += 1;
        Ok(())
    }

    /// What `mem=` and `memmap=` ask for, in the order in which they did.
    pub fn map_edits(&self) -> &[MapEdit] {
        &self.edits[..self.nr_edits]
    }

    /// The contiguous area to set up on a machine with `ram_pages` pages: what
    /// `cma=` says, else 16 MiB on machines of 256 MiB and more (as their memory
    /// is counted when it is bought: firmware may keep an eighth of it).
    pub fn cma(&self, ram_pages: u64) -> Option<CmaRequest> {
        const SIZE: u64 = 16 << 20;
        const LEAST_PAGES: u64 = (256 << 20) / 8 * 7 / PAGE_SIZE as u64;
        match self.cma {
            Some(request) => Some(request).filter(|r| r.size > 0),
            None if ram_pages < LEAST_PAGES => None,
            None => Some(area(SIZE)),
        }
    }

    /// What the manager has to know, given where its zones lie and how many
    /// pages of RAM there are. Nodes are not the command line's affair.
    pub fn config(&self, layout: &ZoneLayout, ram_pages: u64) -> Config {
        let mut cma = [None; MAX_CMA_AREAS];
        cma[0] = self.cma(ram_pages);
        Config {
            cma,
            movable_start: layout.movable_starts(),
            min_free_kb: self.min_free_kbytes,
            init_on_alloc: self.init_on_alloc,
            init_on_free: self.init_on_free,
            page_poison: self.page_poison,
            page_owner: self.page_owner,
            defer: self.deferred,
            default_online: self.memhp_default,
            movable_node: self.movable_node,
            ..Config::default()
        }
    }
}

/// One part of a `memmap=` list.
fn memmap_edit(text: &str) -> Result<MapEdit, Malformed<'_>> {
    let malformed = |why| Malformed { text, why };
    if text == "exactmap" {
        return Ok(MapEdit::Clear);
    }
    let (size, rest) = take_size(text).map_err(|e| malformed(e.why))?;
    if size == 0 {
        return Err(malformed("no size"));
    }
    let mut mark = rest.chars();
    let kind = match mark.next() {
        None => return Ok(MapEdit::Limit(size)),
        Some('@') => RegionKind::Usable,
        Some('#') => RegionKind::AcpiData,
        Some('$') => RegionKind::Reserved,
        Some('!') => RegionKind::PersistentLegacy,
        Some(_) => return Err(malformed("@, #, $ or ! is wanted after the size")),
    };
    let (start, rest) = take_size(mark.as_str()).map_err(|e| malformed(e.why))?;
    if !rest.is_empty() {
        return Err(malformed("not an address"));
    }
    let end = start.checked_add(size).ok_or(malformed("too large"))?;
    Ok(MapEdit::Add(RawRegion::new(start, end, kind)))
}

/// An area of that size, anywhere.
const fn area(size: u64) -> CmaRequest {
    CmaRequest { size, base: None, end: None, order_per_bit: Order(0) }
}

/// `cma=SIZE[@START[-END]]`.
fn cma<'a>(token: &Token<'a>) -> Result<CmaRequest, Malformed<'a>> {
    let malformed = |e: Malformed<'_>| token.malformed(e.why);
    let (size, rest) = take_size(token.value()?).map_err(malformed)?;
    let size = size
        .checked_next_multiple_of(PAGEBLOCK_ORDER.bytes() as u64)
        .ok_or(token.malformed("too large"))?;
    let mut request = area(size);
    if rest.is_empty() {
        return Ok(request);
    }
    let place = rest.strip_prefix('@').ok_or(token.malformed("@ is wanted after the size"))?;
    let (base, rest) = take_size(place).map_err(malformed)?;
    request.base = Some(base);
    if rest.is_empty() {
        return Ok(request);
    }
    let end = rest.strip_prefix('-').ok_or(token.malformed("- is wanted after the start"))?;
    match take_size(end).map_err(malformed)? {
        (end, "") if end > base => request.end = Some(end),
        _ => return Err(token.malformed("not an end")),
    }
    Ok(request)
}

/// `kernelcore=` and `movablecore=`: a size, or percent of all RAM.
fn core_size<'a>(token: &Token<'a>) -> Result<CoreSize, Malformed<'a>> {
    match token.value()?.strip_suffix('%') {
        Some(percent) => parse_number(percent)
            .ok()
            .and_then(|percent| u8::try_from(percent).ok())
            .filter(|percent| *percent <= 100)
            .map(CoreSize::Percent)
            .ok_or(token.malformed("not 0 to 100 percent")),
        None => token.size().map(CoreSize::Bytes),
    }
}

/// `slab_debug[=FLAGS][,CACHES]`; `-` for none.
fn slab_debug<'a>(token: &Token<'a>) -> Result<Option<SlabDebug<'a>>, Malformed<'a>> {
    let (flags, caches) = match token.value {
        Some(value) => value.split_once(',').unwrap_or((value, "")),
        None => ("", ""),
    };
    if flags == "-" {
        return Ok(None);
    }
    let all = SlabDebug { consistency: true, red_zone: true, poison: true, user: true, caches };
    if flags.is_empty() {
        return Ok(Some(all));
    }
    let mut debug = SlabDebug { caches, ..SlabDebug::default() };
    for flag in flags.chars() {
        match flag.to_ascii_uppercase() {
            'F' => debug.consistency = true,
            'Z' => debug.red_zone = true,
            'P' => debug.poison = true,
            'U' => debug.user = true,
            _ => return Err(token.malformed("a flag that is none of F Z P U")),
        }
    }
    Ok(Some(debug))
}
