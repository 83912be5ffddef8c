//! What the tools of this crate read: a file, or standard input. Calls nothing.

use std::io::{self, Read as _};

/// All of `file`, where `-` is standard input.
///
/// # Errors
/// What reading it fails with.
pub fn read_input(file: &str) -> io::Result<Vec<u8>> {
    if file != "-" {
        return std::fs::read(file);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}
