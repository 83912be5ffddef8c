//! The kernel's virtual memory.

pub(crate) mod layout;
pub(crate) mod stacks;
