//! Runs lab scripts on simulated machines: each on one of its own, what it says
//! on standard output, the interpreter's verdict as its last line. Or compares
//! what they say here with what they said in a kernel.

use clap::Parser;
use lab::{Output, compare, read_input, run, section};
use shell::Verdict;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Runs lab scripts, each on a simulated machine of its own: the one that the
/// script describes, or a PC with 512 MiB and two CPUs.
///
/// Exit status: 0, or 1 if a script failed or differs, or 2 for wrong usage.
#[derive(Parser, Debug, PartialEq)]
#[command(name = "quarry-lab", version)]
struct Request {
    /// Show each command before what it prints.
    #[arg(long)]
    trace: bool,
    /// Say instead whether a kernel, whose serial line LOG is, has said the same
    /// when it ran these scripts from its boot image; addresses and amounts of
    /// memory may differ.
    #[arg(long, value_name = "LOG")]
    compare: Option<String>,
    /// The scripts; - is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
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
    let request = Request::parse();
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

    fn parse(args: &[&str]) -> Result<Request, clap::Error> {
        Request::try_parse_from([&["quarry-lab"], args].concat())
    }

    #[test]
    fn command_line() {
        let request = |trace, files: &[&str]| {
            let files = files.iter().map(ToString::to_string).collect();
            Request { trace, compare: None, files }
        };
        let compare = parse(&["--compare", "log", "a"]).unwrap();
        assert_eq!(compare.compare.as_deref(), Some("log"));
        assert_eq!(parse(&["a", "-"]).unwrap(), request(false, &["a", "-"]));
        assert_eq!(parse(&["a", "--trace"]).unwrap(), request(true, &["a"]));
        assert_eq!(parse(&["--", "--trace"]).unwrap(), request(false, &["--trace"]));
        for wrong in [&[][..], &["--trace"], &["-x", "a"], &["--"], &["a", "--compare"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
