//! What a platform may make in one piece without masking interrupts, in that an
//! interrupt that comes in between has it begun again from the start: the two
//! steps of the fast path for objects. How is the platform's affair
//! ([`Platform::local_pop`](crate::platform::Platform::local_pop)); where the
//! parts of an entry and of an array lie, [`slab::local`](crate::slab::local)
//! says. Calls nothing.

/// Taking an object: for [`Platform::local_pop`](crate::platform::Platform::local_pop).
///
/// In the table of the CPU this runs on, at the place of `entry` in the first
/// one's: if its generation is
/// `generation` and the word at `reserves` is 0 and the array is not empty, mark
/// the array touched, read the last object and store the count less one.
#[derive(Clone, Copy, Debug)]
pub struct Pop {
    /// The entry in the first CPU's table.
    pub entry: *const u8,
    /// The generation it has to have.
    pub generation: u32,
    /// A word of 64 bits.
    pub reserves: *const u64,
}

/// Giving an object back: for
/// [`Platform::local_push`](crate::platform::Platform::local_push).
///
/// In the table of the CPU this runs on, at the place of `entry` in the first
/// one's: if its generation is
/// `generation` (or any but 0, without one) and the array's key is `key` and it
/// has room, store the object after the last and then the count and one.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    /// The entry in the first CPU's table.
    pub entry: *const u8,
    /// The generation it has to have, if that matters.
    pub generation: Option<u32>,
    /// The object's key.
    pub key: u32,
    /// The object.
    pub object: *mut u8,
}
