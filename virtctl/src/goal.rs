//! How far a VM is from the state that a person waits for. Pure.

use kubevmm_api::condition::{self, DISKS_READY, READY, SCHEDULED, SYNCED};
use kubevmm_api::power::should_run;
use kubevmm_api::vm::{PowerResult, RunStrategy};
use kubevmm_api::{VirtualMachine, VirtualMachineStatus};

use crate::import::adopt::not_liftable;

/// The state that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// `Ready` is True.
    Running,
    /// As Running, and an address is known when the VM has a network.
    Reachable,
    /// No QEMU process.
    Stopped,
    /// What the domain of an observed VM is made of is told, or why that cannot be.
    Known,
    /// The domain that was there before its VM has been taken over.
    Managed,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    /// The state.
    pub(crate) state: State,
    /// Generation of the object that the status must answer.
    pub(crate) generation: i64,
    /// Power request that must have been answered.
    pub(crate) request: Option<String>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There.
    Reached,
    /// Not yet, and why.
    Waiting(String),
    /// It will not get there by waiting, and why.
    Failed(String),
}

/// Measures.
pub(crate) fn progress(goal: &Goal, vm: &VirtualMachine) -> Progress {
    let unknown = VirtualMachineStatus::default();
    let status = vm.status.as_ref().unwrap_or(&unknown);
    let wants_to_run = should_run(&vm.spec, status);
    if vm.metadata.deletion_timestamp.is_some() {
        return Progress::Failed("it is being deleted".into());
    }
    match goal.state {
        State::Known => return known(goal, vm, status),
        State::Managed => return managed(goal, vm, status),
        State::Running | State::Reachable | State::Stopped => {}
    }
    if let Some(id) = &goal.request {
        let last = status.last_power_request.as_ref();
        let answered = last.is_some_and(|last| &last.id == id);
        let asked = vm.spec.power_request.as_ref().is_some_and(|request| &request.id == id);
        if let Some(last) = last.filter(|last| answered && last.result == PowerResult::Failed) {
            return Progress::Failed(format!("the power request {:?} failed: {}", last.action, why(vm)));
        }
        if !asked && !answered {
            return Progress::Failed("another power request has replaced this one".into());
        }
        if !answered {
            return Progress::Waiting(unless_obstructed(vm, "the power request is not answered yet"));
        }
    }
    match goal.state {
        State::Running | State::Reachable if vm.spec.run_strategy == RunStrategy::Halted => {
            return Progress::Failed("spec.runStrategy has been set to Halted meanwhile".into());
        }
        State::Running | State::Reachable if !wants_to_run => {
            let reason = status.last_stop.as_ref().map_or("unknown".into(), |stop| format!("{:?}", stop.reason));
            return Progress::Failed(format!("it has stopped again: {reason}"));
        }
        State::Stopped if wants_to_run => {
            return Progress::Failed("it has been asked to start meanwhile".into());
        }
        _ => {}
    }
    if status.observed_generation.unwrap_or(0) < goal.generation {
        return Progress::Waiting(unless_obstructed(vm, "the change is not seen yet"));
    }
    let ready = condition::find(&status.conditions, READY).map(|c| c.status.as_str());
    let active = status.is_active();
    match goal.state {
        State::Running if ready == Some("True") => Progress::Reached,
        State::Reachable if ready == Some("True") => {
            let addressed = status.interfaces.iter().any(|nic| !nic.addresses.is_empty());
            if vm.spec.networks.is_empty() || addressed {
                Progress::Reached
            } else {
                Progress::Waiting("it runs; the guest has no address yet".into())
            }
        }
        // Ready is Unknown while the host is lost: what is reported of the domain is then no longer known.
        State::Stopped if !active && !matches!(ready, Some("True" | "Unknown")) => Progress::Reached,
        State::Stopped if active => Progress::Waiting(unless_obstructed(vm, "the guest has not ended yet")),
        _ => Progress::Waiting(why(vm)),
    }
}

fn known(goal: &Goal, vm: &VirtualMachine, status: &VirtualMachineStatus) -> Progress {
    let is_current = status.observed_generation.unwrap_or(0) >= goal.generation;
    let missing = condition::find(&status.conditions, READY).filter(|ready| ready.reason == "DomainMissing");
    match missing {
        Some(ready) if is_current => Progress::Failed(ready.message.clone()),
        _ if is_current && (status.effective.is_some() || not_liftable(status).is_some()) => Progress::Reached,
        _ => Progress::Waiting(unless_obstructed(vm, "what its domain is made of is not told yet")),
    }
}

/// Reasons of the condition Synced of a domain that is not taken over before somebody changes something.
const NOT_BEFORE_A_CHANGE: [&str; 5] = ["AutostartEnabled", "WouldStop", "SpecIncomplete", "NotLiftable", "NameTaken"];

fn managed(goal: &Goal, vm: &VirtualMachine, status: &VirtualMachineStatus) -> Progress {
    if vm.spec.observed().is_some() {
        return Progress::Failed("spec.management has been set to Observe meanwhile".into());
    }
    let is_current = status.observed_generation.unwrap_or(0) >= goal.generation;
    let held =
        condition::find(&status.conditions, SYNCED).filter(|it| NOT_BEFORE_A_CHANGE.contains(&it.reason.as_str()));
    if let Some(held) = held.filter(|_| is_current) {
        return Progress::Failed(format!("it is not taken over: {} ({})", held.message, held.reason));
    }
    // The mark has a generation, and nothing else does.
    match is_current && status.domain.as_ref().is_some_and(|domain| domain.generation.is_some()) {
        true => Progress::Reached,
        false => Progress::Waiting(unless_obstructed(vm, "it is not taken over yet")),
    }
}

/// Why a VM is not where it should be, when no condition tells: the state and `otherwise`.
fn unless_obstructed(vm: &VirtualMachine, otherwise: &str) -> String {
    let status = vm.status.as_ref();
    match status.filter(|status| obstacle(status).is_none() && !status.conditions.is_empty()) {
        Some(status) => format!("{}: {otherwise}", status.printable_status.as_deref().unwrap_or("Pending")),
        None => why(vm),
    }
}

/// The state, and the condition that stands in the way: reason and message.
pub(crate) fn why(vm: &VirtualMachine) -> String {
    let Some(status) = vm.status.as_ref() else { return NOBODY.into() };
    let state = status.printable_status.as_deref().unwrap_or("Pending");
    match obstacle(status) {
        Some(c) if c.message.is_empty() => format!("{state} ({}={} {})", c.type_, c.status, c.reason),
        Some(c) => format!("{state}: {} ({}={} {})", c.message, c.type_, c.status, c.reason),
        None if status.conditions.is_empty() => format!("{state}: {NOBODY}"),
        None => state.into(),
    }
}

/// The first condition, in the order in which they are reached, that is not True.
pub(crate) fn obstacle(
    status: &VirtualMachineStatus,
) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    [DISKS_READY, SCHEDULED, READY]
        .into_iter()
        .filter_map(|kind| condition::find(&status.conditions, kind))
        .find(|condition| condition.status != "True")
}

const NOBODY: &str = "nothing is reported yet; if it stays so: kubectl -n kubevmm-system get pods";

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(spec: &str, status: &str) -> VirtualMachine {
        let mut vm: VirtualMachine = serde_yaml_ng::from_str(&format!(
            "apiVersion: kubevmm.io/v1beta1\nkind: VirtualMachine\nmetadata: {{name: web, generation: 2}}\nspec: {spec}\n"
        ))
        .unwrap();
        vm.status = Some(serde_yaml_ng::from_str(status).unwrap());
        vm
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> String {
        format!(
            "{{type: {kind}, status: '{status}', reason: {reason}, message: '{message}', \
             lastTransitionTime: '2026-01-01T00:00:00Z'}}"
        )
    }

    fn status(generation: i64, conditions: &[String], rest: &str) -> String {
        format!(
            "{{printableStatus: Running, observedGeneration: {generation}, conditions: [{}]{rest}}}",
            conditions.join(", ")
        )
    }

    fn kind(goal: &Goal, vm: &VirtualMachine) -> &'static str {
        match progress(goal, vm) {
            Progress::Reached => "reached",
            Progress::Waiting(_) => "waiting",
            Progress::Failed(_) => "failed",
        }
    }

    #[test]
    fn how_far_it_is() {
        use State::{Known, Managed, Reachable, Running, Stopped};
        let up = [condition("Ready", "True", "Running", "")];
        let down = [condition("Ready", "False", "Stopped", "")];
        let lost = [condition("Ready", "Unknown", "HostLost", "")];
        let domain = ", domain: {name: a, uuid: b, epoch: 1, state: Running}";
        let marked = ", domain: {name: a, uuid: b, epoch: 0, state: Running, generation: 0}";
        let off = ", domain: {name: a, uuid: b, epoch: 1, state: Shutoff}";
        let address = ", interfaces: [{name: lan, macAddress: x, addresses: [10.0.0.2]}]";
        let nic = "{networks: [{name: lan}]}";
        let observe = "{runStrategy: Manual, management: Observe, existingDomain: {nodeName: h, uuid: u}}";
        let lifted = ", effective: {cores: 1, memory: 1Gi, machine: q35, firmware: bios, uuid: u}";
        let odd = [condition("Synced", "Unknown", "NotLiftable", "odd")];
        let gone = [condition("Ready", "False", "DomainMissing", "not there")];
        let held = [condition("Synced", "False", "WouldStop", "it runs")];
        let away = [condition("Synced", "Unknown", "NotTakenOver", "")];
        for (state, spec, seen, expected) in [
            (Running, "{}", status(2, &up, domain), "reached"),
            (Running, "{}", status(1, &up, domain), "waiting"),
            (Running, "{}", status(2, &down, ""), "waiting"),
            (Running, "{runStrategy: Halted}", status(2, &down, ""), "failed"),
            (Reachable, "{}", status(2, &up, domain), "reached"),
            (Reachable, nic, status(2, &up, domain), "waiting"),
            (Reachable, nic, status(2, &up, address), "reached"),
            (Stopped, "{runStrategy: Halted}", status(2, &up, domain), "waiting"),
            (Stopped, "{runStrategy: Halted}", status(2, &down, off), "reached"),
            (Stopped, "{runStrategy: Halted}", status(2, &down, ""), "reached"),
            (Stopped, "{runStrategy: Halted}", status(1, &down, ""), "waiting"),
            (Stopped, "{runStrategy: Halted}", status(2, &lost, off), "waiting"),
            (Stopped, "{}", status(2, &up, domain), "failed"),
            (Known, observe, status(2, &up, lifted), "reached"),
            (Known, observe, status(1, &up, lifted), "waiting"),
            (Known, observe, status(2, &up, domain), "waiting"),
            (Known, observe, status(2, &odd, ""), "reached"),
            (Known, observe, status(2, &gone, ""), "failed"),
            (Managed, "{}", status(2, &up, domain), "waiting"),
            (Managed, "{}", status(2, &held, domain), "failed"),
            (Managed, "{}", status(1, &held, domain), "waiting"),
            (Managed, "{}", status(2, &away, domain), "waiting"),
            (Managed, "{}", status(1, &up, marked), "waiting"),
            (Managed, "{}", status(2, &up, marked), "reached"),
            (Managed, observe, status(2, &up, domain), "failed"),
        ] {
            let goal = Goal { state, generation: 2, request: None };
            assert_eq!(kind(&goal, &vm(spec, &seen)), expected, "{state:?} {spec} {seen}");
        }
    }

    #[test]
    fn a_power_request_is_waited_for_until_it_is_answered() {
        let up = [condition("Ready", "True", "Running", "")];
        let last =
            |id: &str, result: &str| format!(", lastPowerRequest: {{id: {id}, action: Restart, result: {result}}}");
        let asks = |id: &str| format!("{{powerRequest: {{id: {id}, action: Restart}}}}");
        for (spec, answer, expected) in [
            (asks("new"), last("old", "Completed"), "waiting"),
            (asks("new"), last("new", "Completed"), "reached"),
            (asks("new"), last("new", "Failed"), "failed"),
            (asks("other"), last("old", "Completed"), "failed"),
            (asks("other"), last("new", "Completed"), "reached"),
        ] {
            let goal = Goal { state: State::Running, generation: 2, request: Some("new".into()) };
            assert_eq!(kind(&goal, &vm(&spec, &status(2, &up, &answer))), expected, "{spec} {answer}");
        }
    }

    #[test]
    fn what_is_waited_for_is_said_when_no_condition_tells() {
        let up = [condition("Ready", "True", "Running", "")];
        let domain = ", domain: {name: a, uuid: b, epoch: 1, state: Running}";
        for (spec, state, request, generation, expected) in [
            (
                "{powerRequest: {id: new, action: Restart}}",
                State::Running,
                Some("new"),
                2,
                "the power request is not answered yet",
            ),
            ("{}", State::Running, None, 1, "the change is not seen yet"),
            ("{runStrategy: Halted}", State::Stopped, None, 2, "the guest has not ended yet"),
        ] {
            let goal = Goal { state, generation: 2, request: request.map(Into::into) };
            let seen = progress(&goal, &vm(spec, &status(generation, &up, domain)));
            assert_eq!(seen, Progress::Waiting(format!("Running: {expected}")));
        }
    }

    #[test]
    fn a_manual_vm_whose_guest_ends_at_once_is_not_waited_for() {
        let spec = "{runStrategy: Manual, powerRequest: {id: new, action: Start}}";
        let seen = status(
            2,
            &[condition("Ready", "False", "Stopped", "")],
            ", lastPowerRequest: {id: new, action: Start, result: Completed}, \
             lastStop: {reason: GuestShutdown, time: '2026-01-01T00:00:00Z', requestID: new}",
        );
        let goal = Goal { state: State::Running, generation: 2, request: Some("new".into()) };
        assert_eq!(progress(&goal, &vm(spec, &seen)), Progress::Failed("it has stopped again: GuestShutdown".into()));
    }

    #[test]
    fn the_condition_in_the_way_is_named() {
        let conditions = [
            condition("Ready", "False", "NotScheduled", "no host"),
            condition("DisksReady", "True", "Ready", ""),
            condition("Scheduled", "False", "NoHypervisor", "no host is ready"),
        ];
        let vm_seen = vm("{}", &status(2, &conditions, "").replace("Running", "Scheduling"));
        assert_eq!(why(&vm_seen), "Scheduling: no host is ready (Scheduled=False NoHypervisor)");
        assert!(why(&vm("{}", "{}")).contains("get pods"));
    }
}
