//! `/sys/kernel/mm/transparent_hugepage/enabled` (Linux mm/huge_memory.c). May
//! call: `space`.

use super::FileError;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::space::HugePages;
use core::fmt;

impl<P: Platform> Mm<P> {
    /// All policies, that in force in brackets.
    pub(super) fn write_huge_pages(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        for (i, policy) in HugePages::ALL.into_iter().enumerate() {
            let (name, between) = (policy.name(), if i > 0 { " " } else { "" });
            if policy == self.huge_pages() {
                write!(out, "{between}[{name}]")?;
            } else {
                write!(out, "{between}{name}")?;
            }
        }
        writeln!(out)
    }

    /// Takes the name of a policy.
    pub(super) fn huge_pages_write(&self, text: &str) -> Result<(), FileError> {
        let mut known = HugePages::ALL.into_iter();
        let policy = known.find(|policy| policy.name() == text.trim()).ok_or(FileError::Invalid)?;
        self.set_huge_pages(policy);
        Ok(())
    }
}
