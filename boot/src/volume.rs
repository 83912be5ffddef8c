//! The boot partition of an image for UEFI, written anew so that firmware needs
//! little memory to read it. May call: files.
//!
//! EDK2 caches 64 pieces of every volume that it opens: of 8 KiB each on FAT12,
//! of 64 KiB on the others (`FatPkg/EnhancedFatDxe`). These 4 MiB are more than a
//! machine of 48 MiB has for them and the kernel. The boot loader's image writer
//! leaves the kind to its library, which takes FAT16 from 4 MiB on.

use anyhow::{Context, Result, ensure};
use fatfs::{Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions};
use std::fs::OpenOptions;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes to a cluster. FAT12 has up to 4084 of them, so this is for all images
/// below 16 MiB.
const CLUSTER: u32 = 4096;

/// A volume in memory.
type Volume = FileSystem<Cursor<Vec<u8>>>;

/// Has the only partition of the disk image `path` hold the files that it holds,
/// in FAT12.
///
/// # Errors
/// It is no such image, cannot be read or written, or is too large for FAT12.
pub fn rewrite(path: &Path) -> Result<()> {
    let disk = gpt::GptConfig::new()
        .writable(false)
        .open(path)
        .context("the image has no partition table")?;
    let mut partitions = disk.partitions().values();
    let only = partitions.next().context("the image has no partition")?;
    ensure!(partitions.next().is_none(), "the image has several partitions");
    let block = *disk.logical_block_size();
    let start = SeekFrom::Start(only.bytes_start(block)?);
    let len = usize::try_from(only.bytes_len(block)?)?;

    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut old = vec![0; len];
    file.seek(start)?;
    file.read_exact(&mut old)?;
    let new = as_fat12(old).context("the boot partition cannot be written anew")?;
    file.seek(start)?;
    file.write_all(&new)?;
    Ok(())
}

/// A FAT12 volume of the same size, with the same label and files.
fn as_fat12(old: Vec<u8>) -> Result<Vec<u8>> {
    let mut new = Cursor::new(vec![0; old.len()]);
    let from = open(Cursor::new(old))?;
    let mut label = [b' '; 11];
    let name = from.volume_label();
    label[..name.len()].copy_from_slice(name.as_bytes());
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat12)
        .bytes_per_cluster(CLUSTER)
        .volume_label(label);
    fatfs::format_volume(&mut new, options)?;
    {
        let to = FileSystem::new(&mut new, FsOptions::new())?;
        copy(&from.root_dir(), &to.root_dir())?;
        to.unmount()?;
    }
    Ok(new.into_inner())
}

fn open(volume: Cursor<Vec<u8>>) -> Result<Volume> {
    Ok(FileSystem::new(volume, FsOptions::new())?)
}

fn copy<A, B>(from: &Dir<'_, A>, to: &Dir<'_, B>) -> Result<()>
where
    A: fatfs::ReadWriteSeek,
    B: fatfs::ReadWriteSeek,
{
    for entry in from.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.is_file() {
            let mut bytes = Vec::new();
            entry.to_file().read_to_end(&mut bytes)?;
            to.create_file(&name)?.write_all(&bytes)?;
        } else if name != "." && name != ".." {
            copy(&entry.to_dir(), &to.create_dir(&name)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const SIZE: usize = 5 << 20;

    /// A volume as the library makes it of that size, with a file in a directory.
    fn volume() -> Vec<u8> {
        let mut bytes = Cursor::new(vec![0; SIZE]);
        let options = FormatVolumeOptions::new().volume_label(*b"QUARRY     ");
        fatfs::format_volume(&mut bytes, options).unwrap();
        {
            let volume = FileSystem::new(&mut bytes, FsOptions::new()).unwrap();
            assert_eq!(volume.fat_type(), FatType::Fat16, "or there is nothing to do");
            let dir = volume.root_dir().create_dir("efi").unwrap().create_dir("boot").unwrap();
            dir.create_file("bootx64.efi").unwrap().write_all(&[7; 10_000]).unwrap();
            let mut kernel = volume.root_dir().create_file("kernel-x86_64").unwrap();
            kernel.write_all(&vec![1; 3 << 20]).unwrap();
        }
        bytes.into_inner()
    }

    #[test]
    fn a_volume_keeps_its_files_and_its_name() {
        let new = open(Cursor::new(as_fat12(volume()).unwrap())).unwrap();
        assert_eq!(new.fat_type(), FatType::Fat12);
        assert_eq!(new.volume_label(), "QUARRY");
        for (name, want) in
            [("efi/boot/bootx64.efi", vec![7; 10_000]), ("kernel-x86_64", vec![1; 3 << 20])]
        {
            let mut bytes = Vec::new();
            new.root_dir().open_file(name).unwrap().read_to_end(&mut bytes).unwrap();
            assert!(bytes == want, "{name} differs");
        }
    }

    #[test]
    fn the_partition_of_a_disk_is_found() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(SIZE as u64 + (1 << 16)).unwrap();
        let device = Box::new(image.reopen().unwrap());
        let config = gpt::GptConfig::new().writable(true).initialized(false);
        let config = config.logical_block_size(gpt::disk::LogicalBlockSize::Lb512);
        let mut disk = config.create_from_device(device, None).unwrap();
        disk.update_partitions(BTreeMap::new()).unwrap();
        disk.add_partition("boot", SIZE as u64, gpt::partition_types::EFI, 0, None).unwrap();
        let (_, partition) = disk.partitions().first_key_value().unwrap();
        let start = partition.bytes_start(*disk.logical_block_size()).unwrap();
        disk.write().unwrap();
        let mut file = image.reopen().unwrap();
        file.seek(SeekFrom::Start(start)).unwrap();
        file.write_all(&volume()).unwrap();

        rewrite(image.path()).unwrap();
        let mut bytes = vec![0; SIZE];
        file.seek(SeekFrom::Start(start)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(open(Cursor::new(bytes)).unwrap().fat_type(), FatType::Fat12);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert!(rewrite(file.path()).is_err());
        assert!(as_fat12(vec![0; 1 << 20]).is_err());
    }
}
