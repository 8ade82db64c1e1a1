//! Pauses between placement pods that fail, so that a VM that no kubelet takes costs little.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::vm::admission::explain;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// Pauses by UID of the VM. They are this process's own: after a restart each VM gets a fresh attempt.
#[derive(Debug, Default)]
pub struct Pauses {
    known: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    until: Instant,
    why: (&'static str, String),
}

/// A pause that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// How long it still takes.
    pub left: Duration,
    /// Reason and message.
    pub why: (&'static str, String),
}

impl Pauses {
    /// A placement pod ended by itself.
    pub fn failed(&self, uid: &str, why: &str) {
        let message = format!("the placement pod ended: {why}; the next one follows after a pause");
        self.add(uid, ("PodFailed", message));
    }

    /// The API server refused what was to be created.
    pub fn refused(&self, uid: &str, why: &str) {
        self.add(uid, explain(why));
    }

    /// A placement pod runs.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// The pause of a VM, while it lasts.
    pub fn get(&self, uid: &str) -> Option<Pause> {
        let known = self.lock();
        let entry = known.get(uid)?;
        let left = entry.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| Pause { left, why: entry.why.clone() })
    }

    fn add(&self, uid: &str, why: (&'static str, String)) {
        let mut known = self.lock();
        let failures = known.get(uid).map_or(0, |entry| entry.failures);
        let pause = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
        let entry = Entry { failures: failures.saturating_add(1), until: Instant::now() + pause, why };
        known.insert(uid.to_owned(), entry);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end() {
        let pauses = Pauses::default();
        pauses.failed("u", "OutOfmemory");
        assert_eq!(pauses.get("u").map(|pause| pause.left), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pauses.get("u"), None);
        pauses.refused("u", "no");
        let pause = pauses.get("u").unwrap();
        assert_eq!((pause.left, pause.why.0), (Duration::from_secs(2), "PodRefused"));
        pauses.forget("u");
        assert_eq!(pauses.get("u"), None);
    }
}
