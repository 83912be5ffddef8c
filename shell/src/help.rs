//! What the commands are called and what they do, for `help` and completion.
//! Calls nothing.

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// Its first word.
    pub name: &'static str,
    /// How it is written.
    pub synopsis: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// A line that can be typed as it is.
    pub example: &'static str,
}

const fn command(
    name: &'static str,
    synopsis: &'static str,
    help: &'static str,
    example: &'static str,
) -> Command {
    Command { name, synopsis, help, example }
}

/// What `help` explains beside commands: name and text.
pub const TOPICS: &[[&str; 2]] =
    &[["facts", FACTS], ["gfp", GFP], ["places", PLACES], ["values", VALUES]];

const PLACES: &str = "\
A PLACE is SPACE (all that is mapped in it), SPACE.REGION, or SPACE.REGION[I], a page. Of the
pages of each region there are meant, counted from 0:
from=PAGE pages=N   so many from there on
every=K             each K-th of them, as with punch
keep=K              all but each K-th
A region is called r0, r1 ... unless it is given a name. touch writes to the first bytes=N of
a page (default: all 4096) and zeros behind; another salt=N makes it another pattern. verify
knows what was written, advised and copied: untouched pages are zeros. Spaces have files:
/proc/SPACE/maps, smaps, smaps_rollup, status, statm, oom_score and oom_score_adj.
";

const FACTS: &str = "\
zone.ZONE.FACT      free min low high boost spanned present managed cma cma_free highatomic pcp
buddy.ZONE.TYPE[O]  free blocks of order O; TYPE as in /proc/pagetypeinfo
blocks.ZONE.TYPE    pageblocks
vmstat.KEY          a line of /proc/vmstat
cache.NAME.FACT     active_objs num_objs active_slabs num_slabs objperslab pagesperslab
                    reserve_objs objsize shared_avail alien_avail
lru.LIST            inactive_anon active_anon inactive_file active_file unevictable
                    isolated_anon isolated_file: pages; node1.lru... as with zones
swap.FACT           total used free cached: pages of all swap devices
oom.kills           spaces that were killed for their memory
frag.FACT           free whole possible percent: free pages in pageblocks with no unmovable page;
                    how many of them are in free blocks of 2 MiB, could be, and the share that is
fault.FACT          seen failed: page allocations since fail was armed
report.FACT         passes batches blocks pages bytes failures skipped_zones short_lists
                    spent_budgets lost_pages known_pages, of what the host was told
balloon.FACT        pages target isolated: lent to the host, wanted by it, being moved
zram.FACT           size, and the words of /sys/block/zram0/mm_stat: bytes and pages
plug.FACT           plugged requested most: bytes that the host has plugged, wants, and can
host.FACT           resident: pages that the host keeps memory for (a simulated machine only)
bad.FACT            pages out: bad frames, and those out of use
NAME.FACT           pages count pfn zone type node pfmemalloc of a group; NAME[I].FACT of a block
SPACE.FACT          rss swap huge size locked shared referenced lazyfree tables faults majfaults
                    adj points killed protected; memory in pages
SPACE.REGION.FACT   rss swap huge size locked shared referenced lazyfree addr
SPACE.REGION[I].FACT  of a page: state (none zero page huge swap), pfn zone node mapcount, and
                    young writable dirty lru active referenced swapcache lazyfree mlocked
                    unevictable
ZONE is DMA DMA32 Normal or Movable, of node 0; node1.zone... is that of node 1, as with buddy
and blocks. A group's zone is mixed if it is in several, so is the type of its pageblocks; its
pfn and node are those of the first block, and pfmemalloc is true if it is true of some block.
";

const GFP: &str = "\
One of KERNEL (default) ATOMIC NOWAIT NOIO NOFS, joined by | with
MOVABLE        may be moved, and live in zone Movable and in contiguous areas
RECLAIMABLE    counts as memory that a shrinker can give back
DMA DMA32      from these zones or below
ZERO           cleared
HIGH           may use half of what the min mark keeps back
MEMALLOC       may use all of it; NOMEMALLOC: none, whoever asks
NORETRY RETRY_MAYFAIL NOFAIL   how hard to try; NOFAIL is refused where it would wait for ever
THISNODE       from the given node only
NOWARN PINNED  no report of a failure; movable, but not from contiguous areas
";

const VALUES: &str = "\
Numbers are decimal or 0x, with K M G T as sizes have them. After expect FACT OP: a number, a
$NAME of note, another fact, a sum or difference of two; a word where the fact is one (zone,
type), with == or !=; true, false, 1 or 0 for pfmemalloc.
";

/// The interpreter's own commands; those of a world come on top.
pub const COMMANDS: &[Command] = &[
    command(
        "advise",
        "advise PLACE free|dontneed|huge|nohuge [every=K | keep=K] [from=PAGE] [pages=N]",
        "says of mapped pages, or each K-th, or all but these, that they are not needed, or how large",
        "advise a dontneed every=2",
    ),
    command(
        "alloc",
        "alloc NAME ORDER [GFP] [count=N] [node=N] [cpu=N]",
        "allocates blocks of 2^ORDER pages as group NAME",
        "alloc a 3 ATOMIC count=100",
    ),
    command("audit", "audit", "checks each page, list and counter against all others", "audit"),
    command(
        "balloon",
        "balloon [SIZE]",
        "shows what the host has of memory, or (on the host) has it leave the guest SIZE",
        "balloon",
    ),
    command(
        "cache",
        "cache NAME size=N [align=N] [ctor] [hwalign] [debug] [reclaim] [merge]",
        "makes a slab cache",
        "cache c size=192 hwalign",
    ),
    command("cat", "cat PATH", "prints a file as Linux has it", "cat /proc/buddyinfo"),
    command(
        "chance",
        "chance PERCENT COMMAND...",
        "runs COMMAND so often of 100 times, by chance",
        "chance 30 tick 100",
    ),
    command(
        "cma",
        "cma NAME PAGES [area=AREA] [align=ORDER]",
        "allocates from a contiguous area (its number, or default)",
        "cma c 512 align=9",
    ),
    command("compact", "compact [NODE]", "compacts all zones, or those of a node", "compact"),
    command(
        "contig",
        "contig NAME PAGES [GFP] [align=PAGES] [node=N]",
        "allocates any number of contiguous pages",
        "contig c 1000 align=512",
    ),
    command("destroy", "destroy CACHE", "destroys a cache that has no objects in use", "destroy c"),
    command(
        "disk",
        "disk DEVICE [write | read | verify OFFSET SIZE | sync | drop]",
        "shows what is cached of a disk; writes a pattern through its cache, and finds it again",
        "disk /dev/vda write 0 64K",
    ),
    command("drain", "drain", "gives the pages of all per-CPU lists back to the buddy", "drain"),
    command(
        "echo",
        "echo TEXT | VALUE > PATH",
        "prints words, or writes them to a file",
        "echo 1 > /proc/sys/vm/compact_memory",
    ),
    command("end", "end", "ends a loop (or, on the host, a machine's description)", "end"),
    command(
        "expect",
        "expect FACT OP VALUE [+|- VALUE]",
        "passes if it is so; OP is == != < <= > or >=",
        "expect zone.DMA32.free >= zone.DMA32.high",
    ),
    command(
        "expect-error",
        "expect-error ERRNO COMMAND...",
        "passes if COMMAND fails so",
        "expect-error ENOENT free nothing",
    ),
    command(
        "fail",
        "fail nth=N | every=N | off",
        "has page allocations fail, from now on",
        "fail every=3",
    ),
    command(
        "fill",
        "fill NAME GFP [order=O] [pages=N | until=high|low|min|empty] [node=N] [cpu=N]",
        "allocates blocks until no zone is above the mark, or none is left (default)",
        "fill f MOVABLE until=low",
    ),
    command(
        "fork",
        "fork SPACE NEW",
        "makes a copy of an address space; pages are copied when they are written",
        "fork a b",
    ),
    command(
        "free",
        "free NAME | NAME[I] [cpu=N]",
        "gives a group of pages back, or one block of it, or an address space",
        "free a[7]",
    ),
    command("get", "get FACT", "prints a fact (see: help facts)", "get zone.DMA32.free"),
    command(
        "help",
        "help [COMMAND | facts | gfp | places | values]",
        "lists all commands, or explains one",
        "help alloc",
    ),
    command(
        "hotadd",
        "hotadd 0xSTART SIZE [node=N]",
        "gives a simulated machine memory, in blocks of 128M",
        "hotadd 0x100000000 1G",
    ),
    command(
        "hotremove",
        "hotremove 0xSTART SIZE",
        "takes added memory that is offline away again",
        "hotremove 0x100000000 1G",
    ),
    command(
        "kalloc",
        "kalloc NAME CACHE [GFP] [count=N] [node=N] [cpu=N]",
        "allocates objects; CACHE is a cache, kmalloc-64 or a size",
        "kalloc o kmalloc-64 count=1000",
    ),
    command("kfree", "kfree NAME | NAME[I] [cpu=N]", "gives objects back", "kfree o"),
    command(
        "kill",
        "kill SPACE",
        "kills a space as the OOM killer does: what it has mapped is taken",
        "kill a",
    ),
    command("list", "list", "lists what the lab holds", "list"),
    command(
        "machine",
        "machine",
        "begins to describe another machine, up to `end` (on the host only)",
        "machine",
    ),
    command(
        "map",
        "map SPACE[.REGION] SIZE [huge|nohuge] [ro] [locked] [at=0xADDR]",
        "maps memory that is zero until it is written; nothing is allocated yet",
        "map a.heap 64M",
    ),
    command(
        "memalloc",
        "memalloc on|off",
        "gives the lab PF_MEMALLOC, which may use the reserves",
        "memalloc on",
    ),
    command(
        "mlock",
        "mlock PLACE [every=K | keep=K] [from=PAGE] [pages=N]",
        "keeps mapped pages in memory",
        "mlock a.heap",
    ),
    command(
        "munlock",
        "munlock PLACE [every=K | keep=K] [from=PAGE] [pages=N]",
        "lets mapped pages be reclaimed again",
        "munlock a.heap",
    ),
    command(
        "note",
        "note NAME FACT",
        "notes a number down; $NAME stands for it in expect",
        "note before zone.DMA32.free",
    ),
    command(
        "offline",
        "offline 0xSTART SIZE",
        "takes memory out of use: blocks of 128M, or 2M of one",
        "offline 0x8000000 128M",
    ),
    command(
        "online",
        "online 0xSTART SIZE [kernel | movable]",
        "puts memory back into use, in that zone",
        "online 0x8000000 128M",
    ),
    command(
        "plug",
        "plug [SIZE]",
        "shows what the host has plugged in, or (on the host) has it want SIZE",
        "plug",
    ),
    command(
        "poison",
        "poison 0xPFN",
        "takes a frame that is bad out of use for good; a number, a $NOTE or a fact",
        "poison 0x1234",
    ),
    command(
        "protect",
        "protect SPACE [off]",
        "has the OOM killer never choose a space",
        "protect a",
    ),
    command(
        "punch",
        "punch NAME every=K [cpu=N]",
        "gives each K-th block of a group back",
        "punch f every=2",
    ),
    command(
        "quiet",
        "quiet on|off",
        "has commands say nothing unless they fail, or again what they do",
        "quiet on",
    ),
    command("reap", "reap", "has each CPU give up free objects and slabs, as a timer does", "reap"),
    command(
        "reclaim",
        "reclaim PAGES [NODE]",
        "reclaims as somebody does who wants that many pages",
        "reclaim 1000",
    ),
    command(
        "repeat",
        "repeat N",
        "runs the lines up to `end` N times; words like k{1-8} and {a,b} are picked anew",
        "repeat 100",
    ),
    command(
        "report",
        "report [now | all | on | off | order ORDER]",
        "shows what the host was told of free memory, or has a pass made, over all memory too",
        "report now",
    ),
    command("seed", "seed N", "sets what is picked at random from here on; 1 at first", "seed 42"),
    command("shrink", "shrink CACHE", "gives all free slabs of a cache back", "shrink c"),
    command(
        "snapshot",
        "snapshot NAME",
        "prints what is in each pageblock, for scripts/picture to draw",
        "snapshot before",
    ),
    command("space", "space [NAME]", "makes an address space, or shows all", "space a"),
    command(
        "swapoff",
        "swapoff DEVICE",
        "brings back what is on a swap device, and switches it off",
        "swapoff /dev/zram0",
    ),
    command(
        "swapon",
        "swapon DEVICE [prio=N]",
        "lets pages go to a device; the highest priority first",
        "swapon /dev/zram0 prio=100",
    ),
    command("sync", "sync", "writes all that is newer in memory than on its disk", "sync"),
    command("tick", "tick MS", "lets time pass; workers that are due run", "tick 2000"),
    command(
        "touch",
        "touch NAME|PLACE [every=K | keep=K] [from=PAGE] [pages=N] [bytes=N] [salt=N]",
        "writes a pattern made of name and index; of a space to all of its pages, or some",
        "touch f",
    ),
    command("try", "try COMMAND...", "runs COMMAND, and goes on if it fails", "try alloc big 10"),
    command(
        "unmap",
        "unmap PLACE [every=K | keep=K] [from=PAGE] [pages=N]",
        "unmaps regions of a space, or pages of them",
        "unmap a.heap",
    ),
    command(
        "unpoison",
        "unpoison 0xPFN",
        "takes it back: the frame is as good as any other",
        "unpoison 0x1234",
    ),
    command(
        "verify",
        "verify NAME|PLACE [every=K | keep=K] [from=PAGE] [pages=N]",
        "checks that the pattern is still there, and zeros where none was written",
        "verify f",
    ),
    command(
        "zram",
        "zram [SIZE | reset | compact] [limit=SIZE]",
        "shows the device of compressed memory, gives it a size, empties it, makes it dense",
        "zram 64M",
    ),
];
