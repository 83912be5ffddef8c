//! What is in pages and objects: a pattern made of name and index. May call
//! `mm`.

use crate::errno::{Errno, Error};
use crate::groups::{GONE, Group, Kind};
use crate::lab::{Done, Lab, Subject};
use crate::ledger::Cursor;
use crate::name::Name;
use crate::parse::Args;
use crate::world::World;
use core::fmt;
use core::ptr::NonNull;
use mm::arena::Handle;
use mm::platform::Platform;
use mm::types::{PAGE_SIZE, Pfn};

/// Bytes of a word of the pattern.
const WORD: usize = size_of::<u64>();

/// What a constructor of the lab leaves in the first bytes of an object.
pub(crate) const CONSTRUCTED: u64 = 0x5155_4152_5259_0a0d;

/// Bytes that an object with a constructor has at least.
pub(crate) const CONSTRUCTED_BYTES: usize = WORD;

/// The constructor of the lab's caches.
pub(crate) fn construct(object: NonNull<u8>) {
    // SAFETY: caches with this constructor have objects of a word at least, and
    // it is called for one that nobody else has.
    unsafe { object.cast::<u64>().write_unaligned(CONSTRUCTED) };
}

/// The pattern of one block: each of its words is another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern(u64);

/// FNV-1a over what is written to it.
struct Hash(u64);

impl fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = text
            .bytes()
            .fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Ok(())
    }
}

impl Pattern {
    /// What stands for a name in the patterns of its blocks, with a number that
    /// tells several of the same name apart.
    pub(super) fn hash(name: fmt::Arguments<'_>, salt: u64) -> u64 {
        let mut hash = Hash(0xcbf2_9ce4_8422_2325);
        // It takes whatever is written.
        let _ = fmt::Write::write_fmt(&mut hash, name);
        hash.0.wrapping_add(salt.wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    /// The pattern of block `index` of the name that `hash` stands for.
    pub(super) fn seeded(hash: u64, index: u64) -> Self {
        Self(hash ^ index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn of(name: &Name, index: u64) -> Self {
        Self::seeded(Self::hash(format_args!("{name}"), 0), index)
    }

    fn word(self, at: usize) -> [u8; WORD] {
        self.0.wrapping_add((at as u64).wrapping_mul(0xd134_2543_de82_ef95)).to_ne_bytes()
    }

    /// Writes the pattern's words from number `from` on.
    pub(super) fn write(self, bytes: &mut [u8], from: usize) {
        for (i, place) in bytes.chunks_mut(WORD).enumerate() {
            place.copy_from_slice(&self.word(from + i)[..place.len()]);
        }
    }

    pub(super) fn is_in(self, bytes: &[u8], from: usize) -> bool {
        let mut words = bytes.chunks(WORD).enumerate();
        words.all(|(i, place)| *place == self.word(from + i)[..place.len()])
    }
}

/// What to do with the bytes of a block; they come in pieces, each with the
/// number of its first word.
type OnBytes<'a> = &'a mut dyn FnMut(&mut [u8], usize);

impl<W: World> Subject<W> {
    /// Shows all bytes of a block to `f`.
    ///
    /// # Errors
    /// EIO where the block is gone.
    fn with_bytes(self, kind: Kind, word: u64, f: OnBytes<'_>) -> Result<(), Error> {
        const WORDS: usize = PAGE_SIZE / WORD;
        if let Kind::Objects(source) = kind {
            let (at, len) = (self.object(word)?, self.object_size(source));
            // SAFETY: the object is the lab's, which borrows it once at a time.
            f(unsafe { core::slice::from_raw_parts_mut(at.as_ptr(), len) }, 0);
            return Ok(());
        }
        for page in 0..kind.pages() {
            let first = page as usize * WORDS;
            if let Kind::Movable(_) = kind {
                let handle = Handle::from_bits(word);
                self.arena
                    .with_page(self.mm, handle, page, |bytes| f(bytes, first))
                    .map_err(|_| Error::new(Errno::EIO, "the arena does not know the handle"))?;
                continue;
            }
            let at = self.mm.platform().frame(Pfn(word + page));
            // SAFETY: the page is the lab's, which borrows it once at a time.
            f(unsafe { core::slice::from_raw_parts_mut(at, PAGE_SIZE) }, first);
        }
        Ok(())
    }
}

impl<W: World> Lab<W> {
    pub(super) fn touch(&mut self, mut args: Args<'_>) -> Done {
        let (on, word) = (self.subject()?, args.need("touch NAME")?);
        if self.is_place(word) {
            return self.touch_space(on, word, args);
        }
        args.done()?;
        let group = *self.groups.find(word)?;
        // What a constructor has made stays as it is.
        let kept = if self.is_constructed(&group) { CONSTRUCTED_BYTES } else { 0 };
        // Half of a pattern is none.
        self.groups.find(group.name.as_str())?.touched = false;
        self.each_block(on, &group, &mut |index, word| {
            let pattern = Pattern::of(&group.name, index);
            on.with_bytes(group.kind, word, &mut |bytes, from| {
                pattern.write(bytes.get_mut(kept..).unwrap_or_default(), from + kept / WORD);
            })
        })?;
        self.groups.find(group.name.as_str())?.touched = true;
        Ok(())
    }

    pub(super) fn verify(&mut self, mut args: Args<'_>) -> Done {
        let (on, word) = (self.subject()?, args.need("verify NAME")?);
        if self.is_place(word) {
            return self.verify_space(on, word, args);
        }
        args.done()?;
        let group = *self.groups.find(word)?;
        let constructed = self.is_constructed(&group);
        if !constructed && !group.touched {
            return Err(Error::new(Errno::EINVAL, "nothing was written by touch").into());
        }
        self.each_block(on, &group, &mut |index, word| {
            let pattern = Pattern::of(&group.name, index);
            let mut whole = true;
            on.with_bytes(group.kind, word, &mut |bytes, from| {
                let (made, rest) = bytes.split_at(if constructed { CONSTRUCTED_BYTES } else { 0 });
                whole &= !constructed || *made == CONSTRUCTED.to_ne_bytes();
                whole &= !group.touched || pattern.is_in(rest, from + made.len() / WORD);
            })?;
            if !whole {
                let why = Error::new(Errno::EIO, "the content has changed");
                return Err(why.about(format_args!("{}[{index}]", group.name)));
            }
            Ok(())
        })?;
        self.print(format_args!("-> {}: {} blocks verified\n", group.name, group.live));
        Ok(())
    }

    /// Calls `f` for each block with its index.
    ///
    /// # Errors
    /// The first of `f`; EINTR.
    fn each_block(
        &mut self,
        on: Subject<W>,
        group: &Group,
        f: &mut dyn FnMut(u64, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut cursor = Cursor::new(&group.list);
        while let Some((first, words)) = self.ledger.piece(on.mm, &mut cursor) {
            for (index, &word) in (first..).zip(words.iter()).filter(|(_, word)| **word != GONE) {
                f(index, word)?;
            }
            if self.world.interrupted() {
                return Err(Error::new(Errno::EINTR, "interrupted"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_differ() {
        let (a, b) = (Name::new("a").expect("a name"), Name::new("b").expect("a name"));
        let mut bytes = [0; 100];
        Pattern::of(&a, 3).write(&mut bytes, 0);
        assert!(Pattern::of(&a, 3).is_in(&bytes, 0));
        assert!(!Pattern::of(&a, 4).is_in(&bytes, 0));
        assert!(!Pattern::of(&b, 3).is_in(&bytes, 0));
        assert!(!Pattern::of(&a, 3).is_in(&bytes, 1));
        bytes[99] ^= 1;
        assert!(!Pattern::of(&a, 3).is_in(&bytes, 0));
    }
}
