//! Runs lab scripts on simulated machines: each on one of its own, what it says
//! on standard output, the interpreter's verdict as its last line. Or compares
//! what they say here with what they said in a kernel.

use lab::{Output, compare, read_input, run, section};
use shell::Verdict;
use std::io;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: quarry-lab [--trace] FILE...
       quarry-lab --compare LOG FILE...

Runs lab scripts (FILE, or - for standard input), each on a simulated machine
of its own: the one that the script describes, or a PC with 512 MiB and two
CPUs.

  --trace         show each command before what it prints
  --compare LOG   say instead whether a kernel, whose serial line LOG is, has
                  said the same when it ran these scripts from its boot image;
                  addresses and amounts of memory may differ

Exit status: 0, or 1 if a script failed or differs, or 2 for wrong usage.
";

/// What the command line asks for.
#[derive(Debug, PartialEq)]
struct Request {
    trace: bool,
    /// The log to compare with.
    compare: Option<String>,
    files: Vec<String>,
}

/// Reads the command line; `None` is a plea for help.
fn parse_args(args: impl IntoIterator<Item = String>) -> Result<Option<Request>, String> {
    let mut request = Request { trace: false, compare: None, files: Vec::new() };
    let mut options = true;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" if options => return Ok(None),
            "--trace" if options => request.trace = true,
            "--compare" if options => {
                request.compare = Some(args.next().ok_or("--compare needs a LOG")?);
            }
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

/// Runs each script, and returns whether all went well.
fn run_all(request: &Request) -> Result<bool, String> {
    let output = Output::new(io::stdout());
    let mut ok = true;
    for file in &request.files {
        let script = read_input(file).map_err(|error| format!("{file}: {error}"))?;
        if request.files.len() > 1 {
            output.print(format_args!("# {file}\n"));
        }
        let verdict = run(&script, request.trace, &output);
        let verdict = verdict.map_err(|error| format!("{file}: {error}"))?;
        ok &= matches!(verdict, Verdict::Ok(_));
    }
    Ok(ok)
}

/// Says of each script whether it went in the kernel that wrote `log` as it goes
/// here, and returns whether all did.
fn compare_all(request: &Request, log: &str) -> Result<bool, String> {
    let log = read_input(log).map_err(|error| format!("{log}: {error}"))?;
    let log = String::from_utf8_lossy(&log);
    let mut same = true;
    for file in &request.files {
        let script = read_input(file).map_err(|error| format!("{file}: {error}"))?;
        let (output, here) = Output::kept();
        run(&script, true, &output).map_err(|error| format!("{file}: {error}"))?;
        let name = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
        let found = match section(&log, &name) {
            None => Some("has not run in the kernel".into()),
            Some(kernel) => compare(&here.text(), &kernel).map(|difference| difference.to_string()),
        };
        same &= found.is_none();
        println!("{file}: {}", found.unwrap_or_else(|| "the same".into()));
    }
    Ok(same)
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
            eprint!("quarry-lab: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let result = match &request.compare {
        Some(log) => compare_all(&request, log),
        None => run_all(&request),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("quarry-lab: {why}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Option<Request>, String> {
        parse_args(args.iter().map(ToString::to_string))
    }

    #[test]
    fn command_line() {
        let request = |trace, files: &[&str]| {
            let files = files.iter().map(ToString::to_string).collect();
            Ok(Some(Request { trace, compare: None, files }))
        };
        let compare = parse(&["--compare", "log", "a"]).unwrap().unwrap();
        assert_eq!(compare.compare.as_deref(), Some("log"));
        assert_eq!(parse(&["a", "-"]), request(false, &["a", "-"]));
        assert_eq!(parse(&["a", "--trace"]), request(true, &["a"]));
        assert_eq!(parse(&["--", "--trace"]), request(false, &["--trace"]));
        assert_eq!(parse(&["--help"]), Ok(None));
        for wrong in [&[][..], &["--trace"], &["-x", "a"], &["--"], &["a", "--compare"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
