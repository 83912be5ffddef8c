//! Writes an image to a device and reads it back.

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Advice, OFlags, fadvise};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::device::Number;

/// Bytes at a time.
const CHUNK: usize = 1 << 20;
/// What direct reads want of addresses, whatever the device.
const ALIGN: usize = 4096;

/// Opens the device for writing, with nobody else using it: the kernel refuses
/// that for a disk of which anything is mounted or held, in any namespace.
///
/// # Errors
///
/// It is in use, there is no right to write, or it is not the one with `number`
/// any more.
pub(super) fn open(path: &Path, number: Number) -> Result<File> {
    let exclusive = OFlags::EXCL.bits() as i32;
    let file = match OpenOptions::new().write(true).custom_flags(exclusive).open(path) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => {
            bail!("the kernel says that it is in use")
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!("no right to write to it (scripts/flash asks for root)")
        }
        result => result.context("it cannot be opened")?,
    };
    same(&file, number)?;
    Ok(file)
}

fn same(file: &File, number: Number) -> Result<()> {
    ensure!(Number::of(&file.metadata()?) == Some(number), "it is another device by now");
    Ok(())
}

/// Copies all of `image` to `device` and has it written for good. Tells `progress`
/// the bytes done so far.
///
/// # Errors
///
/// Reading or writing fails.
pub(super) fn write(
    image: &mut impl Read,
    device: &mut File,
    mut progress: impl FnMut(u64),
) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let len = fill(image, &mut buffer).context("cannot read the image")?;
        if len == 0 {
            break;
        }
        let written = device.write_all(&buffer[..len]);
        written.with_context(|| format!("writing failed after {done} bytes"))?;
        done += len as u64;
        progress(done);
    }
    device.sync_all().context("the device did not take all of it")
}

/// Reads until `buffer` is full or there is no more.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match from.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Compares the device with all of `image`, from the medium and not from memory.
///
/// # Errors
///
/// They differ, or reading fails.
pub(super) fn verify(image: &mut impl Read, path: &Path, number: Number) -> Result<()> {
    let direct = OFlags::DIRECT.bits() as i32;
    let device = match OpenOptions::new().read(true).custom_flags(direct).open(path) {
        // Not every driver can read past the cache: empty that then.
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            let device = File::open(path).context("it cannot be opened again")?;
            fadvise(&device, 0, None, Advice::DontNeed).context("the cache cannot be emptied")?;
            device
        }
        result => result.context("it cannot be opened again")?,
    };
    same(&device, number)?;
    let mut area = vec![0; CHUNK + ALIGN];
    let start = area.as_ptr().align_offset(ALIGN);
    let aligned = area.get_mut(start..start + CHUNK).context("no buffer")?;
    let read = |at: u64, len: usize| {
        // Direct reads are of whole blocks; the image may end within one.
        let mut got = 0;
        while got < len {
            match device.read_at(&mut aligned[got..], at + got as u64) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(aligned[..got.min(len)].to_vec())
    };
    compare(image, read)
}

/// Compares what `read` gives for an offset and a length with all of `image`.
fn compare(
    image: &mut impl Read,
    mut read: impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
) -> Result<()> {
    let mut want = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let len = fill(image, &mut want).context("cannot read the image")?;
        if len == 0 {
            return Ok(());
        }
        let got = read(at, len).with_context(|| format!("reading failed after {at} bytes"))?;
        ensure!(got.len() == len, "the device ends after {} bytes", at + got.len() as u64);
        if let Some(first) = got.iter().zip(&want).position(|(got, want)| got != want) {
            bail!("byte {} of the device is not what was written", at + first as u64);
        }
        at += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comparing says of a device that holds `held`.
    fn compared(image: &[u8], held: &[u8]) -> Result<()> {
        compare(&mut { image }, |at, len| {
            let rest = &held[held.len().min(at as usize)..];
            Ok(rest[..len.min(rest.len())].to_vec())
        })
    }

    #[test]
    fn every_byte_is_compared() {
        let image: Vec<u8> = (0..2 * CHUNK + 700).map(|at| (at % 251) as u8).collect();
        let mut held = [&image[..], b"older things"].concat();
        compared(&image, &held).unwrap();
        for wrong in [0, CHUNK - 1, CHUNK, image.len() - 1] {
            held[wrong] ^= 1;
            let said = compared(&image, &held).unwrap_err().to_string();
            assert_eq!(said, format!("byte {wrong} of the device is not what was written"));
            held[wrong] ^= 1;
        }
        held.truncate(CHUNK + 5);
        let said = compared(&image, &held).unwrap_err().to_string();
        assert_eq!(said, format!("the device ends after {} bytes", CHUNK + 5));
        compared(&[], &[]).unwrap();
    }

    #[test]
    fn a_read_that_fails_is_told() {
        let failed = compare(&mut &[1_u8][..], |_, _| Err(io::Error::other("broken")));
        assert_eq!(failed.unwrap_err().to_string(), "reading failed after 0 bytes");
    }

    #[test]
    fn all_is_written_in_order() {
        let image: Vec<u8> = (0..CHUNK + 3).map(|at| (at % 13) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        let mut told = Vec::new();
        write(&mut &image[..], &mut file, |done| told.push(done)).unwrap();
        assert_eq!(told, [CHUNK as u64, image.len() as u64]);
        let mut back = vec![0; image.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, image);
    }

    #[test]
    fn a_file_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let number = Number::parse("8:16").unwrap();
        let said = open(file.path(), number).unwrap_err().to_string();
        assert_eq!(said, "it is another device by now");
    }
}
