//! Memory taken back on demand. May call `mm`.

use crate::lab::{Done, Lab};
use crate::parse::{Args, count};
use crate::world::World;

impl<W: World> Lab<W> {
    /// Has pages reclaimed as somebody would who wanted that many.
    pub(super) fn reclaim(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let pages = count(args.need("reclaim PAGES [NODE]")?)?;
        let node = args.next().map(|word| on.node(word)).transpose()?;
        args.done()?;
        let freed = on.mm.reclaim_proactively(node, pages);
        self.print(format_args!("-> reclaim: {freed} pages\n"));
        Ok(())
    }
}
