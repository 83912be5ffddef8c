//! Random machines, and random scripts on them: whatever is written, each line
//! has at most one error, nothing of it panics, the manager stays sound and in
//! the end has everything back. `QUARRY_SEED` sets the seed, which is printed,
//! `QUARRY_OPS` how many machines there are.

use lab::{HostWorld, Kept, Output};
use selftest::Rng;
use shell::{Lab, Outcome, World};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// What is taken of a machine once everything that may wait has been sent home.
fn taken(world: &HostWorld) -> u64 {
    let mm = world.mm().unwrap();
    world.arena().unwrap().release_tables(mm).unwrap();
    mm.slab_shrink();
    mm.drain_all(None);
    mm.managed_pages() - mm.free_pages_total()
}

fn sound(lab: &Lab<HostWorld>, what: &str) {
    if let Err(error) = lab.world().mm().unwrap().audit() {
        panic!("{error} after {what}");
    }
}

/// A piece of a machine's map. Mostly small and low, now and then far up.
fn mem(rng: &mut Rng) -> String {
    let types =
        ["usable", "usable", "usable", "reserved", "ACPI data", "type 20", "7", "unusable", "gold"];
    let start = match rng.below(10) {
        0 => rng.next_u64() >> rng.below(64),
        1 => rng.below(64 << 30),
        _ => rng.below(1 << 30) & !((1 << rng.below(24)) - 1),
    };
    let last = start.wrapping_add(rng.below(512 << 20)).wrapping_sub(1);
    format!("mem {start:#x}-{last:#x} {}", rng.pick(&types).unwrap())
}

/// Characters without a meaning, on one line.
fn noise(rng: &mut Rng) -> String {
    let noise = (0..rng.below(60)).map(|_| char::from(rng.below(256) as u8));
    noise.filter(|&c| c != '\n').collect()
}

fn line_of_a_machine(rng: &mut Rng) -> String {
    match rng.below(80) / 10 {
        // Now and then anything at all.
        0 if rng.percent(10) => noise(rng),
        0..=3 => mem(rng),
        4 => format!("cpus {}", rng.below(9)),
        5 => {
            let (node, start) = (rng.below(4), rng.below(1 << 30) & !0xfff_ffff);
            let end = start + rng.below(512 << 20);
            format!(
                "node {node} {start:#x}-{end:#x}{}",
                rng.pick(&["", " cpus=0", " cpus=1-2"]).unwrap()
            )
        }
        6 => format!("distance {} {} {}", rng.below(4), rng.below(4), rng.below(60)),
        _ => {
            let words = [
                "cma=8M",
                "cma=64M@0x8000000",
                "movablecore=30%",
                "kernelcore=64M",
                "numa=off",
                "page_poison=1",
                "init_on_alloc=1",
                "init_on_free=1",
                "slab_debug=FZPU",
                "page_owner=on",
                "deferred=off",
                "min_free_kbytes=4000",
                "mem=200M",
                "memmap=1M$32M",
                "memmap=exactmap,64M@1M",
                "nonsense",
                "cma=",
                "\"open",
            ];
            let words: Vec<_> = (0..rng.below(4)).map(|_| rng.pick(&words).unwrap()).collect();
            format!("cmdline {}", words.join(" "))
        }
    }
}

fn gfp(rng: &mut Rng) -> String {
    let words = [
        "KERNEL",
        "ATOMIC",
        "NOWAIT",
        "MOVABLE",
        "RECLAIMABLE",
        "DMA",
        "DMA32",
        "ZERO",
        "HIGH",
        "MEMALLOC",
        "NOMEMALLOC",
        "NORETRY",
        "RETRY_MAYFAIL",
        "THISNODE",
        "GOLD",
    ];
    let words: Vec<_> = (0..=rng.below(3)).map(|_| rng.pick(&words).unwrap()).collect();
    words.join("|")
}

/// A command about address spaces, what they are swapped to, and loops.
fn about_spaces(rng: &mut Rng) -> String {
    let space = rng.pick(&["s", "t", "u"]).unwrap();
    let place = rng.pick(&["s", "t", "u", "s.r0", "t.r1", "u.r0[5]", "s.r1[600]", "v"]).unwrap();
    let pick = rng.pick(&["", "", "every=2", "keep=4", "from=100 pages=300", "every=0"]).unwrap();
    let most = 1 << rng.below(26);
    let n = rng.below(most);
    match rng.below(24) {
        0..=2 => format!("space {space}"),
        3..=6 => format!(
            "map {space} {n} {}",
            rng.pick(&["", "huge", "nohuge", "ro", "locked", "at=0x40000000"]).unwrap()
        ),
        7..=10 => format!("touch {place} {pick} bytes={} salt={}", n % 5000, n % 9),
        11..=12 => format!("verify {place} {pick}"),
        13 => format!("unmap {place} {pick}"),
        14 => format!("fork {space} {}", rng.pick(&["s", "t", "u", "v"]).unwrap()),
        15 => format!(
            "advise {place} {} {pick}",
            rng.pick(&["free", "dontneed", "huge", "nohuge", "x"]).unwrap()
        ),
        16 => format!("{} {place} {pick}", rng.pick(&["mlock", "munlock"]).unwrap()),
        17 => format!("reclaim {} {}", n % 9000, rng.pick(&["", "0", "1", "9"]).unwrap()),
        18 => format!("{} {space}", rng.pick(&["free", "kill", "protect"]).unwrap()),
        19 => rng
            .pick(&["zram 16M", "zram reset", "zram 64M limit=1M", "swapon /dev/zram0"])
            .unwrap()
            .to_string(),
        20 => rng.pick(&["swapoff /dev/zram0", "zram compact", "tick 300"]).unwrap().to_string(),
        21 => rng.pick(&["repeat 2", "repeat 0", "end", "end", "quiet off"]).unwrap().to_string(),
        22 => format!(
            "echo {} > {}",
            rng.pick(&["0", "1", "2", "200", "always", "never", "-1000"]).unwrap(),
            rng.pick(&[
                "/proc/s/oom_score_adj",
                "/proc/sys/vm/swappiness",
                "/proc/sys/vm/drop_caches",
                "/sys/kernel/mm/transparent_hugepage/enabled"
            ])
            .unwrap()
        ),
        _ => format!(
            "cat {}",
            rng.pick(&["/proc/s/smaps", "/proc/t/maps", "/proc/u/status", "/proc/swaps"]).unwrap()
        ),
    }
}

fn command(rng: &mut Rng) -> String {
    let name = rng.pick(&["a", "b", "c", "d", "a[3]", "x.y", "7", ""]).unwrap();
    let cache = rng.pick(&["small", "large", "kmalloc-64", "100", "5000", "0", "none"]).unwrap();
    let most = 1 << rng.below(12);
    let n = rng.below(most);
    let zone = rng.pick(&["DMA", "DMA32", "Normal", "Movable", "Gold"]).unwrap();
    if rng.percent(40) {
        return about_spaces(rng);
    }
    match rng.below(34) {
        0..=3 => format!("alloc {name} {} {} count={n}", rng.below(12), gfp(rng)),
        4 => format!("alloc {name} {} cpu={} node={}", rng.below(4), rng.below(4), rng.below(3)),
        5..=8 => format!("free {name}"),
        9 => format!("fill {name} {} pages={n}", gfp(rng)),
        10 => format!(
            "fill {name} {}|NORETRY order={} until={}",
            gfp(rng),
            rng.below(11),
            rng.pick(&["high", "low", "min", "empty"]).unwrap()
        ),
        11 => format!("punch {name} every={}", rng.below(5)),
        12 => format!("touch {name}"),
        13 => format!("verify {name}"),
        14 => format!("contig {name} {n} align={}", rng.below(600)),
        15 => format!("cma {name} {n}"),
        16 => format!(
            "cache {cache} size={} align={} {}",
            n * 3,
            1 << rng.below(8),
            rng.pick(&["", "ctor", "hwalign", "debug", "gold"]).unwrap()
        ),
        17..=18 => format!("kalloc {name} {cache} {} count={n}", gfp(rng)),
        19..=20 => format!("kfree {name}"),
        21 => format!("shrink {cache}"),
        22 => format!("destroy {cache}"),
        23 => rng.pick(&["reap", "drain", "compact", "compact 0", "compact 9"]).unwrap().into(),
        24 => format!("memalloc {}", rng.pick(&["on", "off", "maybe"]).unwrap()),
        25 => format!("tick {n}"),
        26 => format!("fail {}", rng.pick(&["nth=3", "every=5", "off", "every=0", "x"]).unwrap()),
        27 => format!("get zone.{zone}.{}", rng.pick(&["free", "low", "gold"]).unwrap()),
        28 => {
            format!("get {name}.{}", rng.pick(&["pages", "pfn", "zone", "type", "gold"]).unwrap())
        }
        29 => format!("expect-error ENOMEM alloc {name} 10 count=100000"),
        30 => format!(
            "cat {}",
            rng.pick(&[
                "/proc/buddyinfo",
                "/proc/pagetypeinfo",
                "/proc/iomem",
                "/proc/vmstat",
                "/proc/zoneinfo",
                "/proc/none",
                ""
            ])
            .unwrap()
        ),
        31 => format!(
            "echo {n} > /proc/sys/vm/{}",
            rng.pick(&["min_free_kbytes", "watermark_scale_factor", "compact_memory", "gold"])
                .unwrap()
        ),
        32 => format!("offline {:#x} {n}", rng.next_u64()),
        _ => noise(rng),
    }
}

/// Runs a line, which says at most one error, and only if it failed.
fn line(lab: &mut Lab<HostWorld>, kept: &Kept, line: &str) -> Outcome {
    let outcome = lab.line(line.as_bytes());
    let text = kept.take();
    let errors = text.lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!(errors, usize::from(matches!(outcome, Outcome::Failed(_))), "{line}: {text}");
    outcome
}

/// Describes random machines until there is one; a description that fails leaves
/// the machine that was there.
fn describe(lab: &mut Lab<HostWorld>, kept: &Kept, rng: &mut Rng) -> String {
    for _ in 0..3 {
        let lines: Vec<String> = (0..=rng.below(12)).map(|_| line_of_a_machine(rng)).collect();
        assert_eq!(line(lab, kept, "machine"), Outcome::Ok);
        for text in lines.iter().map(String::as_str).chain(["end"]) {
            if line(lab, kept, text) != Outcome::Ok {
                break;
            }
        }
        // What is no text at all does not get as far as the description.
        if lab.world().is_describing() {
            line(lab, kept, "end");
        }
        assert!(!lab.world().is_describing());
        sound(lab, &lines.join("\n"));
        if rng.percent(80) {
            return lines.join("\n");
        }
    }
    String::new()
}

/// Runs commands, and gives back all that they hold. Returns the pages that are
/// missing in the end.
fn play(lab: &mut Lab<HostWorld>, kept: &Kept, rng: &mut Rng, commands: &[String]) -> u64 {
    for text in commands {
        line(lab, kept, text);
        if rng.percent(5) {
            sound(lab, text);
        }
    }
    sound(lab, "all of them");
    lab.abandon();
    lab.reset();
    sound(lab, "giving all back");
    taken(lab.world())
}

#[test]
fn random_scripts_on_random_machines() {
    let seed = setting("QUARRY_SEED", 1);
    let machines = setting("QUARRY_OPS", 40);
    println!("QUARRY_SEED={seed} QUARRY_OPS={machines}");
    for i in 0..machines {
        let mut rng = Rng::new(Rng::derive(seed, "fuzz", &i.to_string()));
        let (output, kept) = Output::kept();
        let mut lab = Box::new(Lab::new(HostWorld::new(output).unwrap()));
        let machine = describe(&mut lab, &kept, &mut rng);
        let commands: Vec<String> = (0..60).map(|_| command(&mut rng)).collect();
        // What the slab layer makes once and keeps is there after some rounds.
        let missing = [0; 4].map(|_| play(&mut lab, &kept, &mut rng, &commands));
        assert!(
            missing[3] <= missing[1].max(missing[2]),
            "{missing:?} pages are missing after {machine}\n{}",
            commands.join("\n")
        );
    }
}
