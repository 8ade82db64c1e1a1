//! What to do next with a VM: a pure function of what is, what should be, and what this task remembers.

use std::time::Duration;

use kubevmm_analyser::mark::Mark;
use kubevmm_api::condition::{self, HOST_RELEASED, SYNCED};
use kubevmm_api::power::{pending, should_run_while};
use kubevmm_api::vm::{
    DomainState, PlacementStatus, PowerAction, PowerResult, Release, RunStrategy, VirtualMachineSpec,
    VirtualMachineStatus,
};
use kubevmm_api::{FINALIZER, VirtualMachine};
use tokio::time::Instant;

use super::memory::{Memory, Trouble};
use crate::host::NotYet;

/// A guest that has not heard the first request (it was booting) is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What libvirt has under the name and UUID of the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// libvirt cannot be reached, and why.
    Unreachable(String),
    /// No domain.
    Absent,
    /// A domain that is not this VM's, and what it is.
    Foreign(String),
    /// The domain that this VM observes or takes over: it does not bear its mark.
    Existing(Existing),
    /// This VM's domain.
    Ours(Found),
}

/// A domain of this VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Epoch in its mark.
    pub epoch: i64,
    /// Generation in its mark.
    pub generation: i64,
    /// State.
    pub state: DomainState,
    /// libvirt's name: of one that was taken over, the name that it had.
    pub name: String,
    /// It is defined, and not only running.
    pub defined: bool,
    /// All of it bears the mark: what runs and its definition.
    pub marked: bool,
    /// libvirt starts it with the host. Asked of one that was taken over.
    pub autostart: bool,
}

#[cfg(test)]
impl Found {
    /// One that is as it shall be.
    pub(super) fn of(epoch: i64, generation: i64, state: DomainState) -> Self {
        Self { epoch, generation, state, name: "shop.web".into(), defined: true, marked: true, autostart: false }
    }
}

/// A domain that was there before its VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Existing {
    /// State.
    pub state: DomainState,
    /// libvirt's name.
    pub name: String,
    /// libvirt starts it with the host.
    pub autostart: bool,
    /// It is defined, and not only running.
    pub defined: bool,
    /// The mark of another VM, perhaps one that is no more.
    pub mark: Option<Mark>,
}

impl Seen {
    /// The state of the domain, if it is this VM's or shall become it.
    pub(super) fn state(&self) -> Option<DomainState> {
        match self {
            Self::Ours(Found { state, .. }) | Self::Existing(Existing { state, .. }) => Some(*state),
            Self::Unreachable(_) | Self::Absent | Self::Foreign(_) => None,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.state().is_some_and(DomainState::is_active)
    }
}

/// The next action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until something changes or the time has come.
    Rest(Phase, Option<Instant>),
    /// The VM is not this host's any more: the task ends, and leaves everything as it is.
    Leave,
    /// Note in the status that the power request has been dealt with.
    Answer(PowerResult),
    /// Make everything real that the domain needs, define it and start it.
    Start,
    /// Ask the guest to shut down.
    AskGuest,
    /// End QEMU.
    Destroy,
    /// Remove the domain's definition and what belongs to it alone.
    Undefine,
    /// Mark a domain that was there before, as it is, for this VM's.
    TakeOver,
    /// Take the mark off, and leave the domain as it is.
    GiveBack,
    /// Mark all of it anew.
    Mark,
    /// Make the definition as the spec says, that somebody else has changed.
    Revert,
    /// Note in the status that this epoch has been given up.
    ReportReleased,
    /// Note in the status that the domain of this epoch is off, and is not started again.
    ReportHalted,
    /// Remove what is left of a deleted VM, and say so.
    ReportGone,
}

/// Where a VM stands, for its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The domain runs.
    Running,
    /// The domain is there, its CPUs stand.
    Paused,
    /// It is being started.
    Starting,
    /// The next start waits after a failure or a stop; the failure, if there was one.
    BackingOff(Option<Trouble>),
    /// It should run, and waits for its placement.
    Scheduling,
    /// It should run, and waits for something on this host.
    Waiting(NotYet),
    /// It is being stopped.
    Stopping,
    /// An action failed and is tried again.
    Failing(Trouble),
    /// It is off, as it should be.
    Stopped,
    /// The object is deleted, and nothing is left here.
    Gone,
    /// It was given up for another host.
    Released,
    /// Its domain has a higher epoch than its placement.
    HeldElsewhere(i64),
    /// libvirt cannot be reached.
    Unreachable(String),
}

/// What the decision is made from.
pub(super) struct View<'a> {
    pub vm: &'a VirtualMachine,
    /// The status, with what this task has not written yet.
    pub status: &'a VirtualMachineStatus,
    /// Name of this node.
    pub node: &'a str,
    /// The session of now.
    pub session: Option<&'a str>,
    pub seen: &'a Seen,
    pub memory: &'a Memory,
    /// Somebody has changed the definition, and it shall be made as the spec says.
    pub reverts: bool,
    /// The disks whose bytes somebody has moved elsewhere.
    pub moved: &'a [String],
    pub now: Instant,
}

/// The next action.
pub(super) fn next(view: &View<'_>) -> Step {
    let View { vm, status, memory, .. } = *view;
    if status.node_name.as_deref() != Some(view.node) {
        return Step::Leave;
    }
    let placement = status.placement.clone().unwrap_or_default();
    match view.seen {
        Seen::Unreachable(why) => return Step::Rest(Phase::Unreachable(why.clone()), None),
        // It is only watched from now on, also if it is deleted at once.
        Seen::Ours(found) if vm.spec.observed().is_some() => {
            return repair(view, Step::GiveBack).unwrap_or_else(|| rest(view, found.state));
        }
        _ if vm.spec.observed().is_some() => return Step::Leave,
        Seen::Ours(found) if found.epoch > placement.epoch => {
            return Step::Rest(Phase::HeldElsewhere(found.epoch), None);
        }
        _ => {}
    }
    if vm.metadata.deletion_timestamp.is_some() {
        let gone = condition::is_true(&status.conditions, HOST_RELEASED);
        return leave_host(view, if gone { Step::Rest(Phase::Gone, None) } else { Step::ReportGone });
    }
    if placement.release == Release::Stop {
        if let Seen::Ours(found) = view.seen
            && !view.moved.is_empty()
        {
            // The next host would start it without what was written since.
            return rest(view, found.state);
        }
        let released = status.released_epoch == Some(placement.epoch);
        return leave_host(view, if released { Step::Rest(Phase::Released, None) } else { Step::ReportReleased });
    }
    if let Seen::Existing(existing) = view.seen {
        return take_over(view, existing);
    }
    if placement.release == Release::Halt
        && let Some(step) = halt(view, &placement)
    {
        return step;
    }
    if let Some(result) = answer(&vm.spec, status, view.seen.is_active(), memory) {
        return Step::Answer(result);
    }
    let request = pending(&vm.spec, status);
    if view.seen.is_active() && !view.moved.is_empty() && request.is_some_and(|it| it.action == PowerAction::Restart) {
        // It could not be started again.
        return Step::Answer(PowerResult::Failed);
    }
    let restart = request.is_some_and(|request| request.action == PowerAction::Restart);
    let force = request.is_some_and(|request| request.force && request.action != PowerAction::Start);
    let wanted = should_run_while(&vm.spec, status, view.seen.is_active());
    match view.seen {
        Seen::Ours(found) if found.state.is_active() => {
            if !wanted || restart {
                stop(view, force)
            } else {
                mend(view, found).unwrap_or_else(|| rest(view, found.state))
            }
        }
        Seen::Absent if is_unknown(view) => never_there(view),
        Seen::Ours(found) if !wanted => mend(view, found).unwrap_or_else(|| rest(view, found.state)),
        _ if !wanted => Step::Rest(Phase::Stopped, None),
        Seen::Foreign(what) => Step::Rest(Phase::Waiting(NotYet::on_change("NameTaken", what.clone())), None),
        _ => start(view, &placement),
    }
}

/// The domain is as it shall be.
fn rest(view: &View<'_>, state: DomainState) -> Step {
    let phase = match state {
        DomainState::Paused | DomainState::Suspended => Phase::Paused,
        state if state.is_active() => Phase::Running,
        _ => Phase::Stopped,
    };
    Step::Rest(phase, view.memory.repairs.wait(view.now))
}

/// Whether something of the domain is to be mended.
pub(super) fn needs_repair(view: &View<'_>) -> bool {
    let Seen::Ours(found) = view.seen else { return false };
    is_unsettled(view, found) || view.reverts || view.vm.spec.observed().is_some()
}

/// What shall be mended of the domain, while it is not stopped.
fn mend(view: &View<'_>, found: &Found) -> Option<Step> {
    if is_unsettled(view, found) {
        return repair(view, Step::Mark);
    }
    view.reverts.then(|| repair(view, Step::Revert)).flatten()
}

/// Not all of it is marked, or libvirt starts it by itself though its owner has agreed to the contrary.
fn is_unsettled(view: &View<'_>, found: &Found) -> bool {
    !found.marked || (found.autostart && may_take_autostart(view.vm))
}

/// The step, unless it failed a moment ago. What runs is not held up by that.
fn repair(view: &View<'_>, step: Step) -> Option<Step> {
    view.memory.repairs.wait(view.now).is_none().then_some(step)
}

/// The domain that was to be taken over has never been there.
fn is_unknown(view: &View<'_>) -> bool {
    let missed = condition::find(&view.status.conditions, SYNCED).is_some_and(|it| it.reason == "DomainMissing");
    let placed = view.status.placement.as_ref().is_some_and(|placement| placement.epoch > 0);
    let was_there = missed || placed || view.status.domain.is_some() || view.status.last_stop.is_some();
    view.vm.spec.existing_domain.is_some() && !was_there
}

fn never_there(view: &View<'_>) -> Step {
    let uuid = view.vm.spec.domain_uuid().unwrap_or_default();
    let message = format!(
        "spec.existingDomain.uuid: the host has no domain {uuid}: `virtctl domains` lists what the hosts have; delete this \
         VirtualMachine and import the right one"
    );
    Step::Rest(Phase::Waiting(NotYet::on_change("DomainMissing", message)), None)
}

fn take_over(view: &View<'_>, existing: &Existing) -> Step {
    let finalizers = view.vm.metadata.finalizers.as_deref().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        // A VM that is deleted at once must not leave its mark.
        return Step::Rest(Phase::Scheduling, None);
    }
    if existing.autostart && !may_take_autostart(view.vm) {
        let message = format!(
            "libvirt starts the domain {} with the host, which only an unmanaged one may: set \
             spec.existingDomain.disableAutostart to true, or spec.management to Observe",
            existing.name
        );
        return Step::Rest(Phase::Waiting(NotYet::on_change("AutostartEnabled", message)), None);
    }
    let active = existing.state.is_active();
    let asked = pending(&view.vm.spec, view.status).is_some_and(|request| request.action != PowerAction::Start);
    if active && (asked || !should_run_while(&view.vm.spec, view.status, true)) {
        let message = format!(
            "the domain {} runs, and would be stopped by what the spec says: set spec.runStrategy to Manual or Always and \
             take spec.powerRequest away, or stop it yourself",
            existing.name
        );
        return Step::Rest(Phase::Waiting(NotYet::on_change("WouldStop", message)), None);
    }
    waits(view).unwrap_or(Step::TakeOver)
}

/// Whether libvirt's autostart may be taken from a domain that has it.
pub(super) fn may_take_autostart(vm: &VirtualMachine) -> bool {
    vm.spec.existing_domain.as_ref().is_some_and(|existing| existing.disable_autostart)
}

/// The pause that what is needed asks for.
fn waits(view: &View<'_>) -> Option<Step> {
    let waiting = view.memory.waiting.as_ref().filter(|waiting| waiting.until.is_none_or(|until| until > view.now))?;
    Some(Step::Rest(Phase::Waiting(waiting.not_yet.clone()), waiting.until))
}

fn start(view: &View<'_>, placement: &PlacementStatus) -> Step {
    let memory = view.memory;
    let confirmed = placement.confirmed.is_some() && placement.confirmed.as_deref() == view.session;
    let waits_for_host = placement.pod_name.is_none() || placement.release != Release::None;
    if waits_for_host || !confirmed || memory.migrated.is_some() || placement.epoch <= memory.released {
        return Step::Rest(Phase::Scheduling, None);
    }
    if let Some(until) = memory.starts.wait(view.now) {
        return Step::Rest(Phase::BackingOff(memory.trouble.clone()), Some(until));
    }
    waits(view).unwrap_or(Step::Start)
}

/// Stop, and say so. What is off is that of this VM still: its power requests are answered.
fn halt(view: &View<'_>, placement: &PlacementStatus) -> Option<Step> {
    match view.seen {
        // It could not be started again.
        Seen::Ours(found) if found.state.is_active() && !view.moved.is_empty() => Some(rest(view, found.state)),
        Seen::Ours(found) if found.state.is_active() => Some(stop(view, is_stop_forced(view))),
        _ if view.status.released_epoch != Some(placement.epoch) => Some(Step::ReportHalted),
        _ => None,
    }
}

/// Stop, undefine, then `then`.
fn leave_host(view: &View<'_>, then: Step) -> Step {
    match view.seen {
        Seen::Ours(found) if found.state.is_active() => stop(view, is_stop_forced(view)),
        Seen::Ours(_) => tried_again(view).unwrap_or(Step::Undefine),
        // What is not ours stays.
        _ => tried_again(view).unwrap_or(then),
    }
}

/// The power request that waits does not give the guest its time.
fn is_stop_forced(view: &View<'_>) -> bool {
    pending(&view.vm.spec, view.status).is_some_and(|request| request.force && request.action == PowerAction::Stop)
}

fn stop(view: &View<'_>, force: bool) -> Step {
    if let Some(rest) = tried_again(view) {
        return rest;
    }
    let grace = Duration::from_secs(u64::try_from(view.vm.spec.termination_grace_period_seconds).unwrap_or_default());
    match view.memory.stopping {
        _ if force || grace.is_zero() => Step::Destroy,
        None => Step::AskGuest,
        Some(stopping) => {
            let (end, again) = (stopping.since + grace, stopping.asked + ASK_AGAIN);
            if view.now >= end {
                Step::Destroy
            } else if view.now >= again {
                Step::AskGuest
            } else {
                Step::Rest(Phase::Stopping, Some(end.min(again)))
            }
        }
    }
}

/// The pause after an attempt that failed.
fn tried_again(view: &View<'_>) -> Option<Step> {
    let (until, trouble) = (view.memory.retries.wait(view.now)?, view.memory.trouble.clone()?);
    Some(Step::Rest(Phase::Failing(trouble), Some(until)))
}

/// The answer to the power request that is pending, once it can be given.
///
/// A Restart is answered when the domain is off, before it is started again: a task that is killed in between finds the
/// answer, and does not stop the new domain for the old request.
fn answer(
    spec: &VirtualMachineSpec,
    status: &VirtualMachineStatus,
    active: bool,
    memory: &Memory,
) -> Option<PowerResult> {
    let request = pending(spec, status)?;
    let acted = memory.acted_for.as_deref() == Some(request.id.as_str());
    let done = if acted { PowerResult::Completed } else { PowerResult::AlreadyDone };
    match (spec.run_strategy, request.action, active) {
        (RunStrategy::Halted, PowerAction::Start | PowerAction::Restart, _) => Some(PowerResult::Failed),
        (RunStrategy::Always, PowerAction::Stop, _) => Some(PowerResult::Failed),
        (_, PowerAction::Stop, false) | (_, PowerAction::Start, true) => Some(done),
        (_, PowerAction::Restart, false) => Some(PowerResult::Completed),
        (_, PowerAction::Stop | PowerAction::Restart, true) | (_, PowerAction::Start, false) => None,
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
