//! One page of objects: data from its start, a directory from its end, and
//! between them the room for more. Pure functions over the page's bytes and its
//! shape, which is kept outside of it. Nothing here can fail on a damaged page:
//! what the directory says is cut to what can be. Calls nothing.

use crate::codec::PageBytes;
use mm::types::PAGE_SIZE;

/// Bytes of an entry of the directory.
pub(crate) const ENTRY: usize = 8;
/// Entries of a page at most.
pub(crate) const MOST: u8 = 127;

/// What a piece of a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A compressed page.
    Whole = 1,
    /// The first part of one; its first four bytes say where the next is.
    First = 2,
    /// A further part, which says where the next is.
    Middle = 3,
    /// The last part.
    Last = 4,
    /// The word that a page is full of.
    Fill = 5,
}

/// An entry of the directory: a piece, and the slot that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) owner: u32,
    /// Where its data begins.
    pub(crate) at: u16,
    /// Bytes of data.
    pub(crate) len: u16,
    /// None on a damaged page only.
    pub(crate) kind: Option<Kind>,
}

const MASK: u64 = 0xfff;

impl Kind {
    /// Whether its data begins with the place of another part.
    pub(crate) fn has_next(self) -> bool {
        matches!(self, Self::First | Self::Middle)
    }
}

impl Entry {
    fn pack(self) -> u64 {
        u64::from(self.owner)
            | u64::from(self.at) << 32
            | u64::from(self.len) << 44
            | self.kind.map_or(0, |kind| kind as u64) << 56
    }

    fn unpack(bits: u64) -> Self {
        let kind = match bits >> 56 {
            1 => Some(Kind::Whole),
            2 => Some(Kind::First),
            3 => Some(Kind::Middle),
            4 => Some(Kind::Last),
            5 => Some(Kind::Fill),
            _ => None,
        };
        let at = (bits >> 32 & MASK) as u16;
        let len = ((bits >> 44 & MASK) as u16).min(PAGE_SIZE as u16 - at);
        Self { owner: bits as u32, at, len, kind }
    }

    /// Its data in the page.
    pub(crate) fn data(self, page: &PageBytes) -> &[u8] {
        page.get(usize::from(self.at)..self.end()).unwrap_or_default()
    }

    fn end(self) -> usize {
        usize::from(self.at) + usize::from(self.len)
    }
}

/// How far a page is filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Where the room between data and directory begins.
    pub(crate) end: u16,
    /// Entries of the directory; all are in use.
    pub(crate) entries: u8,
    /// Bytes that are neither data nor directory, wherever they are.
    pub(crate) free: u16,
}

impl Shape {
    /// A page with nothing in it.
    pub(crate) const EMPTY: Self = Self { end: 0, entries: 0, free: PAGE_SIZE as u16 };

    /// In one word of 12, 7 and 13 bits: data never ends behind the last entry.
    pub(crate) fn pack(self) -> u32 {
        u32::from(self.end & 0xfff) | u32::from(self.entries) << 12 | u32::from(self.free) << 19
    }

    pub(crate) fn unpack(bits: u32) -> Self {
        Self {
            end: (bits & 0xfff) as u16,
            entries: (bits >> 12 & 0x7f) as u8,
            free: (bits >> 19) as u16,
        }
    }

    /// Bytes that a new piece may have here, wherever they are.
    pub(crate) fn room(self) -> usize {
        let free = if self.entries < MOST { self.free } else { 0 };
        usize::from(free).saturating_sub(ENTRY)
    }

    /// Entry `i`, if there is one.
    pub(crate) fn entry(self, page: &PageBytes, i: u8) -> Option<Entry> {
        (i < self.entries).then(|| Entry::unpack(u64::from_le_bytes(read(page, place(i)))))
    }

    /// Adds a piece whose data is `head` and `tail`, one after the other; its
    /// index. The caller has looked whether there is [`room`](Self::room).
    pub(crate) fn insert(
        &mut self,
        page: &mut PageBytes,
        scratch: &mut PageBytes,
        owner: u32,
        kind: Kind,
        head: &[u8],
        tail: &[u8],
    ) -> Option<u8> {
        let len = head.len() + tail.len();
        if len > self.room() {
            return None;
        }
        let index = self.entries;
        if usize::from(self.end) + len > place(index) {
            self.squeeze(page, scratch);
        }
        let (at, middle) = (usize::from(self.end), usize::from(self.end) + head.len());
        page.get_mut(at..middle)?.copy_from_slice(head);
        page.get_mut(middle..middle + tail.len())?.copy_from_slice(tail);
        let entry = Entry { owner, at: at as u16, len: len as u16, kind: Some(kind) };
        write(page, index, entry);
        self.entries += 1;
        self.end += len as u16;
        self.free -= (len + ENTRY) as u16;
        Some(index)
    }

    /// Takes piece `i` out. The last entry takes its place, if it was not that
    /// itself: that entry is returned, whose name has changed.
    pub(crate) fn remove(&mut self, page: &mut PageBytes, i: u8) -> Option<Entry> {
        let gone = self.entry(page, i)?;
        let last = self.entry(page, self.entries - 1)?;
        self.entries -= 1;
        self.free = (self.free + gone.len + ENTRY as u16).min(PAGE_SIZE as u16);
        if gone.end() == usize::from(self.end) {
            self.end = gone.at;
        }
        if self.entries == 0 {
            *self = Self::EMPTY;
        }
        if i == self.entries {
            return None;
        }
        write(page, i, last);
        Some(last)
    }

    /// Joins all the room there is.
    fn squeeze(&mut self, page: &mut PageBytes, scratch: &mut PageBytes) {
        let mut end = 0;
        for i in 0..self.entries {
            let Some(entry) = self.entry(page, i) else { break };
            let data = entry.data(page);
            // On a damaged page there may be more than there is.
            let limit = place(self.entries - 1);
            let len = data.len().min(limit - end);
            scratch[end..end + len].copy_from_slice(&data[..len]);
            write(page, i, Entry { at: end as u16, len: len as u16, ..entry });
            end += len;
        }
        page[..end].copy_from_slice(&scratch[..end]);
        self.end = end as u16;
    }

    /// Writes the first bytes of piece `i` anew.
    pub(crate) fn patch(self, page: &mut PageBytes, i: u8, bytes: [u8; 4]) {
        let entry = self.entry(page, i);
        if let Some(to) = entry.and_then(|e| page.get_mut(usize::from(e.at)..e.end()))
            && let Some(to) = to.first_chunk_mut()
        {
            *to = bytes;
        }
    }
}

/// Where entry `i` lies.
fn place(i: u8) -> usize {
    PAGE_SIZE - ENTRY * (usize::from(i) + 1)
}

fn read(page: &PageBytes, at: usize) -> [u8; ENTRY] {
    page.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default()
}

fn write(page: &mut PageBytes, i: u8, entry: Entry) {
    if let Some(to) = page.get_mut(place(i)..).and_then(<[u8]>::first_chunk_mut) {
        *to = entry.pack().to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn entries_and_shapes_survive_their_words() {
        for kind in [Kind::Whole, Kind::First, Kind::Middle, Kind::Last, Kind::Fill] {
            let entry = Entry { owner: u32::MAX, at: 4087, len: 1, kind: Some(kind) };
            assert_eq!(Entry::unpack(entry.pack()), entry);
        }
        let entry = Entry { owner: 0, at: 0, len: 4088, kind: Some(Kind::Whole) };
        assert_eq!(Entry::unpack(entry.pack()), entry);
        // Data that would reach beyond the page is cut off.
        assert_eq!(Entry::unpack(u64::MAX).end(), PAGE_SIZE);
        for shape in [Shape::EMPTY, Shape { end: 4088, entries: MOST, free: 4096 }] {
            assert_eq!(Shape::unpack(shape.pack()), Shape { end: shape.end & 0xfff, ..shape });
        }
    }

    #[test]
    fn a_page_is_filled_to_its_last_byte_again_and_again() {
        let (mut page, mut scratch) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
        let mut shape = Shape::EMPTY;
        let mut put = |shape: &mut Shape, page: &mut PageBytes, owner: u32, len: usize| {
            let data = vec![owner as u8; len];
            shape.insert(page, &mut scratch, owner, Kind::Whole, &data[..len / 2], &data[len / 2..])
        };
        for owner in 0..4 {
            assert_eq!(put(&mut shape, &mut page, owner, 1016), Some(owner as u8));
        }
        assert_eq!((shape.free, shape.room()), (0, 0));
        assert_eq!(put(&mut shape, &mut page, 9, 1), None);
        // Two holes, neither large enough; the last entries take their places.
        assert_eq!(shape.remove(&mut page, 0).map(|e| e.owner), Some(3));
        assert_eq!(shape.remove(&mut page, 1).map(|e| e.owner), Some(2));
        assert_eq!(shape.room(), 2048 - ENTRY);
        assert_eq!(put(&mut shape, &mut page, 5, 2040), Some(2));
        assert_eq!(shape.free, 0);
        for (i, owner) in [(0, 3), (1, 2), (2, 5)] {
            let entry = shape.entry(&page, i).expect("an entry");
            assert_eq!(entry.owner, owner);
            assert!(entry.data(&page).iter().all(|&b| u32::from(b) == owner));
        }
        for i in (0..3).rev() {
            assert_eq!(shape.remove(&mut page, i), None);
        }
        assert_eq!(shape, Shape::EMPTY);
        assert_eq!(shape.remove(&mut page, 0), None);
    }

    #[test]
    fn no_damage_makes_it_fail() {
        let mut scratch = [0; PAGE_SIZE];
        for byte in [0x00, 0x5a, 0xff] {
            let mut page = [byte; PAGE_SIZE];
            let mut shape = Shape { end: 4000, entries: 12, free: 3000 };
            shape.patch(&mut page, 3, [1; 4]);
            assert!(shape.insert(&mut page, &mut scratch, 1, Kind::Whole, &[], &[7; 90]).is_some());
            shape.remove(&mut page, 2);
        }
    }
}
