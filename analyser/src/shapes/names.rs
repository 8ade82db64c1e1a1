//! A small map from names to values that is made once and looked into often.

/// Names with values; a name can have several.
#[derive(Debug)]
pub(super) struct Names<V> {
    entries: Vec<Entry<V>>,
    /// Open addressing: one more than the index of an entry, or 0. The length is a power of two, at least twice the number
    /// of entries.
    slots: Vec<u16>,
}

#[derive(Debug)]
struct Entry<V> {
    ends: Ends,
    name: &'static str,
    value: V,
}

impl<V> Default for Names<V> {
    fn default() -> Self {
        Self { entries: Vec::new(), slots: vec![0; 2] }
    }
}

impl Names<()> {
    /// The name as it was first given here, so that equal names are the same slice.
    pub(super) fn share(&mut self, name: &'static str) -> &'static str {
        self.find(name).unwrap_or_else(|| {
            self.add(name, ());
            name
        })
    }
}

impl<V> Names<V> {
    pub(super) fn add(&mut self, name: &'static str, value: V) {
        self.entries.push(Entry { ends: Ends::of(name), name, value });
        if self.slots.len() < 2 * self.entries.len() {
            self.slots = vec![0; 2 * self.slots.len()];
            (0..self.entries.len()).for_each(|index| self.place(index));
        } else {
            self.place(self.entries.len() - 1);
        }
    }

    fn place(&mut self, index: usize) {
        let mask = self.slots.len() - 1;
        let mut slot = self.entries[index].ends.hash() & mask;
        while self.slots[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = u16::try_from(index + 1).unwrap_or_else(|_| unreachable!("too many names in a table"));
    }

    /// The first value of a name that is wanted, in the order in which they were added.
    #[inline]
    pub(super) fn get(&self, name: &str, is_wanted: impl Fn(&V) -> bool) -> Option<&V> {
        self.of(name, is_wanted).map(|entry| &entry.value)
    }

    /// [`Names::get`] with the name itself.
    #[inline]
    pub(super) fn entry(&self, name: &str, is_wanted: impl Fn(&V) -> bool) -> Option<(&'static str, &V)> {
        self.of(name, is_wanted).map(|entry| (entry.name, &entry.value))
    }

    /// The name itself, if it is there.
    #[inline]
    pub(super) fn find(&self, name: &str) -> Option<&'static str> {
        self.of(name, |_| true).map(|entry| entry.name)
    }

    #[inline]
    fn of(&self, name: &str, is_wanted: impl Fn(&V) -> bool) -> Option<&Entry<V>> {
        let mask = self.slots.len() - 1;
        let ends = Ends::of(name);
        let mut slot = ends.hash() & mask;
        loop {
            let entry = self.entries.get(usize::from(self.slots[slot]).checked_sub(1)?)?;
            if entry.ends == ends && (ends.is_all() || entry.name == name) && is_wanted(&entry.value) {
                return Some(entry);
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// The first and the last bytes of a name, which overlap in a short one, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    first: u64,
    last: u64,
    length: usize,
}

impl Ends {
    #[inline]
    fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let (first, last) = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
            _ => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
                (Some(first), Some(last)) => {
                    (u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last)))
                }
                _ => (bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0),
            },
        };
        Self { first, last, length: bytes.len() }
    }

    /// Whether there is nothing between the ends: names of the same ends are then the same.
    #[inline]
    fn is_all(self) -> bool {
        self.length <= 16
    }

    #[inline]
    fn hash(self) -> usize {
        const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
        let mixed = (self.first.wrapping_mul(MIX).rotate_left(29) ^ self.last ^ self.length as u64).wrapping_mul(MIX);
        (mixed >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_added_and_nothing_else() {
        let words: Vec<&'static str> = include_str!("libvirt.txt").split_whitespace().take(500).collect();
        let mut names = Names::default();
        for (index, word) in words.iter().enumerate() {
            names.add(word, index);
        }
        for word in &words {
            let all: Vec<usize> = (0..words.len()).filter(|&index| words[index] == *word).collect();
            assert_eq!(names.get(word, |_| true), all.first(), "{word}");
            assert_eq!(names.get(word, |at| Some(at) == all.last()), all.last(), "{word}");
            let copy = String::from(*word);
            assert_eq!(names.find(&copy), Some(*word));
        }
        assert_eq!(names.find("no such name"), None);
        assert_eq!(Names::<()>::default().find("a"), None);
    }
}
