//! What a task knows of its domain as a whole, and of what others have done to it.

use tokio::time::Instant;

use super::{CHECK, LOOK_AGAIN, MACHINE, Task};
use crate::vm::decide::Seen;
use crate::vm::domains::Details;
use crate::vm::drift::Drift;

impl Task {
    /// The definition on the host is not as the spec says, and can be made so as far as is known.
    pub(super) fn is_to_be_reverted(&self) -> bool {
        let Some(Seen::Ours(found)) = &self.seen else { return false };
        let Drift { definition: changed, moved, .. } = &self.guest.drift;
        let differs = !changed.is_empty() && self.memory.reverted.as_ref() != Some(changed);
        moved.is_empty() && (!found.defined || differs)
    }

    pub(super) async fn read_details(&mut self) {
        let due = self.check_at().is_some_and(|at| at <= Instant::now());
        if !(self.details_stale || due) || !matches!(self.seen, Some(Seen::Ours(_))) {
            return;
        }
        if self.hands.cluster.machine().is_none() {
            self.machine_at = Some(Instant::now() + MACHINE);
            return;
        }
        self.machine_at = None;
        self.read_at = Some(Instant::now());
        match self.hands.domains.details(&self.identity).await {
            Ok(details) => {
                self.details_stale = false;
                self.guest.drift = self.drift(&details);
                self.guest.details = details;
            }
            // It went between two calls.
            Err(error) if error.is_not_found() => self.seen = None,
            Err(error) => {
                // What somebody has done to it is not known: nothing is started over that.
                self.look_at = Some(Instant::now() + LOOK_AGAIN);
                self.seen = Some(Seen::Unreachable(error.to_string()));
            }
        }
    }

    /// When the domain is to be read as a whole again, if nothing happens before.
    pub(super) fn check_at(&self) -> Option<Instant> {
        let there = matches!(self.seen, Some(Seen::Ours(_) | Seen::Existing(_)));
        there.then(|| self.read_at.unwrap_or_else(Instant::now) + CHECK)
    }

    /// Where the domain is not what was made of the spec.
    pub(in crate::vm) fn drift(&self, details: &Details) -> Drift {
        let (status, Some(Seen::Ours(found))) = (self.status(), &self.seen) else { return Drift::default() };
        let Some(host) = self.hands.cluster.machine() else { return Drift::default() };
        Drift::of(&status, &host, found.generation, details)
    }
}
