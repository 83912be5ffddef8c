//! Draws what was in a machine's memory: snapshots out of files, logs, or a lab
//! script that is run on a simulated machine.

use lab::picture::{Snapshot, draw, read};
use lab::{Output, read_input, run};
use shell::Verdict;
use std::io;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: quarry-picture [--out FILE.svg] [--title TEXT] [--only NAME]... FILE...

Draws the snapshots of memory in FILE (or - for standard input) beside each
other, as SVG. A FILE is one of
  - what `cat /sys/kernel/debug/quarry/pageblocks` printed (scripts/collect
    saves it),
  - any log of a lab with `snapshot NAME` commands in it,
  - a lab script, *.lab, which is run on a simulated machine.

  --out FILE    where the picture goes; else to standard output
  --title TEXT  what stands above it
  --only NAME   of all snapshots only those of that name, in this order

Exit status: 0, or 1 if there is nothing that can be drawn, or 2 for wrong
usage.
";

/// What the command line asks for.
#[derive(Debug, Default, PartialEq)]
struct Request {
    out: Option<String>,
    title: Option<String>,
    only: Vec<String>,
    files: Vec<String>,
}

/// Reads the command line; `None` is a plea for help.
fn parse_args(args: impl IntoIterator<Item = String>) -> Result<Option<Request>, String> {
    let mut request = Request::default();
    let mut options = true;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" if options => return Ok(None),
            "--out" | "-o" if options => request.out = Some(value()?),
            "--title" if options => request.title = Some(value()?),
            "--only" if options => request.only.push(value()?),
            "--" if options => options = false,
            other if options && other.len() > 1 && other.starts_with('-') => {
                return Err(format!("unknown option {other}"));
            }
            _ => request.files.push(arg),
        }
    }
    if request.files.is_empty() {
        return Err("a FILE is needed".into());
    }
    Ok(Some(request))
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
    let title = request.title.as_deref().unwrap_or("Pageblocks of a machine");
    draw(title, &chosen)
        .map_err(|error| format!("{error}; choose by --only NAME. There are: {names}"))
}

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let request = match parse_args(args) {
        Ok(Some(request)) => request,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprint!("quarry-picture: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
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
        let parse = |args: &[&str]| parse_args(args.iter().map(ToString::to_string));
        let request =
            parse(&["--out", "x", "a", "--only", "p", "--only", "q", "-"]).unwrap().unwrap();
        assert_eq!(request.out.as_deref(), Some("x"));
        assert_eq!((request.only.len(), request.files), (2, vec!["a".to_owned(), "-".to_owned()]));
        assert_eq!(parse(&["--help"]), Ok(None));
        for wrong in [&[][..], &["--out"], &["-x", "a"], &["a", "--only"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
