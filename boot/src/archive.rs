//! The ramdisk: a plain-text archive of named sections. Pure.
//!
//! A section begins with a line `=== name` and reaches to the next such line or
//! the end. The first is `cmdline` (the kernel's command line where the firmware
//! brings none), then come lab scripts as `lab/NAME`, the last is `symbols`
//! (`hexaddr name` lines, see [`crate::symbols`]). A reader finds what it needs
//! by its name and passes over the rest.

/// Why a ramdisk could not be written.
#[derive(Debug, PartialEq, Eq)]
pub enum ArchiveError {
    /// A section name that is empty or has a space or control character.
    Name(String),
    /// A section's text has a line that would begin a section of its own.
    Header(String),
}

impl std::fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?} is no name for a ramdisk section"),
            Self::Header(line) => write!(f, "a ramdisk section cannot hold the line {line:?}"),
        }
    }
}

impl std::error::Error for ArchiveError {}

/// What introduces a section.
const HEADER: &str = "=== ";

/// An archive under construction.
#[derive(Default, Debug)]
pub struct Archive {
    text: String,
}

impl Archive {
    /// An archive without sections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the section `name` with `text`, to which a final newline is
    /// added where it has none.
    ///
    /// # Errors
    ///
    /// A name or a line that a reader would take for something else.
    pub fn section(&mut self, name: &str, text: &str) -> Result<(), ArchiveError> {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(ArchiveError::Name(name.to_owned()));
        }
        if let Some(line) = text.lines().find(|line| line.starts_with(HEADER)) {
            return Err(ArchiveError::Header(line.to_owned()));
        }
        self.text.push_str(HEADER);
        self.text.push_str(name);
        self.text.push('\n');
        self.text.push_str(text);
        if !text.is_empty() && !text.ends_with('\n') {
            self.text.push('\n');
        }
        Ok(())
    }

    /// The archive's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_follow_each_other() {
        let mut archive = Archive::new();
        archive.section("cmdline", "").unwrap();
        archive.section("notes", "no newline").unwrap();
        archive.section("symbols", "10 a\n20 b\n").unwrap();
        let want = "=== cmdline\n=== notes\nno newline\n=== symbols\n10 a\n20 b\n";
        assert_eq!(archive.into_bytes(), want.as_bytes());
    }

    #[test]
    fn a_section_cannot_forge_another() {
        let mut archive = Archive::new();
        let forged = archive.section("cmdline", "exit\n=== symbols\n0 x");
        assert_eq!(forged, Err(ArchiveError::Header("=== symbols".into())));
        assert_eq!(archive.section("a b", ""), Err(ArchiveError::Name("a b".into())));
        assert_eq!(archive.section("", ""), Err(ArchiveError::Name(String::new())));
        assert!(archive.into_bytes().is_empty());
    }
}
