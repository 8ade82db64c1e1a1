//! The task of one VM: its queue, what it remembers, and the loop that decides and acts until there is nothing to do.

mod details;
mod input;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kubevmm_api::power::pending;
use kubevmm_api::vm::{DriftPolicy, LastStop, Release, StopReason, VirtualMachineStatus};
use kubevmm_api::{VirtualMachine, names};
use tokio::time::Instant;
use uuid::Uuid;

pub(super) use input::{Input, Queue, is_older};

use super::addresses::{self, Schedule};
use super::apply::api_unavailable;
use super::backoff::Backoff;
use super::cluster::{Cluster, name_of};
use super::decide::{Existing, Found, Phase, Seen, Step, View, needs_repair, next};
use super::domains::{Domains, Identity};
use super::memory::{Memory, Migrated, Trouble};
use super::news::news;
use super::prepare::{Makers, effective};
use super::status::{Facts, Guest, Own, own_part, render};
use crate::Error;
use crate::api::{is_conflict, is_not_found};
use crate::host::NotYet;
use crate::libvirt::{GuestRequest, StoppedDetail};

/// More steps than any path through the states takes; a bug must not spin.
const MAX_STEPS: usize = 20;
/// The pause before libvirt or the API server is asked again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// libvirt tells nobody of a change by its calls for single settings (`virsh setmaxmem --config`, …): so often the domain
/// is compared with what was made.
pub(super) const CHECK: Duration = Duration::from_secs(300);
/// The pause before the host's capabilities are asked for again.
const MACHINE: Duration = Duration::from_millis(200);
/// How long an end that was seen waits for the event that says why.
const END_EVENT: Duration = Duration::from_millis(500);

/// What all tasks share.
#[derive(Clone)]
pub(super) struct Hands {
    pub node: Arc<str>,
    pub cluster_id: Arc<str>,
    pub domains: Arc<dyn Domains>,
    pub cluster: Arc<dyn Cluster>,
    pub makers: Makers,
    pub released: Released,
}

impl Hands {
    /// Which domain is a VM's.
    pub(super) fn identity(&self, vm: &VirtualMachine) -> Identity {
        let (namespace, name) = name_of(vm);
        let uid = vm.metadata.uid.clone().unwrap_or_default();
        let existing = vm.spec.existing_domain.is_some();
        // The schema has checked the one, and the API server makes the other.
        let uuid = Uuid::parse_str(vm.spec.domain_uuid().unwrap_or(&uid)).unwrap_or_default();
        let known = vm.status.as_ref().and_then(|status| status.domain.as_ref()).filter(|_| existing);
        let name = known.map_or_else(|| names::domain(namespace, name), |domain| domain.name.clone());
        Identity { name, uuid, cluster: self.cluster_id.to_string(), uid, existing }
    }
}

/// The epochs that this host has given up, by uid: never started again, whatever a restored API server says.
#[derive(Clone, Default)]
pub(super) struct Released(Arc<Mutex<HashMap<String, i64>>>);

impl Released {
    fn highest(&self, uid: &str) -> i64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied().unwrap_or_default()
    }

    fn note(&self, uid: &str, epoch: i64) {
        let mut released = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = released.entry(uid.to_owned()).or_default();
        *highest = epoch.max(*highest);
    }

    fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Why a task ends.
pub(super) enum End {
    /// The VM is not this host's.
    Over,
    /// Its domain is only watched from now on.
    Observed(Arc<VirtualMachine>, Queue),
}

/// The task of one VM.
pub(super) struct Task {
    pub(super) hands: Hands,
    pub(super) vm: Arc<VirtualMachine>,
    pub(super) identity: Identity,
    queue: Queue,
    /// What libvirt has; `None` when it must be read.
    pub(super) seen: Option<Seen>,
    look_at: Option<Instant>,
    /// The API server must be asked whether the VM is still this host's.
    left: Option<Instant>,
    /// Whether the domain ran when it was last seen; `None` before the first look.
    was_active: Option<bool>,
    pub(super) memory: Memory,
    pub(super) own: Own,
    pub(super) guest: Guest,
    pub(super) details_stale: bool,
    /// When the domain was last read as a whole.
    read_at: Option<Instant>,
    /// When to ask again what the host is, without which nothing can be compared.
    machine_at: Option<Instant>,
    addresses: Schedule,
    asking: bool,
    /// The number of the run that is seen, to tell late answers.
    run: u64,
    pub(super) phase: Phase,
    /// The reason of the last wait that an Event was sent for.
    pub(super) last_waited_for: Option<&'static str>,
    writes: Backoff,
    renew_due: bool,
}

impl Task {
    pub(super) fn new(hands: Hands, vm: Arc<VirtualMachine>, queue: Queue) -> Self {
        let identity = hands.identity(&vm);
        let memory = Memory::new(hands.released.highest(&identity.uid));
        Self {
            hands,
            vm,
            identity,
            queue,
            seen: None,
            look_at: None,
            left: None,
            was_active: None,
            memory,
            own: Own::default(),
            guest: Guest::default(),
            details_stale: false,
            read_at: None,
            machine_at: None,
            addresses: Schedule::default(),
            asking: false,
            run: 0,
            phase: Phase::Scheduling,
            last_waited_for: None,
            writes: Backoff::new(Duration::from_secs(1), Duration::from_secs(5)),
            renew_due: false,
        }
    }

    /// Runs until the VM is not this host's any more, or only to be watched.
    pub(super) async fn run(mut self) -> End {
        loop {
            if self.left.is_some_and(|at| at <= Instant::now()) && self.look_for_vm().await.is_none() {
                return End::Over;
            }
            let Some(until) = self.settle().await else {
                let observed = self.vm.spec.observed().is_some();
                if !observed {
                    return End::Over;
                }
                if self.left.is_some() {
                    drop(self.queue.answers().send(Input::Left));
                }
                return End::Observed(self.vm, self.queue);
            };
            self.ask_addresses();
            // What was told of a VM that is as it was stays until it can be compared.
            let at_rest = matches!(self.phase, Phase::Running | Phase::Paused | Phase::Stopped);
            let wrote = if at_rest && self.machine_at.is_some() { Ok(()) } else { self.write_status().await };
            if wrote.is_err_and(|error| is_not_found(&error) || is_conflict(&error)) {
                self.left.get_or_insert_with(Instant::now);
            }
            self.renew_after_release().await;
            if !self.wait(until).await {
                return End::Over;
            }
        }
    }

    /// Decides and acts until there is nothing to do; returns when there will be. `None`: the task ends.
    async fn settle(&mut self) -> Option<Option<Instant>> {
        for _ in 0..MAX_STEPS {
            if self.left.is_some_and(|at| at <= Instant::now()) {
                return Some(None);
            }
            self.look().await;
            self.read_details().await;
            if self.seen.is_none() {
                // An event that came in the meantime made it old.
                continue;
            }
            let step = self.next_step();
            tracing::debug!(?step, "next step");
            match step {
                Step::Rest(phase, until) => {
                    if matches!(phase, Phase::Running | Phase::Paused) {
                        // A stop that is not wanted any more.
                        self.memory.stopping = None;
                    }
                    self.phase = phase;
                    if self.memory.repair_trouble.is_some() && !self.view(needs_repair) {
                        self.memory.repairs.reset();
                        self.memory.repair_trouble = None;
                    }
                    return Some(until);
                }
                Step::Leave => return None,
                step => self.act(step).await,
            }
        }
        tracing::error!("no end of steps: trying again after a pause");
        Some(Some(Instant::now() + LOOK_AGAIN))
    }

    /// Whether the domain may be started now, by what is known now.
    pub(super) fn may_start(&self) -> bool {
        self.left.is_none() && self.next_step() == Step::Start
    }

    /// Whether the API server must be asked first.
    pub(super) fn is_left(&self) -> bool {
        self.left.is_some()
    }

    /// The VM is not what it was: the API server must be asked.
    pub(super) fn note_left(&mut self) {
        self.left = Some(Instant::now());
    }

    pub(super) fn next_step(&self) -> Step {
        self.view(next)
    }

    /// Asks something of what is known now.
    fn view<T>(&self, ask: impl FnOnce(&View<'_>) -> T) -> T {
        let status = self.status();
        let session = self.hands.cluster.session();
        let unknown = Seen::Unreachable("libvirt has not been asked yet".into());
        ask(&View {
            vm: &self.vm,
            status: &status,
            node: &self.hands.node,
            session: session.as_deref(),
            seen: self.seen.as_ref().unwrap_or(&unknown),
            memory: &self.memory,
            reverts: self.vm.spec.drift_policy == DriftPolicy::Revert && self.is_to_be_reverted(),
            moved: &self.guest.drift.moved,
            now: Instant::now(),
        })
    }

    /// The status with what this task knows by itself.
    pub(super) fn status(&self) -> VirtualMachineStatus {
        self.own.over(&self.vm.status.clone().unwrap_or_default(), &now())
    }

    /// Reads what libvirt has, if that is not known, and notes what follows from a change.
    async fn look(&mut self) {
        if matches!(self.seen, Some(Seen::Existing(_))) && self.check_at().is_some_and(|at| at <= Instant::now()) {
            self.seen = None;
            self.memory.waiting = None;
        }
        if self.seen.is_some() && self.look_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        let seen = self.hands.domains.look(&self.identity).await;
        self.look_at = seen.is_err().then(|| Instant::now() + LOOK_AGAIN);
        let seen = seen.unwrap_or_else(|error| Seen::Unreachable(error.to_string()));
        let reachable = !matches!(seen, Seen::Unreachable(_));
        let active = seen.is_active();
        if let Seen::Ours(Found { name, .. }) | Seen::Existing(Existing { name, .. }) = &seen
            && *name != self.identity.name
        {
            self.identity.name.clone_from(name);
        }
        self.details_stale |= matches!(seen, Seen::Ours(_));
        if matches!(seen, Seen::Existing(_)) {
            self.read_at = Some(Instant::now());
        }
        self.seen = Some(seen);
        if !reachable {
            return;
        }
        let first = self.was_active.is_none();
        let told = || self.vm.status.as_ref().is_some_and(|status| status.is_active());
        let before = self.was_active.unwrap_or_else(told);
        self.was_active = Some(active);
        match (before, active) {
            (_, true) if first => self.note_run(),
            (false, true) => self.note_run(),
            (true, false) => self.note_end(first).await,
            _ => {}
        }
    }

    /// The domain runs, since now or since before this task.
    fn note_run(&mut self) {
        let now = Instant::now();
        self.run += 1;
        self.memory.running_since = Some(now);
        self.details_stale = true;
        let there = self.vm.status.as_ref().map(|status| status.interfaces.clone()).unwrap_or_default();
        let nics = self.nics();
        let known = nics.len() == there.len()
            && nics.iter().zip(&there).all(|(nic, known)| nic.mac_address == known.mac_address)
            && addresses::all_known(&there);
        self.guest.interfaces = if known { there } else { addresses::without_addresses(&nics) };
        if known || nics.is_empty() {
            self.addresses.stop();
        } else {
            self.addresses.restart(now);
        }
    }

    /// The domain has ended.
    async fn note_end(&mut self, nobody_watched: bool) {
        if !nobody_watched && self.memory.stopping.is_none() {
            self.wait_for_end_event().await;
        }
        let status = self.status();
        let request = pending(&self.vm.spec, &status).map(|request| request.id.clone());
        if self.memory.end.stopped == Some(StoppedDetail::Migrated) {
            // It may run on another host: the next start needs a word that was given after this.
            self.memory.migrated = Some(Migrated::of(status.placement.as_ref()));
        }
        let reason = self.memory.ended(request.as_deref(), Instant::now());
        let moves = self.vm.metadata.deletion_timestamp.is_none()
            && status.placement.as_ref().is_some_and(|placement| placement.release != Release::None);
        let request_id = if moves {
            // The VM goes on elsewhere, or later: the request that started it still counts.
            status.last_stop.and_then(|stop| stop.request_id)
        } else {
            status.last_power_request.map(|last| last.id)
        };
        let asked_to_leave = moves && reason == StopReason::Requested;
        let reason = if asked_to_leave { StopReason::Evicted } else { reason };
        self.own.last_stop = Some(LastStop { reason, time: now(), request_id });
        self.guest = Guest::default();
        self.addresses.stop();
        self.run += 1;
        tracing::info!(?reason, "the domain has stopped");
        let warning = !matches!(reason, StopReason::GuestShutdown | StopReason::Requested | StopReason::Evicted);
        self.event(warning, "Stop", "Stopped", format!("the domain has stopped: {reason:?}"));
    }

    /// libvirt says that a domain is off before its event says why.
    async fn wait_for_end_event(&mut self) {
        let end = Instant::now() + END_EVENT;
        while !self.memory.end.is_known() {
            match tokio::time::timeout_at(end, self.queue.recv()).await {
                Ok(Some(input)) => self.take(input),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Writes what the API server must know before the next action, whatever happened to earlier writes. Nothing is
    /// written before it is known that the VM is still this host's; then this is an error.
    pub(super) async fn persist(&mut self) -> Result<(), NotYet> {
        if self.left.is_some() {
            return Err(api_unavailable("it has not said yet whether the VM is still on this host"));
        }
        self.writes.reset();
        self.write_status().await.map_err(api_unavailable)
    }

    /// Waits for the next thing to do. `false`: nobody needs this task any more.
    async fn wait(&mut self, until: Option<Instant>) -> bool {
        let now = Instant::now();
        let times = [
            self.machine_at,
            until,
            self.look_at,
            self.left,
            self.addresses_due(),
            self.check_at(),
            self.writes.wait(now),
        ];
        let wake = times.into_iter().flatten().min();
        let Some(inputs) = self.queue.wait(wake).await else { return false };
        inputs.into_iter().for_each(|input| self.take(input));
        true
    }

    /// Asks the API server whether the VM is still this host's. `None`: it is not, or it is gone; its domain, if there
    /// is one, stays as it is.
    async fn look_for_vm(&mut self) -> Option<()> {
        let (namespace, name) = name_of(&self.vm);
        match self.hands.cluster.vm(namespace, name).await {
            Ok(Some(vm)) if vm.metadata.uid == self.vm.metadata.uid => {
                self.adopt(Arc::new(vm), true);
                Some(())
            }
            Ok(_) => {
                self.hands.released.forget(&self.identity.uid);
                tracing::info!("the VM is gone");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look whether the VM is still on this host");
                self.left = Some(Instant::now() + LOOK_AGAIN);
                Some(())
            }
        }
    }

    /// Writes the status if it differs from what is there.
    pub(super) async fn write_status(&mut self) -> Result<(), Error> {
        if self.writes.wait(Instant::now()).is_some() || self.left.is_some() {
            return Ok(());
        }
        let Some(seen) = self.seen.as_ref() else { return Ok(()) };
        let wanted = effective(&*self.hands.cluster, &self.vm);
        let status = render(&Facts {
            vm: &self.vm,
            identity: &self.identity,
            own: &self.own,
            seen,
            phase: &self.phase,
            trouble: self.memory.repair_trouble.as_ref(),
            guest: &self.guest,
            wanted: &wanted,
            now: &now(),
        });
        if self.vm.status.as_ref().is_some_and(|there| own_part(there) == status) {
            self.own.written();
            return Ok(());
        }
        match self.hands.cluster.write_status(&self.vm, &status).await {
            Ok(vm) => {
                self.writes.reset();
                self.own.written();
                for news in news(&self.vm.status.clone().unwrap_or_default(), &status) {
                    self.event(news.warning, &news.action, &news.reason, news.note);
                }
                self.adopt(Arc::new(vm), true);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "cannot write the status; trying again");
                self.writes.fail(Instant::now());
                Err(error)
            }
        }
    }

    /// A release that has been reported is followed by a renewal of the Lease: if the API server's memory goes back to
    /// before it, it goes back to before the renewal too, which ends the session.
    async fn renew_after_release(&mut self) {
        if self.renew_due && self.own.released_epoch.is_none() {
            self.renew_due = false;
            if let Err(error) = self.hands.cluster.renew().await {
                tracing::warn!(%error, "cannot renew the Lease after a release");
            }
        }
    }

    pub(super) fn note_released(&mut self, epoch: i64) {
        self.memory.released = epoch.max(self.memory.released);
        self.hands.released.note(&self.identity.uid, epoch);
        self.own.released_epoch = Some(epoch);
        self.renew_due = true;
    }

    /// When to ask for addresses; `None` while that cannot be done: a domain that is off, or that libvirt does not show,
    /// has none.
    fn addresses_due(&self) -> Option<Instant> {
        let active = self.seen.as_ref().is_some_and(Seen::is_active);
        self.addresses.due().filter(|_| active && !self.asking)
    }

    /// Starts to ask for addresses when that is due.
    fn ask_addresses(&mut self) {
        if self.addresses_due().is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.asking = true;
        let (domains, identity, nics) = (Arc::clone(&self.hands.domains), self.identity.clone(), self.nics());
        let (agent, run, answers) = (self.guest.details.agent_connected, self.run, self.queue.answers());
        tokio::spawn(async move {
            let nics = addresses::without_addresses(&nics);
            let found = addresses::ask(&*domains, &identity, nics, agent).await;
            drop(answers.send(Input::Addresses(run, found)));
        });
    }

    fn nics(&self) -> Vec<kubevmm_api::effective::EffectiveNetwork> {
        self.status().effective.map(|effective| effective.networks).unwrap_or_default()
    }

    /// Asks the guest to shut down, as a job: an agent may take long to answer.
    pub(super) fn ask_guest(&self, how: GuestRequest) {
        let (domains, identity) = (Arc::clone(&self.hands.domains), self.identity.clone());
        let answers = self.queue.answers();
        tokio::spawn(async move {
            let result = domains.shutdown(&identity, how).await;
            drop(answers.send(Input::Asked(how, result)));
        });
    }

    pub(super) fn event(&self, warning: bool, action: &str, reason: &str, note: String) {
        self.hands.cluster.event(&self.vm, warning, action, reason, note);
    }

    /// Notes that an action failed, to be tried again with growing pauses.
    pub(super) fn note_trouble(&mut self, reason: &'static str, error: &dyn std::fmt::Display) {
        tracing::warn!(reason, %error, "an action failed; trying again");
        self.memory.trouble = Some(Trouble { reason, message: error.to_string() });
    }
}

/// The time, in the whole seconds that Kubernetes writes.
pub(super) fn now() -> Time {
    let seconds = Timestamp::now().as_second();
    Time(Timestamp::from_second(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::decide::Found;
    use crate::vm::fakes::{Fake, vm};
    use kubevmm_api::vm::DomainState;
    use tokio::sync::mpsc;

    fn task() -> Task {
        let (_, inbox) = mpsc::unbounded_channel();
        Task::new(Fake::default().hands(), Arc::new(vm("{memory: {size: 1Gi}}", 1)), Queue::new(inbox))
    }

    #[tokio::test]
    async fn addresses_that_cannot_be_asked_for_wake_nobody() {
        let mut task = task();
        task.addresses.restart(Instant::now());
        let found = |state| Seen::Ours(Found::of(1, 1, state));
        task.seen = Some(Seen::Unreachable("libvirt is away".into()));
        assert_eq!(task.addresses_due(), None);
        task.seen = Some(found(DomainState::Shutoff));
        assert_eq!(task.addresses_due(), None);
        task.seen = Some(found(DomainState::Running));
        assert!(task.addresses_due().is_some());
        task.asking = true;
        assert_eq!(task.addresses_due(), None);
    }
}
