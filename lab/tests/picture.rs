//! Pictures of memory: snapshots are read from whatever holds them, or refused
//! with a reason, and what is drawn is all there.

use lab::picture::{MOST_PANELS, Snapshot, draw, read};
use lab::{Output, run};
use mm::census::Usage;
use mm::types::PAGEBLOCK_PAGES;
use proptest::prelude::*;
use roxmltree::{Document, Node};
use shell::Verdict;
use std::fmt::Write;

/// What a script says on a simulated machine.
fn said(script: &str) -> String {
    let (output, kept) = Output::kept();
    let verdict = run(script.as_bytes(), false, &output).expect("a machine");
    assert!(matches!(verdict, Verdict::Ok(_)), "{}", kept.text());
    kept.text()
}

fn of(script: &str) -> Vec<Snapshot> {
    read(&said(script), "unnamed").expect("snapshots")
}

fn class<'a>(svg: &'a Document<'a>, class: &str) -> Vec<Node<'a, 'a>> {
    svg.descendants().filter(|node| node.attribute("class") == Some(class)).collect()
}

fn number(node: Node<'_, '_>, attribute: &str) -> f64 {
    node.attribute(attribute).and_then(|text| text.parse().ok()).expect(attribute)
}

/// The machine of that many MiB, RAM from the first byte to the last.
fn machine(mib: u64) -> String {
    format!("machine\nmem 0x0-{:#x} usable\nend\nsnapshot it\n", (mib << 20) - 1)
}

#[test]
fn each_pageblock_is_a_cell() {
    for mib in [32, 64, 512, 2048] {
        let snapshots = of(&machine(mib));
        let text = draw("Title <of> & \"it\"", &snapshots).expect("a picture");
        let svg = Document::parse(&text).expect("well-formed XML");
        assert_eq!(class(&svg, "cell").len() as u64, mib / 2);
        let root = svg.root_element();
        let (width, height) = (number(root, "width"), number(root, "height"));
        assert!(width < 1000.0 && height < 1200.0, "{width} x {height}");
        // Nothing lies outside, and no cell on another.
        let mut places = Vec::new();
        for rect in svg.descendants().filter(|node| node.has_tag_name("rect")) {
            let [x, y, w, h] = ["x", "y", "width", "height"].map(|name| {
                rect.attribute(name).map_or(0.0, |text| text.parse().expect("a number"))
            });
            assert!(x >= 0.0 && y >= 0.0 && x + w <= width && y + h <= height);
            if rect.attribute("class") == Some("cell") {
                places.push((x.to_bits(), y.to_bits()));
            }
        }
        let cells = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), cells);
    }
}

#[test]
fn large_machines_are_grouped_and_holes_left_out() {
    let machine = "machine
mem 0x0-0x9fbff usable
mem 0x100000-0xbfffffff usable
mem 0x100000000-0x103fffffff usable
mem 0x20000000000-0x203ffffffff usable
node 0 0x0-0x103fffffff
node 1 0x20000000000-0x203ffffffff
end
snapshot it
";
    let text = draw("large", &of(machine)).expect("a picture");
    let svg = Document::parse(&text).expect("well-formed XML");
    let cells = class(&svg, "cell").len();
    assert!((1000..12_000).contains(&cells), "{cells} cells");
    let says = |what: &str| svg.descendants().any(|n| n.text().is_some_and(|t| t.contains(what)));
    assert!(says("no RAM: 1 GiB") && says("no RAM: 1.9 TiB"));
    assert!(says("node 0") && says("node 1") && says("zone DMA32") && says("zone Normal"));
    assert!(says(" pageblocks, "), "says how many make a cell");
    assert!(number(svg.root_element(), "height") < 1500.0);
    assert!(text.len() < 1 << 20, "{} bytes", text.len());
}

#[test]
fn compaction_shows() {
    let story =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/stories/snapshots.lab"));
    let snapshots = of(&story.expect("the story"));
    let [before, after] = &snapshots[..] else { panic!("two snapshots") };
    assert_eq!((before.name.as_str(), after.name.as_str()), ("fragmented", "compacted"));
    assert_eq!(before.pages(Usage::Movable), after.pages(Usage::Movable));
    assert!(after.whole_blocks() > before.whole_blocks() + 50);
    assert!(after.moved_since(before) > 10_000);
    assert_eq!(before.moved_since(before), 0);
    let marks = |snapshot: &Snapshot| {
        let text = draw("one", core::slice::from_ref(snapshot)).expect("a picture");
        class(&Document::parse(&text).expect("well-formed XML"), "mark").len()
    };
    assert!(marks(before) > 3 * marks(after), "{} and {}", marks(before), marks(after));
    let both = draw("both", &snapshots).expect("a picture");
    assert!(both.contains(&format!("(+{})", after.whole_blocks() - before.whole_blocks())));
}

#[test]
fn pages_that_came_have_not_moved() {
    let [a, b] = ["", "0x200-0x5ff node=0 zone=DMA type=Movable movable=512\n"].map(|more| {
        let first = "0x0-0x1ff node=0 zone=DMA type=Movable movable=10 kernel=502\n";
        let blocks = if more.is_empty() { 1 } else { 3 };
        let text =
            format!("pageblocks: 512 pages each\n{first}{more}pageblocks: end, {blocks} blocks\n");
        read(&text, "x").expect("a snapshot").remove(0)
    });
    assert_eq!((b.moved_since(&a), a.moved_since(&b)), (0, 0));
    let moved = Snapshot {
        runs: b
            .runs
            .iter()
            .map(|run| {
                let mut run = *run;
                run.range.start.0 += PAGEBLOCK_PAGES;
                run.range.end.0 += PAGEBLOCK_PAGES;
                run
            })
            .collect(),
        ..b.clone()
    };
    assert!(moved.moved_since(&b) >= 502);
}

#[test]
fn snapshots_are_found_in_logs() {
    let text = said("snapshot one\ncat /sys/kernel/debug/quarry/pageblocks\n");
    let mut log = String::from("[    0.100000] boot\r\nquarry> snapshot one\r\n");
    for line in text.lines() {
        let _ = write!(log, "{line}\r\n[   12.345678] warning: something else\r\n");
    }
    let found = read(&log, "log").expect("snapshots");
    assert_eq!(found, read(&text, "log").expect("snapshots"));
    let names: Vec<&str> = found.iter().map(|snapshot| snapshot.name.as_str()).collect();
    assert_eq!(names, ["one", "log"]);
    assert_eq!(found[0].runs, found[1].runs);
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let good = "pageblocks: 512 pages each\n0x0-0x1ff node=0 zone=DMA type=Movable deferred\n";
    let line = "0x0-0x1ff node=0 zone=DMA type=Movable deferred\n";
    let end = "pageblocks: end, 1 blocks\n";
    for (text, line, why) in [
        (String::new(), 0, "no snapshot"),
        (good.to_owned(), 0, "not complete"),
        (format!("{good}{line}{end}"), 3, "not above"),
        (format!("{good}pageblocks: end, 2 blocks\n"), 3, "ends otherwise"),
        (format!("{good}{good}{end}"), 3, "has no end"),
        (end.to_owned(), 1, "not begun"),
        ("pageblocks: 1024 pages each\n".to_owned(), 1, "another kind"),
        (format!("{good}hello\n{end}"), 3, "hello"),
    ] {
        let wrong = read(&text, "x").expect_err(why);
        assert_eq!(wrong.line, line, "{wrong}");
        assert!(wrong.to_string().contains(why), "{wrong}");
    }
    let snapshot = read(&format!("{good}{end}"), "x").expect("a snapshot").remove(0);
    let odd = Snapshot { name: "\u{1}<\u{7f}\u{ffff}&\u{e4}".into(), ..snapshot.clone() };
    let svg = draw("\u{1b}[2J", &[odd]).expect("a picture");
    assert!(Document::parse(&svg).is_ok(), "{svg}");
    assert!(draw("none", &[]).is_err());
    assert!(draw("many", &vec![snapshot.clone(); MOST_PANELS + 1]).is_err());
    for n in 1..=MOST_PANELS {
        assert!(draw("some", &vec![snapshot.clone(); n]).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_drawn_or_refused(
        bytes in any::<Vec<u8>>(),
        at in any::<prop::sample::Index>(),
        cut in 0..40_usize,
    ) {
        // Bytes put into a good snapshot, in the place of some of its own.
        let good = "-> snapshot a\npageblocks: 512 pages each\n\
            0x0-0x1ff node=0 zone=DMA type=Unmovable free=10 pieces=3 largest=2 kernel=502\n\
            0x40000-0x7ffff node=1 zone=Movable type=CMA deferred\n\
            0x7000000-0x70001ff node=2 zone=Normal type=Isolate slab=512\n\
            pageblocks: end, 514 blocks\n";
        let at = at.index(good.len());
        let mut text = good.as_bytes()[..at].to_vec();
        text.extend(bytes);
        text.extend(&good.as_bytes()[(at + cut).min(good.len())..]);
        if let Ok(snapshots) = read(&String::from_utf8_lossy(&text), "x")
            && let Ok(svg) = draw("x", &snapshots)
        {
            // XML has no room for control characters.
            prop_assert!(Document::parse(&svg).is_ok(), "{svg}");
        }
    }
}
