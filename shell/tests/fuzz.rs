//! Random lines, sound ones and damaged ones, at a lab: whatever is typed gets
//! at most one error, and a command that fails changes nothing. The seed is
//! printed; `QUARRY_SEED` sets it, `QUARRY_OPS` the number of lines.

mod world;

use shell::{COMMANDS, Lab, Outcome};
use std::collections::BTreeMap;
use world::{HostWorld, free_pages, lab, ok, said};

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

const NAMES: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h"];
const CACHES: &[&str] = &["k", "l", "m"];
const GFP: &[&str] = &[
    "KERNEL",
    "ATOMIC",
    "NOWAIT",
    "NOIO",
    "NOFS",
    "MOVABLE",
    "RECLAIMABLE",
    "DMA",
    "DMA32|MOVABLE",
    "ZERO",
    "KERNEL|HIGH",
    "NOWAIT|MEMALLOC",
    "ATOMIC|NOMEMALLOC",
    "KERNEL|NORETRY",
    "MOVABLE|RETRY_MAYFAIL",
    "NOFAIL",
    "MOVABLE|NOFAIL",
    "KERNEL|THISNODE",
    "MOVABLE|PINNED",
    "DMA|DMA32",
    "KERNEL|ATOMIC",
];
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "7",
    "10",
    "11",
    "0x40",
    "512",
    "600",
    "3K",
    "9000",
    "1M",
    "99T",
    "18446744073709551615",
    "18446744073709551616",
    "0xffffffffffffffffff",
    "-1",
    "x",
];
const FACTS: &[&str] = &[
    "zone.DMA32.free",
    "zone.DMA.low",
    "zone.Normal.managed",
    "node0.zone.DMA32.pcp",
    "node3.zone.DMA.free",
    "buddy.DMA32.Movable[10]",
    "buddy.DMA.Unmovable[99]",
    "blocks.DMA32.HighAtomic",
    "vmstat.nr_free_pages",
    "vmstat.nothing",
    "cache.k.active_objs",
    "cache.kmalloc-64.num_slabs",
    "fault.seen",
    "a.pages",
    "b.pfn",
    "c.zone",
    "d.type",
    "e.pfmemalloc",
    "f[0].pfn",
    "g[5].zone",
    "h.count",
    "s.rss",
    "t.huge",
    "s.r0.swap",
    "s.r0[7].state",
    "t.r1[600].pfn",
    "u.points",
    "lru.inactive_anon",
    "node1.lru.unevictable",
    "swap.used",
    "oom.kills",
    "frag.percent",
    "..",
    "a.",
];

fn options(rng: &mut Rng) -> String {
    let mut options = String::new();
    if rng.one_in(2) {
        let count = match rng.below(8) {
            0 => rng.pick(NUMBERS).to_string(),
            1 => (rng.below(12_000)).to_string(),
            _ => (1 + rng.below(700)).to_string(),
        };
        options += &format!(" count={count}");
    }
    if rng.one_in(5) {
        options += &format!(" cpu={}", rng.below(3));
    }
    if rng.one_in(9) {
        options += &format!(" node={}", rng.below(2));
    }
    options
}

const SPACES: &[&str] = &["s", "t", "u", "v"];

/// Pages of a space, some or all.
fn place(rng: &mut Rng) -> String {
    let space = rng.pick(SPACES);
    match rng.below(5) {
        0 => format!("{space}.r{}[{}]", rng.below(3), rng.below(300)),
        1 | 2 => format!("{space}.r{}", rng.below(4)),
        _ => space.into(),
    }
}

fn picks(rng: &mut Rng) -> String {
    match rng.below(6) {
        0 => format!(" every={}", rng.below(5)),
        1 => format!(" keep={}", rng.below(5)),
        2 => format!(" from={} pages={}", rng.below(700), rng.below(300)),
        3 => format!(" pages={}", rng.pick(NUMBERS)),
        _ => String::new(),
    }
}

/// A line about address spaces.
fn about_spaces(rng: &mut Rng) -> String {
    let (space, place, picks) = (rng.pick(SPACES), place(rng), picks(rng));
    match rng.below(20) {
        0 | 1 => format!("space {space}"),
        2..=4 => {
            let size = rng.pick(&["4K", "100K", "1M", "3M", "5M", "0", "16M", "900M", "99T"]);
            let how = rng.pick(&["", " huge", " nohuge", " ro", " locked", " huge locked"]);
            let at =
                if rng.one_in(4) { format!(" at={}", rng.pick(NUMBERS)) } else { String::new() };
            format!("map {space} {size}{how}{at}")
        }
        5..=8 => format!("touch {place}{picks} bytes={} salt={}", rng.below(4100), rng.below(9)),
        9 | 10 => format!("verify {place}{picks}"),
        11 => format!("unmap {place}{picks}"),
        12 => format!("fork {space} {}", rng.pick(SPACES)),
        13 | 14 => {
            let advice = rng.pick(&["free", "dontneed", "huge", "nohuge", "gladly"]);
            format!("advise {place} {advice}{picks}")
        }
        15 => format!("{} {place}{picks}", rng.pick(&["mlock", "munlock", "munlock"])),
        16 => format!("reclaim {} {}", rng.below(600), rng.pick(&["", "0", "1", "7"])),
        17 => format!("free {space}"),
        18 => format!("{} {space}", rng.pick(&["kill", "protect", "protect", "space"])),
        _ => {
            let file = rng.pick(&["maps", "smaps", "smaps_rollup", "status", "oom_score", "x"]);
            let adj = rng.pick(&["0", "-1000", "1000", "1001", "many"]);
            match rng.below(3) {
                0 => format!("echo {adj} > /proc/{space}/oom_score_adj"),
                _ => format!("cat /proc/{space}/{file}"),
            }
        }
    }
}

/// A line that runs others.
fn about_lines(rng: &mut Rng) -> String {
    match rng.below(4) {
        0 => format!("try {}", about_spaces(rng)),
        1 => format!("chance {} {}", rng.below(110), about_spaces(rng)),
        2 => format!("seed {}", rng.pick(NUMBERS)),
        _ => "touch {s,t,u} every={1-5}".into(),
    }
}

/// A line as somebody could mean it.
fn sound(rng: &mut Rng) -> String {
    match rng.below(10) {
        0..=3 => return about_spaces(rng),
        4 => return about_lines(rng),
        _ => {}
    }
    let (name, gfp, cache) = (rng.pick(NAMES), rng.pick(GFP), rng.pick(CACHES));
    let order = if rng.one_in(3) { rng.below(12) } else { rng.below(4) };
    match rng.below(36) {
        0..=3 => format!("alloc {name} {order} {gfp}{}", options(rng)),
        4 => format!("alloc {name} {order}"),
        5..=8 => format!("free {name}"),
        9 => format!("free {name}[{}]", rng.below(600)),
        10 => {
            let until = rng.pick(&["high", "low", "min", "empty"]);
            format!("fill {name} {gfp} order={order} until={until}")
        }
        11 => format!("fill {name} {gfp} pages={} cpu={}", rng.below(9000), rng.below(2)),
        12 => format!("punch {name} every={}", rng.below(5)),
        13 => format!("touch {name}"),
        14 => format!("verify {name}"),
        15 => format!("contig {name} {} align={}", rng.below(1500), 1 << rng.below(11)),
        16 => format!("cma {name} {}", rng.below(900)),
        17 => {
            let how = rng.pick(&["", " ctor", " hwalign", " debug", " ctor debug", " reclaim"]);
            format!("cache {cache} size={}{how}", rng.below(3000))
        }
        18..=20 => {
            let general = rng.pick(&["kmalloc-64", "kmalloc-4k", "100", "9000", "3M", "nothing"]);
            let source = if rng.one_in(2) { cache } else { general };
            format!("kalloc {name} {source} {gfp}{}", options(rng))
        }
        21..=23 => format!("kfree {name}"),
        24 => format!("kfree {name}[{}] cpu={}", rng.below(600), rng.below(2)),
        25 => format!("{} {cache}", rng.pick(&["shrink", "destroy", "destroy"])),
        26 => rng.pick(&["reap", "drain", "compact", "compact 0", "list", "audit"]).to_string(),
        27 => format!("memalloc {}", rng.pick(&["on", "off", "off", "maybe"])),
        28 => format!("fail {}={}", rng.pick(&["nth", "every"]), rng.pick(NUMBERS)),
        29 | 30 => "fail off".into(),
        31 => format!("tick {}", rng.below(3000)),
        32 => format!("get {}", rng.pick(FACTS)),
        33 => {
            let (fact, value) = (rng.pick(FACTS), rng.pick(NUMBERS));
            let operator = rng.pick(&["==", "!=", "<", "<=", ">", ">=", "="]);
            format!("expect {fact} {operator} {value}")
        }
        34 => format!("note {name} {}", rng.pick(FACTS)),
        _ => {
            let path = rng.pick(&["/proc/buddyinfo", "/proc/sys/vm/min_free_kbytes", "/proc/x"]);
            format!("{} {path}", rng.pick(&["cat", "echo 4 >", "echo -1 >", "echo"]))
        }
    }
}

/// A line, sometimes with something wrong.
fn line(rng: &mut Rng) -> Vec<u8> {
    let mut text = sound(rng);
    if rng.one_in(12) {
        let errno = rng.pick(&["ENOMEM", "ENOENT", "EINVAL", "EEXIST", "EWHAT"]);
        text = format!("expect-error {errno} {text}");
    }
    if !rng.one_in(4) {
        return text.into_bytes();
    }
    let mut line = text.into_bytes();
    let at = rng.below(line.len() as u64) as usize;
    match rng.below(10) {
        0 => line[at] = rng.next() as u8,
        1 => line.insert(at, rng.next() as u8),
        2 => {
            line.remove(at);
        }
        3 => line.truncate(at),
        4 => {
            let copy = line[at..].to_vec();
            line.extend(copy);
        }
        5 => line = line.repeat(1 + rng.below(30) as usize),
        6 => line.splice(at..at, b" # ".iter().copied()).for_each(drop),
        7 => {
            let number = rng.pick(NUMBERS);
            line.extend(b" ");
            line.extend(number.as_bytes());
        }
        8 => {
            let command = COMMANDS[rng.below(COMMANDS.len() as u64) as usize].name;
            line = command.as_bytes().to_vec();
        }
        _ => line = (0..rng.below(60)).map(|_| rng.next() as u8).collect(),
    }
    line
}

/// What a failed command must leave as it was: groups and their sizes, caches,
/// and the pages that are allocated but not to slabs, whose free objects come
/// and go as they like.
#[derive(PartialEq, Eq, Debug)]
struct State {
    groups: BTreeMap<String, String>,
    pages: u64,
    faults: mm::fault::FaultPlan,
    memalloc: bool,
}

fn state(lab: &mut Lab<HostWorld>) -> State {
    assert_eq!(lab.line(b"list"), Outcome::Ok);
    let list = said(lab);
    let groups = list
        .lines()
        .map(|line| {
            let (name, rest) = line.rsplit_once(": ").expect("a name");
            // Where it is may change: pages move.
            (name.to_string(), rest.split(',').next().expect("a size").to_string())
        })
        .collect();
    // Reclaim frees tables that are empty.
    lab.world().mm.shrink_groups(u64::MAX);
    let audit = lab.world().mm.audit().expect("whole");
    State {
        groups,
        pages: lasting(&audit, lab),
        faults: lab.world().mm.fault_plan(),
        memalloc: mm::platform::Platform::context(lab.world().mm.platform()).memalloc,
    }
}

/// Pages that somebody holds until he gives them back: not those that come and go
/// with accesses to memory, nor slabs.
fn lasting(audit: &mm::audit::Audit, lab: &Lab<HostWorld>) -> u64 {
    let tables = lab.world().mm.vmstat_value("nr_page_table_pages").expect("a counter");
    audit.allocated - audit.slab - audit.large_kmalloc - audit.lru - tables
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Types `lines` lines; (ok, failed, unexpected).
fn run(lab: &mut Lab<HostWorld>, rng: &mut Rng, lines: u64) -> [u64; 3] {
    let mut counts = [0; 3];
    let mut before = state(lab);
    for _ in 0..lines {
        let line = line(rng);
        // A plan of failures may have come to its end with this line.
        let nth = matches!(before.faults, mm::fault::FaultPlan::Nth(_));
        let outcome = lab.line(&line);
        let out = said(lab);
        let shown = line.escape_ascii();
        match outcome {
            Outcome::Ok => counts[0] += 1,
            Outcome::Failed(error) => {
                counts[1] += 1;
                let last = out.lines().last().unwrap_or_default();
                assert_eq!(last, error.to_string(), "{shown}");
                let errors = out.lines().filter(|line| line.starts_with("error:")).count();
                assert_eq!(errors, 1, "{shown}: {out}");
                assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{shown}: {out:?}");
                let mut after = state(lab);
                if nth {
                    after.faults = before.faults;
                }
                // Half a pattern is none; all else is as it was.
                assert_eq!(after, before, "{shown}: {out}");
            }
            Outcome::Unexpected => counts[2] += 1,
        }
        before = state(lab);
    }
    counts
}

#[test]
fn whatever_is_typed() {
    whatever_is_typed_at(&mut lab(32, 2));
}

/// The same on two nodes, with zone Movable and a contiguous area.
#[test]
fn whatever_is_typed_at_an_odd_machine() {
    whatever_is_typed_at(&mut Lab::new(HostWorld::odd()));
}

fn whatever_is_typed_at(lab: &mut Lab<HostWorld>) {
    let (seed, lines) = (setting("QUARRY_SEED", 1), setting("QUARRY_OPS", 3000));
    println!("QUARRY_SEED={seed} QUARRY_OPS={lines}");
    // What address spaces share is there from the first one on.
    for line in ["space first", "map first 4K", "verify first", "free first"] {
        ok(lab, line);
    }
    let free = free_pages(lab);
    let mut before = None;
    for _ in 0..2 {
        let [ok, failed, unexpected] = run(lab, &mut Rng(seed), lines / 2);
        println!("{ok} ok, {failed} failed, {unexpected} expectations not met");
        assert!(ok > lines / 10 && failed > lines / 10 && unexpected > 0);
        lab.abandon();
        lab.reset();
        let mm = lab.world().mm;
        mm.slab_shrink();
        mm.drain_all(None);
        mm.audit().expect("whole");
        let audit = mm.audit().expect("whole");
        let others = lasting(&audit, lab);
        assert_eq!(*before.get_or_insert(others), others);
        // Arrays of free objects of the general caches.
        assert!(free - free_pages(lab) < 64, "{free} pages were free");
    }
}

/// Loops, well-formed or not: what they run fails when it likes, but a script has
/// at most one error, and all of it goes back.
#[test]
fn whatever_is_repeated() {
    let (seed, scripts) = (setting("QUARRY_SEED", 1), setting("QUARRY_OPS", 3000) / 30);
    println!("QUARRY_SEED={seed}");
    let mut rng = Rng(seed);
    let (mut lab, mut whole) = (lab(32, 1), 0);
    for _ in 0..scripts {
        let mut script = Vec::new();
        for _ in 0..rng.below(40) {
            let text = match rng.below(9) {
                0 => format!("repeat {}", rng.below(4)).into_bytes(),
                1 => b"end".to_vec(),
                2 => format!("quiet {}", rng.pick(&["on", "off"])).into_bytes(),
                3 if rng.one_in(4) => line(&mut rng),
                _ => format!("try {}", sound(&mut rng)).into_bytes(),
            };
            script.extend(text);
            script.push(b'\n');
        }
        let verdict = lab.script(&script);
        let out = said(&mut lab);
        let errors = out.lines().filter(|line| line.starts_with("error:")).count();
        assert!(errors <= 1, "{out}");
        assert!(out.ends_with(&format!("{verdict}\n")), "{out}");
        whole += u64::from(matches!(verdict, shell::Verdict::Ok(_)));
        lab.world().mm.audit().expect("whole");
        lab.reset();
    }
    println!("{whole} of {scripts} came to their end");
    assert!(whole > scripts / 20);
}
