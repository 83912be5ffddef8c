//! Memory taken back on demand. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::{Args, count, small};
use crate::world::World;
use mm::types::NodeId;

impl<W: World> Lab<W> {
    /// Has pages reclaimed as somebody would who wanted that many.
    pub(super) fn reclaim(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let pages = count(args.need("reclaim PAGES [NODE]")?)?;
        let node = args.next();
        args.done()?;
        let node = match node {
            None => None,
            Some(word) => {
                let node: u8 = small(word)?;
                if usize::from(node) >= on.mm.nodes() {
                    return Err(Error::new(Errno::EINVAL, "no such node").about(word).into());
                }
                Some(NodeId(node))
            }
        };
        let freed = on.mm.reclaim_proactively(node, pages);
        self.print(format_args!("-> reclaim: {freed} pages\n"));
        Ok(())
    }
}
