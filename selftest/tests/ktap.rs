//! The text of the report, and what the parsers that matter make of it.
use selftest::{
    Case, CaseResult, Config, Counts, Filter, Harness, Level, Rng, Subject, Suite, Test, check,
    check_eq, check_ok, fail, run, skip,
};
use std::cell::Cell;
use std::fmt::Arguments;
use std::io::Write;
use std::process::{Command, Stdio};

/// A thing that can leak.
#[derive(Default)]
struct Pond(Cell<u32>);

impl Subject for Pond {
    type Tally = u32;
    fn tally(&self) -> u32 {
        self.0.get()
    }
}

#[derive(Default)]
struct Recorder {
    lines: Vec<String>,
    running: Option<(&'static str, &'static str)>,
    hooks: Vec<String>,
    clock: Cell<u64>,
    /// Cases to begin before the user has seen enough, if that ever is.
    patience: Option<usize>,
}

impl Harness for Recorder {
    fn line(&mut self, line: Arguments<'_>) {
        self.lines.push(line.to_string());
    }
    fn case_begins(&mut self, suite: &'static str, case: &'static str) {
        assert_eq!(self.running, None);
        self.running = Some((suite, case));
        self.hooks.push(format!("{suite}.{case}"));
    }
    fn case_ended(&mut self) {
        assert!(self.running.take().is_some());
    }
    fn is_interrupted(&self) -> bool {
        self.patience.is_some_and(|cases| self.hooks.len() >= cases)
    }
    fn now_ms(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }
}

fn passes(t: &mut Test<'_, Pond>) -> CaseResult {
    t.note(format_args!("the pond holds {}", t.on.0.get()));
    check!(t.level >= Level::Quick, "level {:?}", t.level);
    check_eq!(check_ok!(Some(3)), 3);
    Ok(())
}

fn needs_more(_: &mut Test<'_, Pond>) -> CaseResult {
    skip!("only {} node", 1)
}

fn fails(t: &mut Test<'_, Pond>) -> CaseResult {
    check_eq!(t.on.0.get(), 7, "fish");
    Ok(())
}

fn fails_over_two_lines(_: &mut Test<'_, Pond>) -> CaseResult {
    fail!("first\nok 1 second")
}

fn unwraps(_: &mut Test<'_, Pond>) -> CaseResult {
    let number: u8 = check_ok!("x".parse::<u8>());
    check_eq!(number, 1);
    Ok(())
}

fn leaks(t: &mut Test<'_, Pond>) -> CaseResult {
    t.on.0.set(t.on.0.get() + 1);
    Ok(())
}

fn slow(t: &mut Test<'_, Pond>) -> CaseResult {
    for _ in 0..200 {
        t.now_ms();
    }
    Ok(())
}

fn draws(t: &mut Test<'_, Pond>) -> CaseResult {
    let number = t.rng.next_u64();
    t.note(format_args!("drew {number:#x}"));
    Ok(())
}

const GOOD: &[Suite<Pond>] = &[
    Suite {
        name: "pond",
        cases: &[
            Case::quick("passes", passes),
            Case::quick("needs_more", needs_more),
            Case::full("slow", slow),
        ],
    },
    Suite { name: "deep", cases: &[Case::full("passes", passes)] },
    Suite { name: "lake", cases: &[Case::quick("needs_more", needs_more)] },
];

const RANDOM: &[Suite<Pond>] = &[Suite { name: "random", cases: &[Case::quick("draws", draws)] }];

const BAD: &[Suite<Pond>] = &[Suite {
    name: "bad",
    cases: &[
        Case::quick("fails", fails),
        Case::quick("fails_over_two_lines", fails_over_two_lines),
        Case::quick("unwraps", unwraps),
        Case::quick("leaks", leaks),
        Case::quick("passes", passes),
    ],
}];

fn report(groups: &[&[Suite<Pond>]], level: Level, filter: &str) -> (Counts, Recorder) {
    let mut recorder = Recorder::default();
    let config = Config { level, seed: 5, filter: Filter::new(filter) };
    let counts = run(&Pond::default(), groups, &config, &mut [0; 8], &mut recorder);
    assert_eq!(recorder.running, None);
    (counts, recorder)
}

#[test]
fn the_whole_text() {
    let (counts, recorder) = report(&[GOOD, RANDOM], Level::Quick, "*");
    let drew = Rng::new(Rng::derive(5, "random", "draws")).next_u64();
    let expected = format!(
        "\
QUARRY-BEGIN selftest=quick selftest.seed=0x5 kunit.filter_glob=*
KTAP version 1
1..3
    KTAP version 1
    # Subtest: pond
    1..2
    # pond.passes begins
    # pond.passes: the pond holds 0
    ok 1 passes
    # pond.needs_more begins
    ok 2 needs_more # SKIP only 1 node
# pond: 5 ms
# pond: pass:1 fail:0 skip:1 total:2
ok 1 pond
    KTAP version 1
    # Subtest: lake
    1..1
    # lake.needs_more begins
    ok 1 needs_more # SKIP only 1 node
# lake: 3 ms
# lake: pass:0 fail:0 skip:1 total:1
ok 2 lake # SKIP nothing could run
    KTAP version 1
    # Subtest: random
    1..1
    # random.draws begins
    # random.draws: drew {drew:#x}
    ok 1 draws
# random: 3 ms
# random: pass:1 fail:0 skip:0 total:1
ok 3 random
# Totals: pass:2 fail:0 skip:2 total:4
QUARRY-END pass=2 fail=0 skip=2"
    );
    assert_eq!(recorder.lines.join("\n"), expected);
    assert_eq!(counts, Counts { pass: 2, fail: 0, skip: 2 });
    let hooks = ["pond.passes", "pond.needs_more", "lake.needs_more", "random.draws"];
    assert_eq!(recorder.hooks, hooks);
}

#[test]
fn levels_and_filters_keep_the_plan_right() {
    let (counts, recorder) = report(&[GOOD], Level::Full, "*");
    assert_eq!(counts, Counts { pass: 3, fail: 0, skip: 2 });
    assert!(recorder.lines.iter().any(|line| line == "    # pond.slow: 201 ms"));

    let (counts, recorder) = report(&[GOOD, RANDOM], Level::Full, "*.pa*");
    assert_eq!(counts, Counts { pass: 2, fail: 0, skip: 0 });
    assert_eq!(recorder.hooks, ["pond.passes", "deep.passes"]);
    assert_eq!(recorder.lines[2], "1..2");
    assert_eq!(recorder.lines.iter().filter(|line| *line == "    1..1").count(), 2);

    let (counts, recorder) = report(&[GOOD], Level::Off, "*");
    assert_eq!(counts, Counts::default());
    assert_eq!(recorder.lines, ["QUARRY-END pass=0 fail=0 skip=0"]);

    // "deep" has nothing for the quick level.
    let (counts, recorder) = report(&[GOOD], Level::Quick, "deep");
    assert_eq!(counts, Counts { pass: 0, fail: 1, skip: 0 });
    assert_eq!(recorder.lines[4], "not ok 1 filter_glob");
    assert_eq!(recorder.hooks, [""; 0]);
}

#[test]
fn a_case_alone_repeats_its_random_numbers() {
    let drew = |recorder: Recorder| recorder.lines.into_iter().find(|line| line.contains("drew"));
    let whole = drew(report(&[GOOD, RANDOM], Level::Full, "*").1);
    assert!(whole.is_some());
    assert_eq!(whole, drew(report(&[RANDOM], Level::Quick, "random.draws").1));
}

#[test]
fn failures_say_where_and_why() {
    let (counts, recorder) = report(&[BAD], Level::Quick, "*");
    assert_eq!(counts, Counts { pass: 1, fail: 4, skip: 0 });
    let text = recorder.lines.join("\n");
    for part in [
        "fish: 0, expected 7\n    not ok 1 fails\n",
        "first ok 1 second\n    not ok 2 fails_over_two_lines\n",
        "\"x\".parse::<u8>(): ParseIntError { kind: InvalidDigit }\n    not ok 3 unwraps\n",
        "# bad.leaks: not all was given back: before 0, after 1\n    not ok 4 leaks\n",
        "    ok 5 passes\n",
        "\nnot ok 1 bad\n",
        "tests/ktap.rs:",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

/// Feeds `lines` to `command`; its exit status and its output.
fn feed(command: &mut Command, lines: &[String]) -> (bool, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let text = format!("booting\n{}\nreboot: System halted\n", lines.join("\n"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `QUARRY_KUNIT` names Linux's `tools/testing/kunit/kunit.py`; without it
/// there is nothing to compare with.
#[test]
fn kunit_reads_the_same_counts() {
    let Some(kunit) = std::env::var_os("QUARRY_KUNIT") else {
        println!("QUARRY_KUNIT is not set: not compared with kunit.py");
        return;
    };
    for (groups, level, filter) in [
        (&[GOOD, RANDOM][..], Level::Quick, "*"),
        (&[GOOD, RANDOM], Level::Full, "*"),
        (&[GOOD, BAD, RANDOM], Level::Full, "*"),
        (&[GOOD], Level::Full, "*.passes"),
        (&[GOOD], Level::Full, "nothing"),
    ] {
        let (counts, recorder) = report(groups, level, filter);
        let (passed, output) = feed(Command::new(&kunit).arg("parse"), &recorder.lines);
        assert_eq!(passed, counts.fail == 0, "{output}");
        let mut summary = format!("Ran {} tests:", counts.total());
        for (count, word) in
            [(counts.pass, "passed"), (counts.fail, "failed"), (counts.skip, "skipped")]
        {
            if count > 0 {
                let comma = if summary.ends_with(':') { "" } else { "," };
                summary += &format!("{comma} {word}: {count}");
            }
        }
        let last = output.lines().find(|line| line.contains("Ran ")).unwrap_or("");
        assert!(last.ends_with(&summary), "{last:?} is not {summary:?}:\n{output}");
        assert!(!output.contains("errors:"), "{output}");
    }
}

#[test]
fn prove_agrees() {
    if Command::new("prove").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("no prove on this machine: not compared with it");
        return;
    }
    for groups in [&[GOOD, RANDOM][..], &[GOOD, BAD]] {
        let (counts, recorder) = report(groups, Level::Full, "*");
        let file = std::env::temp_dir().join(format!("ktap-{}.txt", std::process::id()));
        std::fs::write(&file, recorder.lines.join("\n") + "\n").unwrap();
        let output = Command::new("prove").args(["-e", "cat"]).arg(&file).output().unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(output.status.success(), counts.fail == 0, "{output:?}");
    }
}

#[test]
fn who_loses_patience_sees_the_rest_skipped() {
    let mut recorder = Recorder { patience: Some(1), ..Recorder::default() };
    let config = Config { level: Level::Quick, seed: 5, filter: Filter::ALL };
    let counts = run(&Pond::default(), &[GOOD, RANDOM], &config, &mut [0; 8], &mut recorder);
    assert_eq!(recorder.hooks.len(), 1);
    assert_eq!((counts.pass, counts.fail), (1, 0));
    let skipped = recorder.lines.iter().filter(|line| line.ends_with("# SKIP interrupted")).count();
    assert_eq!((skipped as u32, skipped > 0), (counts.skip, true));
}
