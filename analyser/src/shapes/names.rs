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

    /// The values of a name, in the order in which they were added.
    pub(super) fn get(&self, name: &str) -> impl Iterator<Item = &V> {
        self.of(name).map(|(_, value)| value)
    }

    /// The name itself, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<&'static str> {
        self.of(name).map(|(name, _)| *name).next()
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &(&'static str, V)> {
        let mask = self.slots.len() - 1;
        let hash = hash(name);
        (0..)
            .map(move |step| self.slots[(hash as usize + step) & mask])
            .take_while(|(_, number)| *number != 0)
            .filter(move |(there, _)| *there == hash)
            .map(|(_, number)| &self.entries[usize::from(number) - 1])
            // Shared names need no look at their bytes.
            .filter(move |(there, _)| std::ptr::eq(*there, name) || *there == name)
    }
}

/// Mixes eight bytes at a time: names are short.
fn hash(name: &str) -> u32 {
    let mut hash = name.len() as u64;
    for chunk in name.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    (hash >> 32) as u32
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
            let at: Vec<usize> = names.get(word).copied().collect();
            let want: Vec<usize> = (0..words.len()).filter(|&index| words[index] == *word).collect();
            assert_eq!(at, want, "{word}");
        }
        assert_eq!(names.find("no such name"), None);
        assert_eq!(Names::<()>::default().find("a"), None);
    }
}
