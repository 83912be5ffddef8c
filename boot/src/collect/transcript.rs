//! What was said at a prompt, taken apart: which command, which answer. Pure.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::fmt;

/// What the kernel shows when it waits for a line.
pub const PROMPT: &str = "quarry> ";
/// What a lab script shows before each of its commands, if asked to.
const TRACE: &str = "+ ";

/// A command and all that was printed before the next one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The line as it was typed.
    pub command: String,
    /// Lines, each with its end.
    pub text: String,
}

/// Why an answer is not the content of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// The command failed; the line that says so.
    Refused(String),
    /// It was to be base64, and is not, or has no end.
    Garbled,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(line) => f.write_str(line),
            Self::Garbled => f.write_str("what came is not base64: were characters lost?"),
        }
    }
}

/// The commands of a session and what they printed. The last one's answer is
/// known to be complete only if a prompt or a script's verdict follows; else it
/// is left out.
pub fn replies(transcript: &[u8]) -> Vec<Reply> {
    let text = String::from_utf8_lossy(transcript);
    let mut replies = Vec::new();
    let mut open: Option<Reply> = None;
    for line in text.split_inclusive('\n') {
        let whole = line.ends_with('\n');
        let line = line.trim_end_matches(['\n', '\r']);
        // A line that was shown again, after a log line had come in between.
        let line = line.rsplit('\r').next().unwrap_or_default();
        let command = line.strip_prefix(PROMPT).or_else(|| line.strip_prefix(TRACE));
        if command.is_some() || line == PROMPT.trim_end() || line.starts_with("lab: ") {
            replies.extend(open.take());
        }
        if let Some(command) = command {
            // Without an end it has not been given yet.
            open = whole.then(|| Reply { command: command.trim().into(), text: String::new() });
        } else if let Some(reply) = &mut open
            && whole
        {
            reply.text += line;
            reply.text.push('\n');
        }
    }
    replies
}

/// Whether a line is the kernel's log's: `[    1.250000] ...`.
fn is_log(line: &str) -> bool {
    let stamp = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    stamp.is_some_and(|(stamp, _)| {
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let parts = stamp.trim_start().split_once('.');
        parts.is_some_and(|(s, us)| digits(s) && us.len() == 6 && digits(us))
    })
}

impl Reply {
    /// The content of the file that the command was to print: without log lines
    /// that came in between, and decoded if it is binary.
    ///
    /// # Errors
    /// When it is not that.
    pub fn content(&self) -> Result<Vec<u8>, Unusable> {
        let lines = || self.text.lines().filter(|line| !is_log(line));
        if let Some(refusal) = lines().find(|line| line.starts_with("error: ")) {
            return Err(Unusable::Refused(refusal.into()));
        }
        let mut body = lines();
        if !body.next().is_some_and(|line| line.starts_with("begin-base64 ")) {
            return Ok(lines().flat_map(|line| [line, "\n"]).collect::<String>().into_bytes());
        }
        let mut bytes = Vec::new();
        for line in body {
            if line == "====" {
                return Ok(bytes);
            }
            bytes.extend(BASE64_STANDARD.decode(line).map_err(|_| Unusable::Garbled)?);
        }
        Err(Unusable::Garbled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Result<Vec<u8>, Unusable> {
        Reply { command: "cat x".into(), text: text.into() }.content()
    }

    #[test]
    fn a_session_is_taken_apart() {
        let session = "[    0.1] boot\r\nType `help`.\r\nquarry> \r\nquarry> cat /proc/a\r\n1 2 \r\n\r\n3\r\n\
             quarry> ca\rquarry> cat /proc/b\r\nx\r\nquarry> cat /proc/c\r\nnot all of";
        let want = [("", ""), ("cat /proc/a", "1 2 \n\n3\n"), ("cat /proc/b", "x\n")];
        let got = replies(session.as_bytes());
        assert_eq!(got.iter().map(|r| (&*r.command, &*r.text)).collect::<Vec<_>>(), want);
        let done = replies(format!("{session}\r\nquarry> ").as_bytes());
        assert_eq!(done[3].text, "not all of\n");
        assert!(replies(b"quarry> cat /proc/a").is_empty(), "was not entered");
        assert_eq!(replies(b"\xff\x00\nquarry> a\n\xfe\nquarry> ")[0].text, "\u{fffd}\n");
    }

    #[test]
    fn a_script_that_tells_its_commands_is_one_too() {
        let said =
            "+ cat /proc/a\n1\n+ expect zone.DMA.free > 0\nexpect: ok\nlab: ok, 2 commands\n";
        let got = replies(said.as_bytes());
        assert_eq!(got[0], Reply { command: "cat /proc/a".into(), text: "1\n".into() });
        assert_eq!(got[1].text, "expect: ok\n");
        assert_eq!(got.len(), 2);
    }

    #[test]
    fn the_log_may_come_in_between() {
        let text = "a 1\n[   12.345678] watchdog: something\n[x] b 2\n[1.5] c\n";
        assert_eq!(content(text), Ok(b"a 1\n[x] b 2\n[1.5] c\n".to_vec()));
    }

    #[test]
    fn binary_files_are_decoded() {
        assert_eq!(
            content("begin-base64 444 x\nAAEC\n[    1.000000] log\n/w==\n====\n"),
            Ok(vec![0, 1, 2, 255])
        );
        assert_eq!(content("begin-base64 444 x\n====\n"), Ok(vec![]));
        for cut in [
            "begin-base64 444 x\nAAEC\n",
            "begin-base64 444 x\nAAE\n====\n",
            "begin-base64 444 x\nA\u{7}EC\n====\n",
        ] {
            assert_eq!(content(cut), Err(Unusable::Garbled), "{cut:?}");
        }
    }

    #[test]
    fn a_refusal_is_no_content() {
        let why = "error: ENOENT: no such file";
        assert_eq!(content(&format!("{why}\n")), Err(Unusable::Refused(why.into())));
    }
}
