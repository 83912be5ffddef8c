//! Every story passes on the machine that it is told on, and those for any
//! machine one after the other on the same one too, in this order and in others:
//! so they do in a kernel's boot.

use lab::{Output, run};
use selftest::Rng;
use shell::Verdict;
use std::path::{Path, PathBuf};

fn stories(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("stories").join(dir);
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut stories: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "lab")).collect();
    stories.sort();
    stories
}

/// Runs a script; what it said, if it failed.
fn failure(script: &[u8]) -> Option<String> {
    let (output, said) = Output::kept();
    match run(script, true, &output).unwrap() {
        Verdict::Ok(_) => None,
        Verdict::Failed(_) => {
            let said = said.text();
            let from = said.lines().count().saturating_sub(8);
            Some(said.lines().skip(from).collect::<Vec<_>>().join("\n"))
        }
    }
}

#[test]
fn each_by_itself() {
    let (everywhere, here) = (stories(""), stories("host"));
    assert!(everywhere.len() >= 25 && here.len() >= 6);
    for story in everywhere.iter().chain(&here) {
        let script = std::fs::read(story).unwrap();
        assert!(script.starts_with(b"# "), "{} does not say what it shows", story.display());
        if let Some(said) = failure(&script) {
            panic!("{}:\n{said}", story.display());
        }
    }
}

#[test]
fn one_after_the_other() {
    let seed = std::env::var("QUARRY_SEED").map_or(1, |text| text.parse().expect("a number"));
    println!("QUARRY_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut order = stories("");
    for round in 0..2 {
        let texts = order.iter().map(|story| std::fs::read(story).unwrap());
        let script: Vec<u8> = texts.collect::<Vec<_>>().join(&b'\n');
        if let Some(said) = failure(&script) {
            panic!("round {round}, {order:?}:\n{said}");
        }
        rng.shuffle(&mut order);
    }
}
