//! What a VM's task remembers between its steps, and what follows from the end of a domain.

use std::time::Duration;

use kubevmm_api::vm::{PlacementStatus, StopReason};
use tokio::time::Instant;

use super::backoff::Backoff;
use crate::host::NotYet;
use crate::libvirt::{ShutdownDetail, StoppedDetail};

/// A run that is shorter counts as a failure of the start: a guest that shuts down at once must not spin the host.
const SHORT_RUN: Duration = Duration::from_secs(10);
/// After a run this long, earlier failures are forgotten.
const GOOD_RUN: Duration = Duration::from_secs(600);
/// The pause after the host asked QEMU to end: the host may be going down.
const AFTER_HOST_REQUEST: Duration = Duration::from_secs(5);

/// A stop under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopping {
    /// When the guest was first asked.
    pub since: Instant,
    /// When it was last asked.
    pub asked: Instant,
}

/// A start that waits for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// For what.
    pub not_yet: NotYet,
    /// When to try again, if by time.
    pub until: Option<Instant>,
}

/// An action that failed and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// A word for programs.
    pub reason: &'static str,
    /// The error.
    pub message: String,
}

/// What a task remembers between its steps. All of it can be lost: after a restart it is read back or starts anew.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// The stop that is under way.
    pub stopping: Option<Stopping>,
    /// What the next start waits for.
    pub waiting: Option<Waiting>,
    /// Between starts: 1 s to 5 min.
    pub starts: Backoff,
    /// Between attempts to stop or undefine: 1 s to 30 s.
    pub retries: Backoff,
    /// Between attempts to get what a start needs: 1 s to 30 s.
    pub needs: Backoff,
    /// The last failure of what is tried again.
    pub trouble: Option<Trouble>,
    /// The highest epoch that this host has given up.
    pub released: i64,
    /// The power request that this task has acted for.
    pub acted_for: Option<String>,
    /// How the domain ended, as far as events have told.
    pub end: End,
    /// When the running domain was started, or first seen.
    pub running_since: Option<Instant>,
    /// Between attempts to mark a domain, to give it back, or to make its definition anew: 1 s to 30 s.
    pub repairs: Backoff,
    /// Why the last of these failed.
    pub repair_trouble: Option<Trouble>,
    /// The domain was migrated away, and may run on another host: nothing is started before a word that came after that.
    pub migrated: Option<Migrated>,
    /// Where the definition was not as the spec says though it had just been made so: libvirt will have it otherwise.
    pub reverted: Option<Vec<String>>,
}

impl Memory {
    pub(super) fn new(released: i64) -> Self {
        Self {
            stopping: None,
            waiting: None,
            starts: Backoff::new(Duration::from_secs(1), Duration::from_secs(300)),
            retries: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            needs: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            trouble: None,
            released,
            acted_for: None,
            end: End::default(),
            running_since: None,
            repairs: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            repair_trouble: None,
            migrated: None,
            reverted: None,
        }
    }

    /// The domain has ended: what follows for the next start. Returns why it ended.
    pub(super) fn ended(&mut self, pending: Option<&str>, now: Instant) -> StopReason {
        let requested = self.stopping.take().is_some();
        let reason = std::mem::take(&mut self.end).reason(requested);
        let ran = self.running_since.take().map_or(Duration::MAX, |since| now - since);
        if ran >= GOOD_RUN {
            self.starts.reset();
        }
        match reason {
            StopReason::Requested | StopReason::Evicted => {
                self.starts.reset();
                self.acted_for = pending.map(str::to_owned);
            }
            StopReason::Crashed => self.starts.fail(now),
            _ if ran < SHORT_RUN => self.starts.fail(now),
            StopReason::HostRequest => self.starts.hold(now, AFTER_HOST_REQUEST),
            StopReason::GuestShutdown | StopReason::Destroyed | StopReason::Unknown => {}
        }
        reason
    }
}

/// What the placement said when the domain was migrated away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Migrated {
    /// A start was confirmed.
    pub confirmed: bool,
    /// Epoch of the placement.
    pub epoch: i64,
}

impl Migrated {
    pub(super) fn of(placement: Option<&PlacementStatus>) -> Self {
        Self {
            confirmed: placement.is_some_and(|placement| placement.confirmed.is_some()),
            epoch: placement.map_or(0, |placement| placement.epoch),
        }
    }

    /// Whether this placement was given after it: the word was taken back, or there was none and there is one, or it is
    /// another placement.
    pub(super) fn is_before(self, placement: Option<&PlacementStatus>) -> bool {
        let now = Self::of(placement);
        now.epoch > self.epoch || now.confirmed != self.confirmed
    }
}

/// How a domain ended, from the details of libvirt's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// Who asked QEMU to end.
    pub shutdown: Option<ShutdownDetail>,
    /// Why QEMU is gone.
    pub stopped: Option<StoppedDetail>,
    /// The guest's kernel panicked.
    pub crashed: bool,
}

impl End {
    /// Why it ended. `requested`: this task was stopping it.
    pub(super) fn reason(self, requested: bool) -> StopReason {
        match (requested, self.stopped, self.shutdown) {
            (true, _, _) => StopReason::Requested,
            _ if self.crashed => StopReason::Crashed,
            // QEMU's monitor closed without a word: it was killed, or it crashed.
            (_, Some(StoppedDetail::Crashed | StoppedDetail::Failed), _) => StopReason::Crashed,
            (_, Some(StoppedDetail::Shutdown) | None, Some(ShutdownDetail::Guest)) => StopReason::GuestShutdown,
            (_, Some(StoppedDetail::Shutdown) | None, Some(ShutdownDetail::Host)) => StopReason::HostRequest,
            // libvirt ends QEMU itself after `virsh save` and its kin: somebody else's word as well.
            (
                _,
                Some(
                    StoppedDetail::Destroyed
                    | StoppedDetail::Saved
                    | StoppedDetail::Migrated
                    | StoppedDetail::FromSnapshot,
                ),
                _,
            ) => StopReason::Destroyed,
            _ => StopReason::Unknown,
        }
    }

    /// Whether libvirt has said that QEMU is gone.
    pub(super) fn is_known(self) -> bool {
        self.stopped.is_some()
    }
}
