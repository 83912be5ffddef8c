//! Draws what was in a machine's memory: snapshots out of files, logs, or a lab
//! script that is run on a simulated machine.

use clap::Parser;
use lab::picture::{Snapshot, draw, read};
use lab::{Output, read_input, run};
use shell::Verdict;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Draws snapshots of memory beside each other, as SVG.
///
/// Exit status: 0, or 1 if there is nothing that can be drawn, or 2 for wrong
/// usage.
#[derive(Parser, Debug)]
#[command(name = "quarry-picture", version)]
struct Request {
    /// Where the picture goes; else to standard output.
    #[arg(long, short, value_name = "FILE.svg")]
    out: Option<String>,
    /// What stands above it.
    #[arg(long, value_name = "TEXT", default_value = "Pageblocks of a machine")]
    title: String,
    /// Of all snapshots only those of that name, in this order.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// What `cat /sys/kernel/debug/quarry/pageblocks` printed (scripts/collect
    /// saves it), any log of a lab with `snapshot NAME` commands in it, or a lab
    /// script, *.lab, which is run on a simulated machine; - is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

/// The snapshots of one file, or of the script that it is.
fn snapshots(file: &str) -> Result<Vec<Snapshot>, String> {
    let bytes = read_input(file).map_err(|error| format!("{file}: {error}"))?;
    let path = Path::new(file);
    let text = if path.extension().is_some_and(|extension| extension == "lab") {
        let (output, kept) = Output::kept();
        let verdict = run(&bytes, false, &output).map_err(|error| format!("{file}: {error}"))?;
        if let Verdict::Failed(_) = verdict {
            let text = kept.text();
            let tail: Vec<&str> = text.lines().rev().take(2).collect();
            return Err(format!(
                "{file}: {}",
                tail.into_iter().rev().collect::<Vec<_>>().join(": ")
            ));
        }
        kept.text()
    } else {
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    read(&text, &name).map_err(|error| format!("{file}: {error}"))
}

fn picture(request: &Request) -> Result<String, String> {
    let mut all = Vec::new();
    for file in &request.files {
        all.extend(snapshots(file)?);
    }
    let names = all.iter().map(|snapshot| snapshot.name.as_str()).collect::<Vec<_>>().join(", ");
    let chosen = if request.only.is_empty() {
        all.clone()
    } else {
        let mut chosen = Vec::new();
        for name in &request.only {
            let found = all.iter().find(|snapshot| snapshot.name == *name);
            let found = found.ok_or_else(|| format!("no snapshot {name}; there are: {names}"))?;
            chosen.push(found.clone());
        }
        chosen
    };
    draw(&request.title, &chosen)
        .map_err(|error| format!("{error}; choose by --only NAME. There are: {names}"))
}

fn main() -> ExitCode {
    let request = Request::parse();
    let done = picture(&request).and_then(|svg| match &request.out {
        Some(out) => std::fs::write(out, svg).map_err(|error| format!("{out}: {error}")),
        None => io::Write::write_all(&mut io::stdout(), svg.as_bytes())
            .map_err(|error| format!("standard output: {error}")),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("quarry-picture: {why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line() {
        let parse = |args: &[&str]| Request::try_parse_from([&["quarry-picture"], args].concat());
        let request = parse(&["--out", "x", "a", "--only", "p", "--only", "q", "-"]).unwrap();
        assert_eq!(request.out.as_deref(), Some("x"));
        assert_eq!((request.only.len(), request.files), (2, vec!["a".to_owned(), "-".to_owned()]));
        for wrong in [&[][..], &["--out"], &["-x", "a"], &["a", "--only"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
