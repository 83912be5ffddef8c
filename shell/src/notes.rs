//! Numbers that a script keeps under a name, to compare with later. Calls
//! nothing.

use crate::errno::{Errno, Error};
use crate::name::Name;

/// Notes that there can be at a time.
pub const NOTES_MAX: usize = 128;

/// All notes.
pub(crate) struct Notes([(Name, u64); NOTES_MAX]);

impl Notes {
    pub(crate) const fn new() -> Self {
        Self([(Name::NONE, 0); NOTES_MAX])
    }

    /// Notes a number down; a note of that name is written over.
    ///
    /// # Errors
    /// EINVAL for what is no name, ENOSPC.
    pub(crate) fn set(&mut self, word: &str, value: u64) -> Result<(), Error> {
        let name = Name::new(word)?;
        let place = self.0.iter().position(|note| note.0 == name);
        let place = place.or_else(|| self.0.iter().position(|note| note.0 == Name::NONE));
        let Some(place) = place else {
            return Err(Error::new(Errno::ENOSPC, "128 notes are there already"));
        };
        self.0[place] = (name, value);
        Ok(())
    }

    /// # Errors
    /// ENOENT.
    pub(crate) fn get(&self, word: &str) -> Result<u64, Error> {
        let note = self.0.iter().find(|note| note.0 != Name::NONE && note.0.as_str() == word);
        note.map(|note| note.1).ok_or_else(|| Error::new(Errno::ENOENT, "no such note").about(word))
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }
}
