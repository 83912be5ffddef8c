//! A page to fewer bytes, and back. Calls `lz4_flex`.

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};
use mm::types::PAGE_SIZE;

/// A page's content.
pub type PageBytes = [u8; PAGE_SIZE];

/// Bytes that compressing a page may write.
pub const SIZE_OF_OUTPUT: usize = get_maximum_output_size(PAGE_SIZE);

/// The 64-bit word that the whole page consists of, if it does.
pub fn same_filled(page: &PageBytes) -> Option<u64> {
    let (words, _) = page.as_chunks::<8>();
    let (first, last) = (words.first()?, words.last()?);
    let word = u64::from_le_bytes(*first);
    let differs = |part: &[[u8; 8]; 32]| {
        part.iter().fold(0, |sum, other| sum | (u64::from_le_bytes(*other) ^ word)) != 0
    };
    // Many pages begin with zeros, few end with them too.
    let same = first == last && !words.as_chunks().0.iter().any(differs);
    same.then_some(word)
}

/// Fills a page with a word.
pub(crate) fn fill(page: &mut PageBytes, word: u64) {
    let (words, _) = page.as_chunks_mut::<8>();
    words.fill(word.to_le_bytes());
}

/// Compresses a page; the bytes of `output` that it came to. None if that is
/// more than fits, which cannot be.
pub fn compress(
    page: &PageBytes,
    output: &mut [u8; SIZE_OF_OUTPUT],
    table: &mut CompressTable,
) -> Option<usize> {
    compress_into_with_table(page, output, table).ok()
}

/// What was compressed is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt;

/// Makes a page of what [`compress`] made of it.
///
/// # Errors
/// When it is not that; the page may hold anything then.
// A function of its own, so that it can be told from what it is called for.
#[inline(never)]
pub fn expand(input: &[u8], page: &mut PageBytes) -> Result<(), Corrupt> {
    match decompress_into(input, page) {
        Ok(PAGE_SIZE) => Ok(()),
        _ => Err(Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_one_word_is_that_word() {
        let mut page = [0; PAGE_SIZE];
        assert_eq!(same_filled(&page), Some(0));
        fill(&mut page, 0x0102_0304_0506_0708);
        assert_eq!(same_filled(&page), Some(0x0102_0304_0506_0708));
        for at in [0, 7, 2000, PAGE_SIZE - 1] {
            page[at] ^= 1;
            assert_eq!(same_filled(&page), None);
            page[at] ^= 1;
        }
    }

    #[test]
    fn what_is_damaged_or_too_short_is_no_page() {
        let mut page: PageBytes = core::array::from_fn(|i| (i / 7 * i / 64) as u8);
        let mut output = [0; SIZE_OF_OUTPUT];
        let mut table = CompressTable::small();
        let len = compress(&page, &mut output, &mut table).expect("room");
        let before = page;
        assert_eq!(expand(&output[..len], &mut page), Ok(()));
        assert_eq!(page, before);
        assert_eq!(expand(&output[..len - 1], &mut page), Err(Corrupt));
        assert_eq!(expand(&[], &mut page), Err(Corrupt));
        output[..len].fill(0xff);
        assert_eq!(expand(&output[..len], &mut page), Err(Corrupt));
    }
}
