//! Lab scripts on their way to the kernel, and the verdict that comes back.
//! Pure, but for reading and writing files.

use anyhow::{Context, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// Scripts to be run in one boot, one after the other.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Scripts {
    text: Vec<u8>,
    /// Each file, and the lines before its first in the whole.
    files: Vec<(PathBuf, u64)>,
}

impl Scripts {
    /// Reads the scripts.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut scripts = Self::default();
        for path in paths {
            let script =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            scripts.add(path, &script);
        }
        Ok(scripts)
    }

    fn add(&mut self, path: &Path, script: &[u8]) {
        // A mark of UTF-8 is nothing in the middle of the whole.
        let script = script.strip_prefix(b"\xef\xbb\xbf").unwrap_or(script);
        let lines = self.text.iter().filter(|&&b| b == b'\n').count();
        self.files.push((path.to_owned(), lines as u64));
        self.text.extend_from_slice(script);
        if !script.ends_with(b"\n") {
            self.text.push(b'\n');
        }
    }

    /// Writes them down as one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, &self.text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The file that line `line` of the whole comes from, and its number there.
    pub fn place(&self, line: u64) -> Option<(&Path, u64)> {
        let (path, before) = self.files.iter().rev().find(|(_, before)| *before < line)?;
        Some((path, line - before))
    }
}

/// What the lab says at the end of a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All its commands did what they say; their number.
    Ok(u64),
    /// It ended at this line.
    Failed(u64),
}

impl Verdict {
    /// Reads `lab: ok, N commands` or `lab: FAILED at line L`.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end().strip_prefix("lab: ")?;
        if let Some(number) = line.strip_prefix("FAILED at line ") {
            return number.parse().ok().map(Self::Failed);
        }
        let number = line.strip_prefix("ok, ")?.strip_suffix(" commands")?;
        number.parse().ok().map(Self::Ok)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(commands) => write!(f, "the script passed, {commands} commands"),
            Self::Failed(line) => write!(f, "the script failed at line {line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_their_files() {
        let mut scripts = Scripts::default();
        scripts.add(Path::new("a"), b"1\n2");
        scripts.add(Path::new("empty"), b"");
        scripts.add(Path::new("b"), b"1\n2\n");
        assert_eq!(scripts.text, b"1\n2\n\n1\n2\n");
        for (line, place) in
            [(1, ("a", 1)), (2, ("a", 2)), (3, ("empty", 1)), (4, ("b", 1)), (5, ("b", 2))]
        {
            assert_eq!(scripts.place(line), Some((Path::new(place.0), place.1)), "{line}");
        }
        assert_eq!(scripts.place(0), None);
        assert_eq!(Scripts::default().place(1), None);
    }

    #[test]
    fn marks_of_utf8_are_left_out() {
        let mut scripts = Scripts::default();
        scripts.add(Path::new("a"), b"\xef\xbb\xbf1\n");
        scripts.add(Path::new("b"), b"\xef\xbb\xbf2\n");
        assert_eq!(scripts.text, b"1\n2\n");
    }

    #[test]
    fn a_script_that_is_not_there() {
        assert!(Scripts::read(&["/nonexistent/x.lab".into()]).is_err());
    }

    #[test]
    fn verdicts_are_read() {
        assert_eq!(Verdict::parse("lab: ok, 12 commands\r"), Some(Verdict::Ok(12)));
        assert_eq!(Verdict::parse("lab: FAILED at line 7"), Some(Verdict::Failed(7)));
        for line in [
            "",
            "lab:",
            "lab: ok",
            "lab: ok, x commands",
            "[ 1.0] lab: ok, 1 commands",
            "+ lab: ok, 1 commands",
        ] {
            assert_eq!(Verdict::parse(line), None, "{line}");
        }
    }
}
