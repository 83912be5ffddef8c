//! Which object lies where: slots, pages by number, and lists of pages by the
//! room they have. All of it is locked as one, never for longer than it takes
//! to copy a few pages, and it calls nothing but functions of `mm` that look at
//! descriptors. The descriptor of a page of the store has its number in `index`,
//! its shape in `private`, and in `inuse` whether it is off the lists.

use crate::codec::PageBytes;
use crate::leaf::{ENTRY, Entry, Kind, Shape};
use crate::words::{self, Words};
use mm::Mm;
use mm::list::PageList;
use mm::page::{NIL, PageDesc, link};
use mm::platform::Platform;
use mm::types::{PAGE_SIZE, Pfn};

/// A slot that holds nothing.
pub(crate) const NOTHING: u32 = 0;
/// A slot whose page is all zeros.
pub(crate) const ZERO: u32 = 1;

/// Bytes of room that a list of pages stands for; with less a page is on none.
const STEP: usize = 64;
const LISTS: usize = PAGE_SIZE / STEP;
/// Parts of an object at most.
const PARTS: usize = 4;
/// Bytes of data that a part has at least, the last one aside: less is not worth
/// the entry and the link.
const LEAST: usize = 2 * STEP - ENTRY - LINK;
/// Bytes that say where the next part is.
const LINK: usize = size_of::<u32>();
/// Bits of a name that say which entry.
const INDEX_BITS: u32 = 7;
/// What is written instead of the frame of a page number that is nobody's: the
/// next such number is in the lower bits. No frame is as large.
const FREE_NUMBER: u32 = 0xfe00_0000;

/// Where a piece lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) number: u32,
    pub(crate) index: u8,
}

impl Place {
    /// As slots and first parts name it: neither [`NOTHING`] nor [`ZERO`].
    pub(crate) fn name(self) -> u32 {
        (self.number + 1) << INDEX_BITS | u32::from(self.index)
    }

    /// The place that a slot or a first part names, if it does.
    pub(crate) fn named(name: u32) -> Option<Self> {
        let number = (name >> INDEX_BITS).checked_sub(1)?;
        Some(Self { number, index: (name & ((1 << INDEX_BITS) - 1)) as u8 })
    }
}

/// What is counted, all under the lock.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Figures {
    /// Slots that hold something.
    pub(crate) stored: u64,
    /// Of these, those that hold a page of one word.
    pub(crate) same: u64,
    /// Bytes that the coder made of the others.
    pub(crate) compressed: u64,
    /// Pages of objects.
    pub(crate) pages: u64,
    /// Pages of tables.
    pub(crate) tables: u64,
    /// The most that both were together.
    pub(crate) most: u64,
    /// Pages that became free by compaction.
    pub(crate) compacted: u64,
}

/// Frames that hold nothing any more, to be released without the lock.
#[derive(Default, Debug)]
pub(crate) struct Emptied {
    frames: [Option<Pfn>; 2 * PARTS],
}

impl Emptied {
    fn add(&mut self, pfn: Pfn) {
        if let Some(free) = self.frames.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(pfn);
        }
    }

    /// Whether an object's pages can still be noted.
    pub(crate) fn has_room(&self) -> bool {
        self.frames.iter().filter(|slot| slot.is_none()).count() >= PARTS
    }

    /// Gives them back. No lock held.
    pub(crate) fn release<P: Platform>(self, mm: &Mm<P>) -> u64 {
        self.frames.into_iter().flatten().map(|pfn| mm.release_movable(pfn)).count() as u64
    }
}

/// An object's bytes are damaged, or what says where they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lost;

/// The store.
pub(crate) struct Store {
    pub(crate) slots: Words,
    pub(crate) pages: Words,
    /// Page numbers that have been used.
    pub(crate) numbers: u32,
    free_number: u32,
    lists: [PageList; LISTS],
    /// A bit for each list that is not empty.
    listed: u64,
    /// Bytes of room on listed pages.
    pub(crate) listed_free: u64,
    /// The number of the page that is being emptied.
    pub(crate) victim: Option<u32>,
    /// A page to join a page's room in.
    pub(crate) scratch: Option<Pfn>,
    pub(crate) figures: Figures,
}

/// The list for pages with so many bytes free, if there is one.
pub(crate) fn list_for(shape: Shape) -> Option<usize> {
    let bytes = if shape.room() == 0 { 0 } else { usize::from(shape.free) };
    (bytes.min(PAGE_SIZE) / STEP).checked_sub(1)
}

impl Store {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Words::new(),
            pages: Words::new(),
            numbers: 0,
            free_number: NIL,
            lists: [const { PageList::new() }; LISTS],
            listed: 0,
            listed_free: 0,
            victim: None,
            scratch: None,
            figures: Figures {
                stored: 0,
                same: 0,
                compressed: 0,
                pages: 0,
                tables: 0,
                most: 0,
                compacted: 0,
            },
        }
    }

    /// The frame of a page number, if it is somebody's.
    pub(crate) fn frame<P: Platform>(&self, mm: &Mm<P>, number: u32) -> Option<Pfn> {
        let word = self.pages.get(mm, number).filter(|_| number < self.numbers)?;
        (word < FREE_NUMBER).then_some(Pfn(u64::from(word)))
    }

    /// The descriptor of a frame that is the store's.
    pub(crate) fn own<'m, P: Platform>(&self, mm: &'m Mm<P>, pfn: Pfn) -> Option<&'m PageDesc> {
        let desc = mm.map().try_page(pfn)?;
        (self.frame(mm, desc.index()) == Some(pfn)).then_some(desc)
    }

    /// A page's bytes.
    fn bytes<'a, P: Platform>(&'a mut self, mm: &'a Mm<P>, pfn: Pfn) -> &'a mut PageBytes {
        // SAFETY: the frame is a page of the store or its scratch page, which are
        // reached through the locked store only, one at a time.
        unsafe { &mut *mm.platform().frame(pfn).cast::<PageBytes>() }
    }

    /// A page number of nobody's; what it names is nothing yet. None if the table
    /// has to grow first.
    pub(crate) fn take_number<P: Platform>(&mut self, mm: &Mm<P>) -> Option<u32> {
        if self.free_number != NIL {
            let number = self.free_number;
            let next = self.pages.set(mm, number, NIL)? & !FREE_NUMBER;
            self.free_number = if next == NIL & !FREE_NUMBER { NIL } else { next };
            return Some(number);
        }
        if self.is_full() {
            return None;
        }
        self.pages.set(mm, self.numbers, NIL)?;
        self.numbers += 1;
        Some(self.numbers - 1)
    }

    /// Whether there are as many pages as names have room for.
    pub(crate) fn is_full(&self) -> bool {
        self.free_number == NIL && self.numbers >= words::MOST - 2
    }

    /// Gives a number back that names no page.
    pub(crate) fn give_number<P: Platform>(&mut self, mm: &Mm<P>, number: u32) {
        self.pages.set(mm, number, FREE_NUMBER | self.free_number);
        self.free_number = number;
    }

    /// Page numbers that are nobody's.
    pub(crate) fn free_numbers<P: Platform>(&self, mm: &Mm<P>) -> u32 {
        let mut at = (self.free_number != NIL).then_some(self.free_number);
        let mut count = 0;
        while let Some(number) = at.filter(|_| count < self.numbers) {
            count += 1;
            let next = self.pages.get(mm, number).map(|word| word & !FREE_NUMBER);
            at = next.filter(|&next| next != NIL & !FREE_NUMBER);
        }
        count
    }

    /// Enters an empty page, on no list, under a number that was taken for it.
    /// False if the frame is beyond what can be noted.
    pub(crate) fn enter<P: Platform>(&mut self, mm: &Mm<P>, number: u32, pfn: Pfn) -> bool {
        let Some(desc) = mm.map().try_page(pfn).filter(|_| may_be_noted(pfn)) else { return false };
        self.pages.set(mm, number, link(pfn));
        self.figures.pages += 1;
        self.note_most();
        desc.set_private(Shape::EMPTY.pack());
        desc.set_inuse(1);
        true
    }

    pub(crate) fn note_most(&mut self) {
        let used = self.figures.pages + self.figures.tables;
        self.figures.most = self.figures.most.max(used);
    }

    /// Takes a page out that is empty and off the lists.
    fn forget<P: Platform>(&mut self, mm: &Mm<P>, desc: &PageDesc) {
        let number = desc.index();
        if self.victim == Some(number) {
            self.victim = None;
        }
        self.figures.pages -= 1;
        self.give_number(mm, number);
    }

    /// Lists a page that was entered, or takes it out if it was not needed.
    pub(crate) fn settle<P: Platform>(&mut self, mm: &Mm<P>, pfn: Pfn, emptied: &mut Emptied) {
        let Some(desc) = self.own(mm, pfn) else { return };
        if Shape::unpack(desc.private()).entries == 0 {
            self.forget(mm, desc);
            return emptied.add(pfn);
        }
        desc.set_inuse(0);
        self.list(mm, pfn, desc);
    }

    /// Puts a page on the list for its room.
    pub(crate) fn list<P: Platform>(&mut self, mm: &Mm<P>, pfn: Pfn, desc: &PageDesc) {
        let shape = Shape::unpack(desc.private());
        if let Some(i) = list_for(shape).filter(|_| desc.inuse() == 0) {
            self.lists[i].push_front(mm.map(), pfn);
            self.listed |= 1 << i;
            self.listed_free += u64::from(shape.free);
        }
    }

    /// Takes a page off the list it is on, if any.
    pub(crate) fn unlist<P: Platform>(&mut self, mm: &Mm<P>, pfn: Pfn, desc: &PageDesc) {
        let shape = Shape::unpack(desc.private());
        if let Some(i) = list_for(shape).filter(|_| desc.inuse() == 0) {
            self.lists[i].remove(mm.map(), pfn);
            if self.lists[i].is_empty() {
                self.listed &= !(1 << i);
            }
            self.listed_free -= u64::from(shape.free);
        }
    }

    /// The pages on list `i`.
    pub(crate) fn listed_pages<'m, P: Platform>(
        &self,
        mm: &'m Mm<P>,
    ) -> impl Iterator<Item = (usize, Pfn)> + use<'m, '_, P> {
        let lists = self.lists.iter().enumerate();
        lists.flat_map(|(i, list)| list.iter(mm.map()).map(move |pfn| (i, pfn)))
    }

    /// The page with the most room.
    pub(crate) fn roomiest(&self) -> Option<Pfn> {
        self.lists.get(self.listed.checked_ilog2()? as usize)?.first()
    }

    /// A page with room for so many bytes, and not much more.
    fn best<P: Platform>(&self, mm: &Mm<P>, bytes: usize) -> Option<Pfn> {
        let need = bytes + ENTRY;
        let list = need.div_ceil(STEP) - 1;
        // The list below has some that are large enough; a look at one is cheap.
        let below = list.checked_sub(1).and_then(|i| self.lists[i].first());
        let fits = |pfn: &Pfn| {
            let shape = mm.map().try_page(*pfn).map(|desc| Shape::unpack(desc.private()));
            shape.is_some_and(|shape| shape.room() >= bytes)
        };
        below.filter(fits).or_else(|| {
            let larger = self.listed & u64::MAX.checked_shl(list as u32)?;
            self.lists.get(larger.trailing_zeros() as usize)?.first()
        })
    }

    /// Puts a piece into a page with room for it.
    fn insert<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        pfn: Pfn,
        owner: u32,
        kind: Kind,
        head: &[u8],
        tail: &[u8],
    ) -> Option<Place> {
        let desc = mm.map().try_page(pfn)?;
        let scratch = self.scratch?;
        self.unlist(mm, pfn, desc);
        let mut shape = Shape::unpack(desc.private());
        // SAFETY: the scratch page is the locked store's, and no page of it.
        let scratch = unsafe { &mut *mm.platform().frame(scratch).cast::<PageBytes>() };
        let index = shape.insert(self.bytes(mm, pfn), scratch, owner, kind, head, tail);
        desc.set_private(shape.pack());
        self.list(mm, pfn, desc);
        Some(Place { number: desc.index(), index: index? })
    }

    /// Puts an object somewhere: into one page with room for it, or in parts into
    /// those that have the most. What they do not hold, `fresh` does, which is the
    /// store's, but on no list. None if another page is needed.
    pub(crate) fn place<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        owner: u32,
        kind: Kind,
        data: &[u8],
        fresh: Option<Pfn>,
    ) -> Option<Place> {
        if let Some(pfn) = self.best(mm, data.len()) {
            return self.insert(mm, pfn, owner, kind, &[], data);
        }
        let mut parts: [Option<(Pfn, &PageDesc, &[u8])>; PARTS - 1] = [None; PARTS - 1];
        let (mut rest, mut last) = (data, None);
        for part in &mut parts {
            let Some(pfn) = self.roomiest().filter(|_| kind == Kind::Whole) else { break };
            let Some(desc) = mm.map().try_page(pfn) else { break };
            let len = Shape::unpack(desc.private()).room().saturating_sub(LINK);
            // It had been room for all that is left otherwise.
            let Some((head, tail)) = rest.split_at_checked(len) else { break };
            if len < LEAST {
                break;
            }
            self.unlist(mm, pfn, desc);
            desc.set_inuse(1);
            (*part, rest) = (Some((pfn, desc, head)), tail);
            last = self.best(mm, rest.len());
            if last.is_some() {
                break;
            }
        }
        let mut name = None;
        if let Some(pfn) = last.or(fresh) {
            let kind = if parts[0].is_none() { kind } else { Kind::Last };
            name = self.insert(mm, pfn, owner, kind, &[], rest);
        }
        // From the last to the first, for each says where the next is.
        for (i, part) in parts.into_iter().enumerate().rev() {
            let Some((pfn, desc, head)) = part else { continue };
            desc.set_inuse(0);
            self.list(mm, pfn, desc);
            if let Some(next) = name {
                let kind = if i == 0 { Kind::First } else { Kind::Middle };
                name = self.insert(mm, pfn, owner, kind, &next.name().to_le_bytes(), head);
            }
        }
        name
    }

    /// The entry at a place.
    pub(crate) fn entry<P: Platform>(&mut self, mm: &Mm<P>, at: Place) -> Option<(Pfn, Entry)> {
        let pfn = self.frame(mm, at.number)?;
        let shape = Shape::unpack(mm.map().try_page(pfn)?.private());
        let entry = shape.entry(self.bytes(mm, pfn), at.index)?;
        Some((pfn, entry))
    }

    /// Copies an object of `owner` to `buffer`; what it is, and its length.
    pub(crate) fn gather<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        owner: u32,
        name: u32,
        buffer: &mut [u8],
    ) -> Result<(Kind, usize), Lost> {
        let (mut len, mut whole) = (0, Kind::Whole);
        self.parts(mm, owner, name, |_, kind, data| {
            buffer.get_mut(len..len + data.len())?.copy_from_slice(data);
            len += data.len();
            if kind == Kind::Fill {
                whole = kind;
            }
            Some(())
        })?;
        Ok((whole, len))
    }

    /// Shows `each` part of an object of `owner` in turn, without its link.
    pub(crate) fn parts<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        owner: u32,
        name: u32,
        mut each: impl FnMut(Place, Kind, &[u8]) -> Option<()>,
    ) -> Result<(), Lost> {
        let mut name = name;
        for part in 0..PARTS {
            let at = Place::named(name).ok_or(Lost)?;
            let (pfn, entry) = self.entry(mm, at).filter(|(_, e)| e.owner == owner).ok_or(Lost)?;
            let kind = entry.kind.ok_or(Lost)?;
            if (part == 0) == matches!(kind, Kind::Middle | Kind::Last) {
                return Err(Lost);
            }
            let data = entry.data(self.bytes(mm, pfn));
            if !kind.has_next() {
                return each(at, kind, data).ok_or(Lost);
            }
            let (link, data) = data.split_first_chunk().ok_or(Lost)?;
            each(at, kind, data).ok_or(Lost)?;
            name = u32::from_le_bytes(*link);
        }
        Err(Lost)
    }

    /// What `slot` holds is `name` from now on; what it held is freed.
    pub(crate) fn replace<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        slot: u32,
        name: u32,
        emptied: &mut Emptied,
    ) {
        let Some(old) = self.slots.set(mm, slot, name) else { return };
        self.count(mm, slot, name, true);
        self.count(mm, slot, old, false);
        self.free(mm, slot, old, emptied);
    }

    /// Counts what a slot holds, or does not any more.
    fn count<P: Platform>(&mut self, mm: &Mm<P>, slot: u32, name: u32, more: bool) {
        let (same, bytes) = match name {
            NOTHING => return,
            ZERO => (1, 0),
            name => match self.size(mm, slot, name) {
                // Nobody knows what a damaged one was.
                Err(Lost) | Ok((Kind::Fill, _)) => (1, 0),
                Ok((_, bytes)) => (0, bytes),
            },
        };
        let figures = &mut self.figures;
        for (sum, n) in
            [(&mut figures.stored, 1), (&mut figures.same, same), (&mut figures.compressed, bytes)]
        {
            *sum = if more { *sum + n } else { sum.saturating_sub(n) };
        }
    }

    /// What an object of `owner` is, and its bytes.
    pub(crate) fn size<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        owner: u32,
        name: u32,
    ) -> Result<(Kind, u64), Lost> {
        let mut sum = (Kind::Whole, 0);
        self.parts(mm, owner, name, |_, kind, data| {
            sum = (kind, sum.1 + data.len() as u64);
            Some(())
        })?;
        Ok(sum)
    }

    /// Frees an object of `owner` that no slot names any more. Of a damaged one
    /// only what can be found.
    fn free<P: Platform>(&mut self, mm: &Mm<P>, owner: u32, name: u32, emptied: &mut Emptied) {
        let (mut places, mut found) = ([None; PARTS], 0);
        let _ = self.parts(mm, owner, name, |at, _, _| {
            places[found] = Some(at);
            found += 1;
            Some(())
        });
        // All in different pages: the names of the others do not change.
        for at in places.into_iter().flatten() {
            self.remove(mm, at, emptied);
        }
    }

    /// Takes a piece out of its page; the page too if it was the last.
    fn remove<P: Platform>(&mut self, mm: &Mm<P>, at: Place, emptied: &mut Emptied) {
        let Some(pfn) = self.frame(mm, at.number) else { return };
        let Some(desc) = mm.map().try_page(pfn) else { return };
        self.unlist(mm, pfn, desc);
        let mut shape = Shape::unpack(desc.private());
        let last = Place { number: at.number, index: shape.entries.saturating_sub(1) };
        let renamed = shape.remove(self.bytes(mm, pfn), at.index);
        desc.set_private(shape.pack());
        if shape.entries == 0 {
            self.forget(mm, desc);
            return emptied.add(pfn);
        }
        self.list(mm, pfn, desc);
        if let Some(entry) = renamed {
            self.rename(mm, entry, last, at);
        }
    }

    /// Tells whoever names the piece at `old` that it is at `new`.
    fn rename<P: Platform>(&mut self, mm: &Mm<P>, entry: Entry, old: Place, new: Place) {
        let Some(mut name) = self.slots.get(mm, entry.owner) else { return };
        if name == old.name() {
            self.slots.set(mm, entry.owner, new.name());
            return;
        }
        // If it is no further part either, it is what a slot held that has
        // something else already.
        for _ in 1..PARTS {
            let Some(at) = Place::named(name) else { return };
            let Some((pfn, before)) = self.entry(mm, at) else { return };
            let link = before.data(self.bytes(mm, pfn)).first_chunk().copied();
            let Some(link) = link.filter(|_| before.kind.is_some_and(Kind::has_next)) else {
                return;
            };
            name = u32::from_le_bytes(link);
            if name == old.name() {
                if let Some(desc) = mm.map().try_page(pfn) {
                    let shape = Shape::unpack(desc.private());
                    shape.patch(self.bytes(mm, pfn), at.index, new.name().to_le_bytes());
                }
                return;
            }
        }
    }

    /// Pages that the tables have to get for `slot`, or for one more page number.
    pub(crate) fn table(&mut self, slot: Option<u32>) -> (&mut Words, u32) {
        match slot {
            Some(slot) => (&mut self.slots, slot),
            None => (&mut self.pages, self.numbers.min(words::MOST - 1)),
        }
    }

    /// A page of the tables, to be freed, of a store that holds nothing.
    pub(crate) fn take_table<P: Platform>(&mut self, mm: &Mm<P>) -> Option<Pfn> {
        let table = self.slots.shrink(mm).or_else(|| self.pages.shrink(mm));
        match table {
            Some(_) => self.figures.tables -= 1,
            None => (self.numbers, self.free_number) = (0, NIL),
        }
        table
    }
}

/// Whether a frame has a number that can be told from [`FREE_NUMBER`].
pub(crate) fn may_be_noted(pfn: Pfn) -> bool {
    pfn.0 < u64::from(FREE_NUMBER)
}
