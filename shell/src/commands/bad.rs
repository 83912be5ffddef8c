//! Frames that are said to be bad. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::Args;
use crate::world::World;
use mm::poison::PoisonError;
use mm::types::Pfn;

impl<W: World> Lab<W> {
    pub(super) fn poison(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let word = args.need("poison 0xPFN")?;
        args.done()?;
        let pfn = Pfn(self.term(word)?);
        let done = on.mm.poison_page(pfn).map_err(|why| Error::from(why).about(pfn))?;
        self.print(format_args!("-> {pfn}: {done}\n"));
        Ok(())
    }

    pub(super) fn unpoison(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let word = args.need("unpoison 0xPFN")?;
        args.done()?;
        let pfn = Pfn(self.term(word)?);
        Ok(on.mm.unpoison_page(pfn).map_err(|why| Error::from(why).about(pfn))?)
    }
}

impl From<PoisonError> for Error {
    fn from(error: PoisonError) -> Self {
        match error {
            PoisonError::NotRam => Self::new(Errno::EINVAL, "memory outside kernel control"),
            PoisonError::Already => Self::new(Errno::EBUSY, "already hardware poisoned"),
            PoisonError::Busy => Self::new(Errno::EAGAIN, "on its way from one hand to another"),
            PoisonError::NotPoisoned => Self::new(Errno::ENOENT, "not hardware poisoned"),
        }
    }
}
