//! The options about memory, word by word and on whole maps.

use mm::cma::CmaRequest;
use mm::cmdline::{Malformed, tokens};
use mm::early::RamRange;
use mm::firmware::{
    CoreSize, MapEdit, RawMap, RawRegion, Region, RegionKind, ZoneLayout, apply_edits, sanitize,
};
use mm::options::{Accept, MAX_EDITS, Options, SlabDebug};
use mm::types::{NodeId, Order, Pfn, PfnRange};
use proptest::prelude::*;

const M: u64 = 1 << 20;

/// The options of a line all of whose words are known.
fn options(line: &str) -> Options<'_> {
    let mut options = Options::default();
    for token in tokens(line) {
        assert_eq!(options.accept(&token.unwrap()), Accept::Known, "{line}");
    }
    options
}

/// Why the only word of a line is refused.
fn refusal(word: &str) -> Malformed<'_> {
    let token = tokens(word).next().unwrap().unwrap();
    match Options::default().accept(&token) {
        Accept::Malformed(malformed) => malformed,
        other => panic!("{word}: {other:?}"),
    }
}

#[test]
fn every_option() {
    let o = options(
        "mem=512M cma=64M@0x10000000 movablecore=25% kernelcore=1G init_on_alloc=1 init-on-free=on \
         page_poison=y page_owner=on deferred=off slub_debug=FZ,kmalloc-64,dentry* slab_nomerge memtest=4 \
         sysctl.vm.min_free_kbytes=4096 watermark_scale_factor=100 numa=off",
    );
    assert_eq!(o.map_edits(), [MapEdit::Limit(512 * M)]);
    let area =
        CmaRequest { size: 64 * M, base: Some(0x1000_0000), end: None, order_per_bit: Order(0) };
    assert_eq!(o.cma(1), Some(area));
    assert_eq!(o.movable.movablecore, Some(CoreSize::Percent(25)));
    assert_eq!(o.movable.kernelcore, Some(CoreSize::Bytes(1 << 30)));
    assert!(o.init_on_alloc && o.init_on_free && o.page_poison && o.page_owner && o.slab_nomerge);
    assert!(o.numa_off && !Options::default().numa_off);
    assert!(!o.deferred && Options::default().deferred);
    assert_eq!((o.memtest, o.min_free_kbytes), (4, Some(4096)));
    assert_eq!(o.watermark_scale_factor, Some(100));
    let debug = o.slab_debug.unwrap();
    assert!(debug.consistency && debug.red_zone && !debug.poison && !debug.user);
    assert!(debug.applies_to("kmalloc-64") && debug.applies_to("dentry_cache"));
    assert!(!debug.applies_to("kmalloc-6") && !debug.applies_to("kmalloc-64x"));

    let ram = [RamRange { range: PfnRange::new(Pfn(1), Pfn(1 << 21)), node: NodeId(0) }];
    let config = o.config(&ZoneLayout::new(&ram, o.movable), (1 << 21) - 1);
    assert!(config.init_on_alloc && config.init_on_free && config.page_poison && config.page_owner);
    assert_eq!((config.min_free_kb, config.defer), (Some(4096), false));
    assert_eq!((config.cma[0], config.cma[1]), (Some(area), None));
    // A quarter movable leaves more to the kernel than 1 GiB; it is below 8 GiB.
    assert_eq!(config.movable_start[0], Pfn(3 << 19));
    assert_eq!(config.movable_start[1], Pfn(u64::MAX));
}

#[test]
fn slab_debug_forms() {
    let all = SlabDebug { consistency: true, red_zone: true, poison: true, user: true, caches: "" };
    assert_eq!(options("slab_debug").slab_debug, Some(all));
    assert_eq!(options("slab_debug=").slab_debug, Some(all));
    let one = SlabDebug { caches: "kmalloc-8", ..all };
    assert_eq!(options("slab_debug=,kmalloc-8").slab_debug, Some(one));
    assert_eq!(options("slab_debug=fzpu slab_debug=-").slab_debug, None);
    assert!(all.applies_to("anything"));
}

#[test]
fn contiguous_areas() {
    let default = Some(CmaRequest { size: 16 * M, base: None, end: None, order_per_bit: Order(0) });
    // What firmware leaves of 256 MiB.
    assert_eq!(options("").cma((256 * M - 160 * 1024) / 4096), default);
    assert_eq!(options("").cma(128 * M / 4096), None);
    assert_eq!(options("cma=0").cma(1 << 20), None);
    // A pageblock is the least.
    assert_eq!(options("cma=5M").cma(1).map(|r| r.size), Some(6 * M));
    let within = CmaRequest {
        size: 2 * M,
        base: Some(1 << 30),
        end: Some(2 << 30),
        order_per_bit: Order(0),
    };
    assert_eq!(options("cma=2M@1G-2G").cma(1), Some(within));
}

#[test]
fn what_is_refused_is_quoted() {
    for (word, text, why) in [
        ("mem", "mem", "needs a value"),
        ("mem=", "mem=", "no number"),
        ("mem=0", "mem=0", "no memory at all"),
        ("mem=1Q", "mem=1Q", "not a size"),
        ("mem=16E", "mem=16E", "too large"),
        ("mem=\"1 G\"", "mem=\"1 G\"", "not a size"),
        ("memmap=", "", "no number"),
        ("memmap=16M@1G,x$1,4K@0", "x$1", "no number"),
        ("memmap=0$1G", "0$1G", "no size"),
        ("memmap=1M%1G-1+2", "1M%1G-1+2", "@, #, $ or ! is wanted after the size"),
        ("memmap=1M$", "1M$", "no number"),
        ("memmap=1M$1G@", "1M$1G@", "not an address"),
        ("memmap=1M$0xffffffffffffffff", "1M$0xffffffffffffffff", "too large"),
        ("cma=1M@", "cma=1M@", "no number"),
        ("cma=1M#1G", "cma=1M#1G", "@ is wanted after the size"),
        ("cma=1M@2G-1G", "cma=1M@2G-1G", "not an end"),
        ("cma=0xffffffffffffffff", "cma=0xffffffffffffffff", "too large"),
        ("movablecore=101%", "movablecore=101%", "not 0 to 100 percent"),
        ("kernelcore=mirror", "kernelcore=mirror", "no number"),
        ("init_on_alloc", "init_on_alloc", "needs a value"),
        ("init_on_free=2", "init_on_free=2", "neither on nor off"),
        ("slab_debug=FX", "slab_debug=FX", "a flag that is none of F Z P U"),
        ("slab_nomerge=1", "slab_nomerge=1", "takes no value"),
        ("watermark_scale_factor=0", "watermark_scale_factor=0", "not 1 to 3000"),
        ("memtest=4294967296", "memtest=4294967296", "too many patterns"),
        ("numa=on", "numa=on", "not off"),
    ] {
        assert_eq!(refusal(word), Malformed { text, why });
    }
    let unknown = tokens("console=ttyS0").next().unwrap().unwrap();
    assert_eq!(Options::default().accept(&unknown), Accept::Unknown);
}

#[test]
fn too_many_edits_are_refused() {
    let mut line = "memmap=4K$1G".to_string();
    line += &",4K$1G".repeat(MAX_EDITS);
    let mut options = Options::default();
    let token = tokens(&line).next().unwrap().unwrap();
    let why = "too many changes to the map";
    assert_eq!(options.accept(&token), Accept::Malformed(Malformed { text: "4K$1G", why }));
    assert_eq!(options.map_edits().len(), MAX_EDITS);
}

/// The clean map of a machine with 1 GiB, booted with `line`.
fn machine(line: &str) -> Vec<(u64, u64, RegionKind)> {
    let mut slots = [RawRegion::EMPTY; 16];
    let mut raw = RawMap::new(&mut slots);
    raw.push(RawRegion::new(0, 0x9fc00, RegionKind::Usable));
    raw.push(RawRegion::new(0x9fc00, 0xa0000, RegionKind::Reserved));
    raw.push(RawRegion::new(M, 4 * M, RegionKind::Bootloader));
    raw.push(RawRegion::new(4 * M, 1 << 30, RegionKind::Usable));
    raw.push(RawRegion::new(0xfffc_0000, 1 << 32, RegionKind::Reserved));
    apply_edits(&mut raw, options(line).map_edits());
    let mut out = [Region::EMPTY; 32];
    let raw = raw.finish(&mut |w| panic!("{w}"));
    let map = sanitize(raw, 52, &mut out, &mut |_| {});
    map.regions().iter().map(|r| (r.start, r.end, r.kind)).collect()
}

#[test]
fn edits_of_the_map() {
    use RegionKind as K;
    let low = [(0, 0x9f000, K::Usable), (0x9fc00, 0xa0000, K::Reserved), (M, 4 * M, K::Bootloader)];
    let rom = (0xfffc_0000, 1 << 32, K::Reserved);
    let with = |rest: &[(u64, u64, K)]| -> Vec<(u64, u64, K)> {
        low.iter().chain(rest).copied().collect()
    };

    assert_eq!(machine("mem=400M"), with(&[(4 * M, 400 * M, K::Usable), rom]));
    assert_eq!(machine("memmap=400M"), machine("mem=400M"));
    // More than there is changes nothing.
    assert_eq!(machine("mem=64G"), machine(""));
    // The lowest of two limits counts.
    assert_eq!(machine("mem=64G mem=400M mem=500M"), machine("mem=400M"));
    // A limit takes RAM only, the loader's too.
    assert_eq!(machine("mem=512K"), [(0, 0x80000, K::Usable), low[1], rom]);
    assert_eq!(
        machine("memmap=64M$256M,100K#0x30000000 memmap=16M!768M"),
        with(&[
            (4 * M, 256 * M, K::Usable),
            (256 * M, 320 * M, K::Reserved),
            (320 * M, 768 * M, K::Usable),
            (768 * M, 784 * M, K::PersistentLegacy),
            (784 * M, 1 << 30, K::Usable),
            rom,
        ])
    );
    // RAM is made only of what nobody calls something else.
    let more = machine("memmap=3G@1G");
    assert_eq!(more[3..], [(4 * M, 0xfffc_0000, K::Usable), rom]);
    // After a limit, RAM can be added beyond it.
    let beyond = machine("mem=400M memmap=1M@2G");
    assert_eq!(beyond[4], (2 << 30, (2 << 30) + M, K::Usable));
    // An exact map begins with nothing, whatever came before.
    assert_eq!(
        machine("mem=1M memmap=exactmap,640K@0,64M@1M"),
        [(0, 0xa0000, K::Usable), (M, 65 * M, K::Usable)]
    );
    assert_eq!(machine("memmap=1M@8M,exactmap"), []);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is on the line: nothing panics, each word is a part of it, in
    /// order, and what is refused is quoted from it.
    #[test]
    #[cfg_attr(miri, ignore = "making up text is slow, and nothing here is unsafe")]
    fn any_line(line in "(\\PC|[ \"=,@#$!%0-9xKMG-]|mem|map|cma|slub_debug){0,60}") {
        let mut options = Options::default();
        let mut from = line.as_ptr() as usize;
        let end = from + line.len();
        for token in tokens(&line) {
            let (text, refused) = match token {
                Ok(token) => match options.accept(&token) {
                    Accept::Malformed(malformed) => (token.text, Some(malformed)),
                    Accept::Known | Accept::Unknown => (token.text, None),
                },
                Err(malformed) => (malformed.text, Some(malformed)),
            };
            let at = text.as_ptr() as usize;
            prop_assert!(from <= at && at + text.len() <= end && !text.is_empty());
            from = at + text.len();
            if let Some(malformed) = refused {
                prop_assert!(text.contains(malformed.text));
                prop_assert!(!malformed.why.is_empty());
            }
        }
    }

    /// Options about memory with anything for a value.
    #[test]
    #[cfg_attr(miri, ignore = "making up text is slow, and nothing here is unsafe")]
    fn any_value(
        name in prop::sample::select(&["mem", "memmap", "cma", "movablecore", "slab_debug"][..]),
        value in "([0-9a-fx]{0,5}[KMGTPE]?[-@#$!,%]?){0,4}",
    ) {
        let word = format!("{name}={value}");
        let token = tokens(&word).next().unwrap().unwrap();
        let mut options = Options::default();
        prop_assert_ne!(options.accept(&token), Accept::Unknown);
        let mut slots = [RawRegion::EMPTY; 8];
        let mut raw = RawMap::new(&mut slots);
        raw.push(RawRegion::new(0, 1 << 30, RegionKind::Usable));
        apply_edits(&mut raw, options.map_edits());
        if name != "memmap" {
            prop_assert!(raw.entries().iter().all(|e| e.end <= 1 << 30));
        }
    }
}
