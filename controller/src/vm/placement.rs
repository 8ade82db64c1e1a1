//! Where a VM runs: the placement pod, the hand-over between hosts, and the word that a host may start it. Pure.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kubevmm_api::condition::{READY, SCHEDULED, Wanted};
use kubevmm_api::pod::node_of;
use kubevmm_api::requirements::{REQUIREMENTS, Requirements};
use kubevmm_api::vm::{LastPowerRequest, PlacementStatus, PowerAction, PowerResult, Release};
use kubevmm_api::{VirtualMachineStatus, names, power};

use crate::object::{enumerate, is_deleting, name, uid};
use crate::vm::candidates::Refusal;
use crate::vm::decide::{Action, delete_pod, delete_pods, host_lost, is_leaving_soon};
use crate::vm::disks::{Disks, move_to, names_of, pinned_to};
use crate::vm::domains::{check_domains, check_reports, held_with_higher_epoch};
use crate::vm::pod::{Phase, Target, build, is_outdated, merged, phase};
use crate::vm::requirements::requirements;
use crate::vm::status::Shown;
use crate::vm::unschedulable::explain;
use crate::vm::view::View;
use crate::vm::{attempt, eviction, observe};

/// Where a VM shall be, and what brings it there.
#[derive(Debug)]
pub struct Placing {
    /// Steps before the status is written.
    pub before: Vec<Action>,
    /// `status.nodeName`.
    pub node_name: Option<String>,
    /// `status.placement`.
    pub placement: Option<PlacementStatus>,
    /// The condition Scheduled.
    pub scheduled: Wanted,
    /// What people see, while no executor answers for the VM.
    pub shown: Option<Shown>,
    /// Steps after the status is written.
    pub after: Vec<Action>,
}

/// Decides about the placement of a VM that is not being deleted.
pub fn decide(view: &View, disks: &Disks) -> Placing {
    let mut status = view.status();
    if let Some(existing) = &view.vm.spec.existing_domain {
        // The domain is there before any placement, and its executor is to see the VM.
        status.node_name = status.node_name.or_else(|| observe::node_of(view, existing).map(Into::into));
    }
    let should_run = power::should_run(&view.vm.spec, &status);
    if let Some((node, epoch)) = held_with_higher_epoch(view) {
        return take_over(view, &status, node, epoch, should_run);
    }
    let refused = kept_off(view, &status);
    if let (Some(_), Some(placement)) = (&refused, &mut status.placement) {
        // The word to start is taken back, whatever else is to be done.
        placement.confirmed = None;
    }
    let current = status.placement.clone().unwrap_or_default();
    let placing = Placing {
        before: vec![],
        node_name: status.node_name.clone(),
        placement: status.placement.clone(),
        scheduled: refused.unwrap_or_else(|| placed(status.node_name.as_deref())),
        shown: None,
        after: vec![],
    };
    if let Some(home) = view.home().filter(|_| status.node_name.is_none()) {
        let (scheduled, shown) = observe::host_not_found(home);
        return Placing { scheduled, shown: Some(shown), ..placing };
    }
    if let Some(node) = status.node_name.as_deref().filter(|node| !view.hosts.is_live(node))
        && !is_on_no_host(&status)
    {
        let lost = host_lost(node);
        let scheduled = Wanted::unknown(SCHEDULED, "HostLost", format!("the host {node} does not answer"));
        return Placing { scheduled, shown: Some(Shown { printable: "Unknown", ready: lost, power: None }), ..placing };
    }
    match (should_run, &status.node_name, &current.pod_name) {
        (false, ..) => off(view, &status, placing),
        // It runs where it was left: it gets its pod back, not a move. (An imported VM cannot move: for it the next epoch
        // will do, whose pod tells why the host has no room.)
        (true, Some(_), None)
            if view.home().is_none() && status.is_active() && current.release == Release::None && current.epoch > 0 =>
        {
            let pod_name = names::placement_pod(view.name(), view.uid(), current.epoch);
            if view.pod(&pod_name).is_some_and(is_deleting) {
                // Our own deletion is not to look like an eviction: the pod is made again once it is gone.
                return placing;
            }
            Placing { placement: Some(PlacementStatus { pod_name: Some(pod_name), ..current }), ..placing }
        }
        (true, Some(node), Some(pod)) => placed_on(view, disks, &status, node, pod, placing),
        (true, ..) => attempt::decide(view, disks, &status, placing),
    }
}

/// The last host has stopped and undefined the domain on request.
pub fn is_on_no_host(status: &VirtualMachineStatus) -> bool {
    // A host that was asked to halt the VM before has answered for this epoch already, and still has the domain.
    gave_up(status, Release::Stop) && status.domain.is_none()
}

/// The last host has halted the VM on request: the domain is off, and stays defined there.
fn is_halted(status: &VirtualMachineStatus) -> bool {
    gave_up(status, Release::Halt) && !status.is_active()
}

fn gave_up(status: &VirtualMachineStatus, what: Release) -> bool {
    let placement = status.placement.as_ref();
    placement.is_some_and(|placement| placement.release == what && status.released_epoch == Some(placement.epoch))
}

/// Why a VM that is placed and does not run must not start: a host tells of a domain that stands in the way, such as the
/// VM's own one, which somebody has migrated there by hand.
fn kept_off(view: &View, status: &VirtualMachineStatus) -> Option<Wanted> {
    let node = status.node_name.as_deref().filter(|_| !status.is_active())?;
    let (reason, message) = check_domains(view, Some(node)).err()?;
    Some(Wanted::no(SCHEDULED, reason, message))
}

/// The condition Scheduled of a VM that nothing keeps from its host.
pub fn placed(node: Option<&str>) -> Wanted {
    match node {
        Some(node) => Wanted::yes(SCHEDULED, "Placed", format!("on the host {node}")),
        None => Wanted::no(SCHEDULED, "Pending", ""),
    }
}

fn take_over(view: &View, status: &VirtualMachineStatus, node: &str, epoch: i64, should_run: bool) -> Placing {
    let pod_name = should_run.then(|| names::placement_pod(view.name(), view.uid(), epoch));
    let known = status.placement.as_ref().map_or(0, |placement| placement.epoch);
    let message =
        format!("the host {node} has the domain at epoch {epoch}, which is newer than {known}: it is taken as it is");
    Placing {
        before: vec![],
        node_name: Some(node.to_owned()),
        placement: Some(PlacementStatus { epoch, pod_name, ..Default::default() }),
        scheduled: Wanted::yes(SCHEDULED, "HeldElsewhere", message),
        shown: None,
        after: vec![],
    }
}

/// The VM shall be off.
fn off(view: &View, status: &VirtualMachineStatus, placing: Placing) -> Placing {
    if status.is_active() {
        // The executor stops it; pod and node keep standing for what still runs.
        return placing;
    }
    let placement = placing.placement.map(|placement| PlacementStatus {
        pod_name: None,
        pod_uid: None,
        confirmed: None,
        // Who starts the domain by hand is not to be asked to leave once more.
        release: if placement.release == Release::Halt { Release::None } else { placement.release },
        ..placement
    });
    let shown = placing.node_name.is_none().then(|| Shown {
        printable: "Stopped",
        ready: Wanted::no(READY, "Stopped", "the VM is off"),
        power: power::pending(&view.vm.spec, status).map(|request| LastPowerRequest {
            id: request.id.clone(),
            action: request.action,
            result: if request.action == PowerAction::Stop { PowerResult::AlreadyDone } else { PowerResult::Failed },
        }),
    });
    let off = || Wanted::no(SCHEDULED, "Off", "the VM shall be off: no host is reserved for it");
    let scheduled = kept_off(view, status).unwrap_or_else(off);
    Placing { placement, scheduled, shown, after: delete_pods(view), ..placing }
}

/// The VM has a node and a placement pod: keeps the pod, answers evictions, confirms starts.
fn placed_on(
    view: &View,
    disks: &Disks,
    status: &VirtualMachineStatus,
    node: &str,
    pod_name: &str,
    mut placing: Placing,
) -> Placing {
    let mut current = status.placement.clone().unwrap_or_default();
    if current.release != Release::None {
        placing.scheduled = match current.release {
            Release::Halt => eviction::halting(node, None),
            _ => Wanted::no(SCHEDULED, "Moving", format!("the host {node} is giving the VM up")),
        };
        if is_on_no_host(status) || is_halted(status) {
            placing.after = delete_pods(view);
            placing.placement = Some(PlacementStatus { pod_name: None, pod_uid: None, confirmed: None, ..current });
        }
        return placing;
    }
    let others = view.pods.iter().filter(|pod| name(pod.as_ref()) != pod_name && !is_leaving_soon(pod));
    placing.after = others.map(|pod| delete_pod(pod, None)).collect();
    let active = status.is_active();
    let Some(pod) = view.pod(pod_name) else {
        return make_again(view, current.epoch, node, active, placing);
    };
    if node_of(pod).is_some_and(|on| on != node) {
        // A pod of this epoch on another node stands for nothing.
        placing.after.extend((!is_deleting(pod)).then(|| delete_pod(pod, None)));
        return placing;
    }
    let (phase, outdated) = (phase(pod), is_outdated(pod, view));
    placing.before.extend(needs_of_now(view, pod));
    if outdated {
        // What it asks for now counts from the next start on, which so waits for the pod of another placement.
        current.confirmed = None;
        if !active && !matches!(phase, Phase::Leaving(_) | Phase::Ended(_)) {
            (current.pod_name, current.pod_uid) = (None, None);
            placing.after.push(delete_pod(pod, None));
            let message = "the VM asks for something else than its last placement pod: it is placed anew";
            placing.scheduled = Wanted::no(SCHEDULED, "Scheduling", message);
            placing.placement = Some(current);
            return placing;
        }
        placing.placement = Some(current.clone());
    }
    match phase {
        Phase::Leaving(why) => eviction::leave(view, disks, pod, node, &why, placing),
        Phase::Ended(why) => {
            placing.after.push(delete_pod(pod, Some(why.clone())));
            if !active {
                placing.scheduled =
                    Wanted::no(SCHEDULED, "PodFailed", format!("the placement pod ended: {why}; it is made again"));
            }
            placing
        }
        Phase::Running(_) if outdated => placing,
        Phase::Running(_) => {
            current.pod_uid = Some(uid(pod).to_owned());
            // Disks that the VM got since it was placed.
            let held = disks.held.as_deref().unwrap_or_default();
            let stuck: Vec<_> = held
                .iter()
                .filter(|disk| pinned_to(view, disk).is_some_and(|pinned| pinned != node))
                .cloned()
                .collect();
            placing.before.extend(move_to(view, held, node));
            if !active && !stuck.is_empty() {
                // The word to start is taken back: a start here would be one without its data.
                current.confirmed = None;
                let message = format!(
                    "the disks {} lie in pools of other hosts: stop the VM (spec.runStrategy: Halted) and remove them",
                    enumerate(&names_of(&stuck))
                );
                placing.scheduled = Wanted::no(SCHEDULED, "DataElsewhere", message);
            } else if !active || (current.confirmed.is_none() && stuck.is_empty()) {
                // One that runs without a word gets it now: given right after somebody has migrated the domain away, it
                // might come before the other host tells of it.
                let refused = confirm(view, disks, node, &mut current).err().filter(|_| !active);
                if let Some((reason, message)) = refused {
                    placing.scheduled = Wanted::no(SCHEDULED, reason, message);
                }
            }
            placing.placement = Some(current);
            placing
        }
        Phase::Unbound(Some(message)) if active => {
            let message = format!(
                "on the host {node}, whose Node does not count it: its placement pod finds no room there ({message}): \
                 make room, or stop the VM"
            );
            placing.scheduled = Wanted::yes(SCHEDULED, "PlacedWithoutRoom", message);
            placing
        }
        Phase::Unbound(Some(message)) => {
            let (reason, message) = explain(pod).unwrap_or(("Unschedulable", message));
            placing.scheduled = Wanted::no(SCHEDULED, reason, message);
            placing
        }
        Phase::Unbound(None) | Phase::Starting(_) => placing,
    }
}

/// What the pod says that the VM needs, when that has changed by itself: a volume that has been made needs no space any
/// more, and a pod of an earlier version says nothing.
fn needs_of_now(view: &View, pod: &Pod) -> Option<Action> {
    let spec = merged(view).ok()?;
    let now = requirements(view, &spec).ok()?;
    let said = pod.annotations().get(REQUIREMENTS);
    let needs = match said.and_then(|said| Requirements::parse(said).ok()) {
        // The rest is what the running domain was started with.
        Some(said) => Requirements { pools: now.pools, images: now.images, local_disks: now.local_disks, ..said },
        None => now,
    };
    let needs = needs.to_annotation();
    let (name, uid) = (name(pod).to_owned(), uid(pod).to_owned());
    (said != Some(&needs) && !is_deleting(pod)).then_some(Action::TellNeeds { name, uid, needs })
}

/// The pod is gone though nobody moved the VM: the same pod again, on the same node.
fn make_again(view: &View, epoch: i64, node: &str, active: bool, mut placing: Placing) -> Placing {
    if let Some((reason, message)) = &view.pod_pause {
        if !active {
            placing.scheduled = Wanted::no(SCHEDULED, reason, message);
        }
        return placing;
    }
    let target = if active { Target::Running(node) } else { Target::Back(node) };
    match build(view, epoch, target) {
        Ok(pod) => placing.before.push(Action::CreatePod(Box::new(pod))),
        Err(error) => placing.scheduled = Wanted::no(SCHEDULED, "SpecIncomplete", error.to_string()),
    }
    placing
}

/// Gives the present session of the executor on `node` the word to start the domain.
pub fn confirm(view: &View, disks: &Disks, node: &str, placement: &mut PlacementStatus) -> Result<(), Refusal> {
    let session = view.hosts.get(node).and_then(|host| host.reported_session());
    if session.is_some() && placement.confirmed.as_deref() == session {
        return Ok(());
    }
    if disks.held.is_none() {
        return Err(("DisksNotReady", disks.condition.message.clone()));
    }
    check_reports(view, Some(node))?;
    let Some(session) = session else {
        return Err(("HostsNotReported", format!("the executor on {node} has yet to tell which domains its host has")));
    };
    placement.confirmed = Some(session.to_owned());
    Ok(())
}
