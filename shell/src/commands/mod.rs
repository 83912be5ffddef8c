//! What the commands do, a file for each kind. May call: `mm` and the rest of
//! this crate.

mod bad;
mod balloon;
pub(crate) mod blocks;
pub(crate) mod caches;
mod content;
mod contiguous;
mod disk;
mod expect;
pub(crate) mod files;
mod fill;
mod helping;
mod hotplug;
mod machine;
pub(crate) mod mapped;
mod objects;
mod pages;
mod plug;
mod promise;
mod reclaim;
mod report;
mod space;
pub(crate) mod swap;
pub(crate) mod zram;

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::Args;
use crate::world::World;

impl<W: World> Lab<W> {
    /// Runs the command `words`, the first of which is its name.
    pub(crate) fn command(&mut self, words: &[&str]) -> Done {
        let Some((&name, rest)) = words.split_first() else { return Ok(()) };
        let args = Args::new(rest);
        match name {
            "advise" => self.advise(args),
            "alloc" => self.alloc(args),
            "audit" => self.audit(args),
            "balloon" => self.balloon(args),
            "cache" => self.cache(args),
            "cat" => self.cat(args),
            "chance" => self.chance(rest),
            "cma" => self.cma(args),
            "compact" => self.compact(args),
            "contig" => self.contig(args),
            "destroy" => self.destroy(args),
            "disk" => self.disk(args),
            "drain" => self.drain(args),
            "echo" => self.echo(rest),
            "expect" => self.expect(rest),
            "expect-error" => self.expect_error(rest),
            "fail" => self.fail(args),
            "fill" => self.fill(args),
            "fork" => self.fork(args),
            "free" => self.free(args),
            "get" => self.get(args),
            "help" => self.help(args),
            "hotadd" => self.hotadd(args),
            "hotremove" => self.hotremove(args),
            "kalloc" => self.kalloc(args),
            "kfree" => self.kfree(args),
            "kill" => self.kill(args),
            "list" => self.list(args),
            "machine" => self.begin_machine(args),
            "map" => self.map(args),
            "memalloc" => self.memalloc(args),
            "mlock" => self.mlock(args),
            "munlock" => self.munlock(args),
            "note" => self.note(args),
            "offline" => self.offline(args),
            "online" => self.online(args),
            "plug" => self.plug(args),
            "poison" => self.poison(args),
            "protect" => self.protect(args),
            "punch" => self.punch(args),
            "quiet" => self.set_quiet(args),
            "reap" => self.reap(args),
            "reclaim" => self.reclaim(args),
            "end" | "repeat" => {
                let why = "loops stand on lines of their own";
                Err(Error::new(Errno::EINVAL, why).about(name).into())
            }
            "report" => self.report(args),
            "seed" => self.seed(args),
            "shrink" => self.shrink(args),
            "snapshot" => self.snapshot(args),
            "space" => self.space(args),
            "swapoff" => self.swapoff(args),
            "swapon" => self.swapon(args),
            "sync" => self.sync(args),
            "tick" => self.tick(args),
            "touch" => self.touch(args),
            "try" => self.attempt(rest),
            "unmap" => self.unmap(args),
            "unpoison" => self.unpoison(args),
            "verify" => self.verify(args),
            "zram" => self.zram(args),
            _ => self.foreign(words),
        }
    }

    /// A command of the world, or none at all.
    fn foreign(&mut self, words: &[&str]) -> Done {
        match self.world.command(words) {
            Some(result) => Ok(result?),
            None => Err(Error::new(Errno::ENOSYS, "no such command").about(words[0]).into()),
        }
    }
}
