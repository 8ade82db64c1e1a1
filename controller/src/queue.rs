//! The work queue: which objects are to be looked at, and when.
//!
//! A key is handed to one worker at a time; what arrives meanwhile is looked at once more afterwards. A key that
//! failed comes back after a pause that doubles, so a bad object costs the others nothing.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// A queue of keys without duplicates.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    running: HashSet<K>,
    again: HashSet<K>,
    /// Keys whose time has not come; the number keeps two of one instant apart.
    later: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    serial: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            serial: 0,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Looks at `key` as soon as a worker is free.
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.changed.notify_one();
    }

    /// Looks at `key` after `pause`, or earlier when something else asks for it.
    pub fn add_after(&self, key: K, pause: Duration) {
        self.lock().add_at(key, Instant::now() + pause);
        self.changed.notify_one();
    }

    /// The next key, which is the caller's until [`Queue::done`].
    pub async fn next(&self) -> K {
        loop {
            let wait = {
                let mut state = self.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.later.keys().next().map(|(at, _)| *at)
            };
            match wait {
                Some(at) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Gives a key back. After a failure it returns by itself.
    pub fn done(&self, key: &K, failed: bool) {
        let mut state = self.lock();
        state.running.remove(key);
        if failed {
            let failures = state.failures.entry(key.clone()).or_default();
            let pause = pause_after(*failures);
            *failures = failures.saturating_add(1);
            state.add_at(key.clone(), Instant::now() + pause);
        } else {
            state.failures.remove(key);
        }
        if state.again.remove(key) {
            state.add(key.clone());
        }
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // Every method leaves the state whole: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after `failures` earlier failures in a row.
pub fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(20)).min(LONGEST_PAUSE)
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if let Some(known) = self.due.get(&key).copied() {
            if known.0 <= at {
                return;
            }
            self.later.remove(&known);
        }
        self.serial += 1;
        self.due.insert(key.clone(), (at, self.serial));
        self.later.insert((at, self.serial), key);
    }

    fn promote(&mut self, now: Instant) {
        while let Some((&slot, _)) = self.later.first_key_value() {
            if slot.0 > now {
                return;
            }
            if let Some(key) = self.later.remove(&slot) {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_queued_once_and_run_by_one_worker() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b", "a is running");
        queue.done(&"a", false);
        assert_eq!(queue.next().await, "a", "a was asked for while it ran");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_key_returns_with_growing_pauses_and_holds_up_nobody() {
        let queue = Queue::default();
        queue.add("bad");
        let start = Instant::now();
        for expected in [0, 50, 150, 350] {
            assert_eq!(queue.next().await, "bad");
            assert_eq!(start.elapsed().as_millis(), expected);
            queue.done(&"bad", true);
        }
        queue.add("good");
        assert_eq!(queue.next().await, "good");
        queue.done(&"good", false);
        assert_eq!(pause_after(60), LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_times_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(6));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 3);
    }
}
