//! One turn at a time for each of many things.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Turns by key. Who has the turn of a key works alone on what the key names. A `T` is handed from turn to turn. Clones
/// share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns<T = ()>(Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<T>>>>>);

impl<T: Default> Turns<T> {
    /// Waits for the turn of `key`; it lasts until the guard is dropped.
    pub(crate) async fn take(&self, key: &str) -> OwnedMutexGuard<T> {
        let turn = Arc::clone(self.lock().entry(key.to_owned()).or_default());
        turn.lock_owned().await
    }

    /// Ends the turn of `key` as its last one: what it would hand on is forgotten, unless somebody waits for it.
    pub(crate) fn end(&self, key: &str, turn: OwnedMutexGuard<T>) {
        let mut turns = self.lock();
        drop(turn);
        // Whoever waits holds the turn as well, and nobody can begin to wait now.
        if turns.get(key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<T>>>> {
        // The map is changed in one step: a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_key_has_one_turn_at_a_time_and_hands_on_what_it_knows() {
        let turns = Turns::<u32>::default();
        let mut first = turns.take("a").await;
        *first = 7;
        assert!(turns.take("a").now_or_never().is_none(), "it is taken");
        assert!(turns.clone().take("b").now_or_never().is_some(), "another key is free");
        drop(first);
        assert_eq!(*turns.take("a").await, 7);
    }

    #[tokio::test]
    async fn the_last_turn_leaves_nothing_unless_somebody_waits() {
        let turns = Turns::<u32>::default();
        let mut first = turns.take("a").await;
        *first = 7;
        let mut second = Box::pin(turns.take("a"));
        assert!(second.as_mut().now_or_never().is_none());
        turns.end("a", first);
        let second = second.await;
        assert_eq!(*second, 7, "both mean the same turn");
        assert!(turns.take("a").now_or_never().is_none(), "nobody has begun another one");
        turns.end("a", second);
        assert_eq!(*turns.take("a").await, 0);
        assert_eq!(turns.lock().len(), 1);
    }
}
