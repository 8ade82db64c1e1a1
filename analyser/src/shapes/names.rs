//! A small map from names to values that is made once and looked into often.

/// Names with values; a name can have several.
#[derive(Debug)]
pub(super) struct Names<V> {
    entries: Vec<(&'static str, V)>,
    /// Open addressing: a name's hash, and one more than the index of its entry, or 0. The length is a power of two, at
    /// least twice the number of entries.
    slots: Vec<(u32, u16)>,
}

impl<V> Default for Names<V> {
    fn default() -> Self {
        Self { entries: Vec::new(), slots: vec![(0, 0); 2] }
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
        self.entries.push((name, value));
        if self.slots.len() < 2 * self.entries.len() {
            self.slots = vec![(0, 0); 2 * self.slots.len()];
            (0..self.entries.len()).for_each(|index| self.place(index));
        } else {
            self.place(self.entries.len() - 1);
        }
    }

    fn place(&mut self, index: usize) {
        let mask = self.slots.len() - 1;
        let hash = hash(self.entries[index].0);
        let mut slot = hash as usize & mask;
        while self.slots[slot].1 != 0 {
            slot = (slot + 1) & mask;
        }
        let number = u16::try_from(index + 1).unwrap_or_else(|_| unreachable!("too many names in a table"));
        self.slots[slot] = (hash, number);
    }

    /// The first value of a name that is wanted, in the order in which they were added.
    #[inline]
    pub(super) fn get(&self, name: &str, is_wanted: impl Fn(&V) -> bool) -> Option<&V> {
        self.of(name, is_wanted).map(|(_, value)| value)
    }

    /// The name itself, if it is there.
    #[inline]
    pub(super) fn find(&self, name: &str) -> Option<&'static str> {
        self.of(name, |_| true).map(|(name, _)| *name)
    }

    #[inline]
    fn of(&self, name: &str, is_wanted: impl Fn(&V) -> bool) -> Option<&(&'static str, V)> {
        let mask = self.slots.len() - 1;
        let hash = hash(name);
        let mut at = hash as usize & mask;
        loop {
            let (there, number) = self.slots[at];
            if number == 0 {
                return None;
            }
            if there == hash {
                let entry = &self.entries[usize::from(number) - 1];
                // Shared names need no look at their bytes.
                if (std::ptr::eq(entry.0, name) || entry.0 == name) && is_wanted(&entry.1) {
                    return Some(entry);
                }
            }
            at = (at + 1) & mask;
        }
    }
}

/// Mixes the ends of a name, which overlap in a short one: names that agree in both and in length are rare.
#[inline]
fn hash(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let (first, last) = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(first), Some(last)) => (u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last))),
            _ => bytes.iter().fold((0, 0), |(word, _), byte| (word << 8 | u64::from(*byte), 0)),
        },
    };
    const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
    let mixed = (first.wrapping_mul(MIX).rotate_left(29) ^ last ^ bytes.len() as u64).wrapping_mul(MIX);
    (mixed >> 32) as u32
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
