//! The part of a VM's status that is the controller's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kubevmm_api::condition::{self, HOST_RELEASED, READY, Wanted};
use kubevmm_api::vm::{LastPowerRequest, PlacementStatus, PowerResult};
use kubevmm_api::{VirtualMachine, VirtualMachineStatus};
use serde_json::{Value, json};

use crate::disk::status::without_nulls;
use crate::object::{executor_owns, executor_owns_condition};

/// What the controller wants to say of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusWanted {
    /// `status.nodeName`.
    pub node_name: Option<String>,
    /// `status.placement`.
    pub placement: Option<PlacementStatus>,
    /// Scheduled and DisksReady; those that are not given stay as they are.
    pub conditions: Vec<Wanted>,
    /// HostReleased, when the controller vouches for a host that is gone for good.
    pub host_released: Option<Wanted>,
    /// What people see, while no executor answers for the VM.
    pub shown: Option<Shown>,
}

/// What is the executor's to say, while there is none that could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// `status.printableStatus`.
    pub printable: &'static str,
    /// The condition Ready.
    pub ready: Wanted,
    /// Answer to a power request.
    pub power: Option<LastPowerRequest>,
}

impl StatusWanted {
    /// What the VM says now.
    pub fn keep(status: &VirtualMachineStatus) -> Self {
        Self { node_name: status.node_name.clone(), placement: status.placement.clone(), ..Self::default() }
    }

    /// The status to apply; `None` when the VM says all of it already.
    ///
    /// An apply gives up what it leaves out. So every field that is ours is in it, and a field that is the executor's
    /// stays in it as it is until the executor has taken it.
    pub fn over(&self, vm: &VirtualMachine, now: &Time) -> Option<Value> {
        let before = vm.status.clone().unwrap_or_default();
        let generation = vm.metadata.generation;
        let ours = |field: &str| !executor_owns(vm, &[field]);
        let mut after = VirtualMachineStatus {
            node_name: self.node_name.clone(),
            placement: self.placement.clone(),
            printable_status: before.printable_status.clone().filter(|_| ours("f:printableStatus")),
            observed_generation: before.observed_generation.filter(|_| ours("f:observedGeneration")),
            last_power_request: before.last_power_request.clone().filter(|_| ours("f:lastPowerRequest")),
            ..Default::default()
        };
        let mut wanted: Vec<&Wanted> = self.conditions.iter().chain(&self.host_released).collect();
        if let Some(shown) = &self.shown {
            after.printable_status = Some(shown.printable.to_owned());
            after.observed_generation = generation;
            if shown.power.is_some() {
                after.last_power_request.clone_from(&shown.power);
            }
            wanted.push(&shown.ready);
        }
        let mut conditions: Vec<Condition> =
            wanted.iter().map(|wanted| wanted.over(&before.conditions, generation, now)).collect();
        for condition in &before.conditions {
            let kept = match condition.type_.as_str() {
                condition::SCHEDULED => true,
                // One that only observes has none.
                condition::DISKS_READY => vm.spec.observed().is_none(),
                READY | HOST_RELEASED => !executor_owns_condition(vm, &condition.type_),
                _ => false,
            };
            if kept && condition::find(&conditions, &condition.type_).is_none() {
                conditions.push(condition.clone());
            }
        }
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        after.conditions = conditions;
        (!says_all(&before, &after)).then(|| {
            without_nulls(json!({
                "nodeName": after.node_name,
                "placement": after.placement,
                "printableStatus": after.printable_status,
                "observedGeneration": after.observed_generation,
                "lastPowerRequest": after.last_power_request,
                "conditions": after.conditions,
            }))
        })
    }
}

/// Whether `before` has what `after` says.
fn says_all(before: &VirtualMachineStatus, after: &VirtualMachineStatus) -> bool {
    let same = |mine: bool, equal: bool| !mine || equal;
    before.node_name == after.node_name
        && before.placement == after.placement
        && same(after.printable_status.is_some(), before.printable_status == after.printable_status)
        && same(after.observed_generation.is_some(), before.observed_generation == after.observed_generation)
        && same(after.last_power_request.is_some(), before.last_power_request == after.last_power_request)
        && after.conditions.iter().all(|wanted| condition::find(&before.conditions, &wanted.type_) == Some(wanted))
}

/// A transition that people care about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// It needs somebody's attention.
    pub warning: bool,
    /// The reason of the condition.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// Reasons of passing states: they tell nothing that the next event does not.
const PASSING: [&str; 5] = ["Scheduling", "Preparing", "Off", "Pending", "DisksReady"];

/// What became of a power request, when that was said in this step.
fn answer(before: &VirtualMachineStatus, after: &VirtualMachineStatus) -> Option<Transition> {
    let last = after.last_power_request.as_ref()?;
    if before.last_power_request.as_ref().is_some_and(|known| known.id == last.id) {
        return None;
    }
    Some(Transition {
        warning: last.result == PowerResult::Failed,
        reason: format!("PowerRequest{:?}", last.result),
        message: format!("the power request {:?} was answered while no host had the VM", last.action),
    })
}

/// The Events for the step from one status to the next.
pub fn transitions(before: &VirtualMachineStatus, after: &VirtualMachineStatus) -> Vec<Transition> {
    let mut events: Vec<Transition> = Vec::new();
    for kind in [condition::DISKS_READY, condition::SCHEDULED, HOST_RELEASED] {
        let Some(new) = condition::find(&after.conditions, kind) else { continue };
        let same = condition::find(&before.conditions, kind).is_some_and(|old| old.reason == new.reason);
        // DisksNotReady repeats what DisksReady says.
        if same || PASSING.contains(&new.reason.as_str()) || new.reason == "DisksNotReady" {
            continue;
        }
        let quiet = matches!(new.reason.as_str(), "Moving" | "Evicted");
        let loud = matches!(new.reason.as_str(), "EvacuationBlocked" | "HeldElsewhere" | "HostOutOfService");
        events.push(Transition {
            warning: loud || (new.status != "True" && !quiet),
            reason: new.reason.clone(),
            message: new.message.clone(),
        });
    }
    events.extend(answer(before, after));
    events
}
