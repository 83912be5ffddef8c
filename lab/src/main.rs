//! Runs lab scripts on simulated machines: each on one of its own, what it says
//! on standard output, the interpreter's verdict as its last line.

use lab::{Output, run};
use shell::Verdict;
use std::io::{self, Read as _};
use std::process::ExitCode;

const USAGE: &str = "\
usage: quarry-lab [--trace] FILE...

Runs lab scripts (FILE, or - for standard input), each on a simulated machine
of its own: the one that the script describes, or a PC with 512 MiB and two
CPUs.

  --trace   show each command before what it prints

Exit status: 0, or 1 if a script failed, or 2 for wrong usage.
";

/// What the command line asks for.
#[derive(Debug, PartialEq)]
struct Request {
    trace: bool,
    files: Vec<String>,
}

/// Reads the command line; `None` is a plea for help.
fn parse_args(args: impl IntoIterator<Item = String>) -> Result<Option<Request>, String> {
    let mut request = Request { trace: false, files: Vec::new() };
    let mut options = true;
    for arg in args {
        match arg.as_str() {
            "--help" | "-h" if options => return Ok(None),
            "--trace" if options => request.trace = true,
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

fn read(file: &str) -> io::Result<Vec<u8>> {
    if file == "-" {
        let mut script = Vec::new();
        io::stdin().lock().read_to_end(&mut script)?;
        return Ok(script);
    }
    std::fs::read(file)
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
    let output = Output::new(io::stdout());
    let mut failed = false;
    for file in &request.files {
        let script = match read(file) {
            Ok(script) => script,
            Err(error) => {
                eprintln!("quarry-lab: {file}: {error}");
                return ExitCode::from(2);
            }
        };
        if request.files.len() > 1 {
            output.print(format_args!("# {file}\n"));
        }
        match run(&script, request.trace, &output) {
            Ok(verdict) => failed |= !matches!(verdict, Verdict::Ok(_)),
            Err(error) => {
                eprintln!("quarry-lab: {file}: {error}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
            Ok(Some(Request { trace, files }))
        };
        assert_eq!(parse(&["a", "-"]), request(false, &["a", "-"]));
        assert_eq!(parse(&["a", "--trace"]), request(true, &["a"]));
        assert_eq!(parse(&["--", "--trace"]), request(false, &["--trace"]));
        assert_eq!(parse(&["--help"]), Ok(None));
        for wrong in [&[][..], &["--trace"], &["-x", "a"], &["--"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
