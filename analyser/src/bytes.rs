//! Looks for bytes in texts, eight at a time.

const LENGTH: usize = size_of::<u64>();
const ONES: u64 = u64::from_ne_bytes([1; LENGTH]);
const HIGHEST: u64 = u64::from_ne_bytes([0x80; LENGTH]);

/// Eight bytes of a text, the first one lowest. What its methods give marks bytes by their highest bits; only the lowest
/// mark counts, since a byte that is marked borrows from those above it. Marks can be put together with `|`.
#[derive(Clone, Copy)]
pub(crate) struct Word(u64);

impl Word {
    /// Marks bytes that are equal to `byte`.
    #[inline]
    pub(crate) fn equal(self, byte: u8) -> u64 {
        Self(self.0 ^ (ONES * u64::from(byte))).below(1)
    }

    /// Marks bytes that are below `bound`, which is 0x80 at most.
    #[inline]
    pub(crate) fn below(self, bound: u8) -> u64 {
        self.0.wrapping_sub(ONES * u64::from(bound)) & !self.0 & HIGHEST
    }
}

/// Where the first byte stands that `marked` marks.
#[inline]
pub(crate) fn find(bytes: &[u8], marked: impl Fn(Word) -> u64) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<LENGTH>();
    for (index, word) in words.iter().enumerate() {
        let marks = marked(Word(u64::from_le_bytes(*word)));
        if marks != 0 {
            return Some(index * LENGTH + first(marks));
        }
    }
    let at = first(marked(Word(short(rest))));
    (at < rest.len()).then_some(words.len() * LENGTH + at)
}

/// Fewer bytes than a word has, and zeros.
#[inline]
fn short(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => {
            let behind = 8 * (bytes.len() - first.len());
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << behind
        }
        _ => bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// Which byte is the first that is marked.
#[inline]
fn first(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_at_any_place() {
        for length in 0..40 {
            for at in 0..length {
                let mut bytes = vec![b'x'; length];
                // One more than what is looked for: what a borrow would mark.
                bytes[at..].fill(b';');
                bytes[at] = b':';
                assert_eq!(find(&bytes, |word| word.equal(b':')), Some(at));
                assert_eq!(find(&bytes, |word| word.equal(b';') | word.equal(b':')), Some(at));
                assert_eq!(find(&bytes, |word| word.below(b';')), Some(at));
                assert_eq!(find(&bytes, |word| word.equal(b'#') | word.below(b':')), None);
            }
        }
    }

    #[test]
    fn takes_all_bytes() {
        for byte in 0..=u8::MAX {
            for other in 0..=u8::MAX {
                let bytes = [other, byte, other];
                let want = (0..3).find(|at| bytes[*at] == byte);
                assert_eq!(find(&bytes, |word| word.equal(byte)), want, "{byte} in {bytes:?}");
            }
            for bound in 0..=0x80 {
                assert_eq!(find(&[byte], |word| word.below(bound)), (byte < bound).then_some(0), "{byte} {bound}");
            }
        }
    }
}
