//! Pages of several kinds, made from a seed.

use zram::PageBytes;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// Makes pages.
pub(crate) struct Corpus {
    pub(crate) rng: Rng,
    words: Vec<String>,
}

/// Kinds of pages by name.
pub(crate) type Kind = (&'static str, fn(&mut Corpus) -> PageBytes);
#[allow(dead_code)]
pub(crate) const KINDS: [Kind; 6] = [
    ("text", Corpus::text),
    ("code", Corpus::code),
    ("heap", Corpus::heap),
    ("half zero", Corpus::half_zero),
    ("table", Corpus::table),
    ("mixed", Corpus::mixed),
];

fn page(mut more: impl FnMut(&mut Vec<u8>)) -> PageBytes {
    let mut bytes = Vec::with_capacity(4200);
    while bytes.len() < 4096 {
        more(&mut bytes);
    }
    bytes[..4096].try_into().expect("a page")
}

#[allow(dead_code)]
impl Corpus {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let mut word = || {
            let len = 2 + rng.below(4) + rng.below(5);
            let letters = b"etaoinshrdlucmfwypvbgkjqxz";
            (0..len).map(|_| letters[rng.below(26).min(rng.below(26))] as char).collect()
        };
        let words = (0..600).map(|_| word()).collect();
        Self { rng, words }
    }

    fn word(&mut self) -> String {
        // Few words make up most of a text.
        let most = self.words.len();
        let i = (0..4).map(|_| self.rng.below(most)).min().unwrap_or(0);
        self.words[i].clone()
    }

    /// Sentences.
    pub(crate) fn text(&mut self) -> PageBytes {
        page(|bytes| {
            bytes.extend_from_slice(self.word().as_bytes());
            bytes
                .extend_from_slice([" ", " ", " ", " ", ", ", ".\n"][self.rng.below(6)].as_bytes());
        })
    }

    /// A program's source.
    pub(crate) fn code(&mut self) -> PageBytes {
        let names: Vec<String> = (0..24).map(|_| self.word()).collect();
        page(|bytes| {
            let mut name = || names[self.rng.below(24)].clone();
            let (a, b, c) = (name(), name(), name());
            let n = self.rng.below(500);
            let line = match self.rng.below(6) {
                0 => format!("fn {a}_{b}(&self, {c}: u32) -> Result<u32, Error> {{\n"),
                1 => format!("    let {a} = self.{b}({c})?;\n"),
                2 => format!("    if {a} > {n} {{\n        return Err(Error::{b});\n    }}\n"),
                3 => format!("    self.{a}.{b}[{n}] = {c};\n"),
                4 => "    }\n}\n\n".to_string(),
                _ => format!("    // {a} {b} {c}\n"),
            };
            bytes.extend_from_slice(line.as_bytes());
        })
    }

    /// Records with pointers that have much in common, and small numbers.
    pub(crate) fn heap(&mut self) -> PageBytes {
        let base = 0x7f00_0000_0000 + (self.rng.next() & 0xffff_f000);
        page(|bytes| {
            let next = base + (self.rng.next() & 0xf_fff0);
            bytes.extend_from_slice(&next.to_le_bytes());
            bytes.extend_from_slice(&(self.rng.below(1000) as u64).to_le_bytes());
            bytes.extend_from_slice(&(self.rng.below(4) as u32).to_le_bytes());
            bytes.extend_from_slice(&[0; 12]);
        })
    }

    /// Random, then nothing.
    pub(crate) fn half_zero(&mut self) -> PageBytes {
        let mut bytes = self.random();
        bytes[2048..].fill(0);
        bytes
    }

    /// Numbers as text.
    pub(crate) fn table(&mut self) -> PageBytes {
        let mut row = self.rng.below(100_000);
        page(|bytes| {
            row += 1;
            let (a, b) = (self.rng.below(100_000), self.rng.below(100));
            bytes.extend_from_slice(format!("{row:8} {a:10} {b:4} ok\n").as_bytes());
        })
    }

    /// Nothing that could be made smaller.
    pub(crate) fn random(&mut self) -> PageBytes {
        page(|bytes| bytes.extend_from_slice(&self.rng.next().to_le_bytes()))
    }

    /// One of the kinds that shrink.
    pub(crate) fn mixed(&mut self) -> PageBytes {
        let kind = self.rng.below(KINDS.len() - 1);
        KINDS[kind].1(self)
    }
}
