//! What is to be done about a VM: pure.
//!
//! ```text
//!              finalizer, disks made and taken            vm::disks
//!                            |
//!   off <--- should_run? ----+                            vm::placement
//!    |                       | yes
//!    |                   attempt: pod of epoch + 1         vm::attempt
//!    |                       | the pod runs on N
//!    |        elsewhere? release=Stop, wait for releasedEpoch
//!    |                       |
//!    |                   placed: nodeName, epoch, confirmed, while vm::domains sees no other domain
//!    |                       |
//!    +--- domain ended ------+------ pod evicted: release=Stop or Halt, then a new attempt
//!                                                         vm::eviction
//!
//!   deleted: wait for HostReleased, then pods, disks and the finalizer
//!   only observed (again): vm::observe
//! ```

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kubevmm_api::VirtualMachineDisk;
use kubevmm_api::condition::{self, HOST_RELEASED, READY, SCHEDULED, Wanted};
use kubevmm_api::vm::PlacementStatus;

use crate::disk::status::Owned;
use crate::object::{has_finalizer, is_deleting, name, uid};
use crate::vm::status::{Shown, StatusWanted};
use crate::vm::view::View;
use crate::vm::{disks, domains, observe, placement};

/// A step. Steps are taken in order; the first that fails ends the round.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Put the finalizer on.
    AddFinalizer,
    /// Take the finalizer off.
    RemoveFinalizer,
    /// Create a disk from its template, and take it.
    CreateDisk {
        /// The disk.
        disk: Box<VirtualMachineDisk>,
        /// Our part of its status.
        owned: Owned,
    },
    /// Write our part of a disk's status.
    WriteDisk {
        /// The disk, as it was read.
        disk: Arc<VirtualMachineDisk>,
        /// Our part of its status.
        owned: Owned,
    },
    /// Create a placement pod.
    CreatePod(Box<Pod>),
    /// Delete a placement pod.
    DeletePod {
        /// Name of the pod.
        name: String,
        /// UID of the pod.
        uid: String,
        /// Seconds that it may take.
        grace: u32,
        /// It had ended by itself, for this reason: the next one comes after a pause.
        failed: Option<String>,
    },
    /// Note on a placement pod that has no node which hosts could take its VM by now: the scheduler looks again.
    TellHosts {
        /// Name of the pod.
        name: String,
        /// UID of the pod.
        uid: String,
        /// The hosts.
        hosts: String,
    },
    /// Note on a placement pod what its VM needs by now.
    TellNeeds {
        /// Name of the pod.
        name: String,
        /// UID of the pod.
        uid: String,
        /// The annotation.
        needs: String,
    },
    /// Take the annotation off a placement pod that asks for its VM to leave.
    ForgetEviction {
        /// Name of the pod.
        name: String,
        /// UID of the pod.
        uid: String,
    },
    /// Write our part of the VM's status.
    WriteStatus(Box<StatusWanted>),
}

/// The steps for a VM.
pub fn decide(view: &View) -> Vec<Action> {
    let vm = view.vm.as_ref();
    if let Some(domain) = vm.spec.observed() {
        return observe::decide(view, domain);
    }
    if !has_finalizer(vm) {
        return if is_deleting(vm) { vec![] } else { vec![Action::AddFinalizer] };
    }
    if is_deleting(vm) {
        return delete(view);
    }
    let disks = disks::decide(view);
    let placing = placement::decide(view, &disks);
    let mut actions = disks.actions;
    if !actions.is_empty() {
        // Each of them brings the next round: what can be said now would be outdated before it is read.
        return actions;
    }
    actions.extend(placing.before);
    let mut conditions = vec![placing.scheduled];
    conditions.push(disks.condition);
    actions.push(Action::WriteStatus(Box::new(StatusWanted {
        node_name: placing.node_name,
        placement: placing.placement,
        conditions,
        host_released: None,
        shown: placing.shown,
    })));
    actions.extend(placing.after);
    actions
}

/// What a lost host means for its VM, and the way out.
pub fn host_lost(node: &str) -> Wanted {
    Wanted::unknown(
        READY,
        "HostLost",
        format!(
            "the executor on {node} has not renewed its Lease: whether the VM runs is not known, and it is started \
             nowhere else. Bring the host back; or, when it is off for good, taint its Node with {}:NoExecute and \
             delete the VM",
            crate::hosts::OUT_OF_SERVICE
        ),
    )
}

/// Deletion of every pod of the VM that is not about to go.
pub fn delete_pods(view: &View) -> Vec<Action> {
    view.pods.iter().filter(|pod| !is_leaving_soon(pod)).map(|pod| delete_pod(pod, None)).collect()
}

/// As [`delete_pods`], without asking their kubelets.
pub fn delete_pods_at_once(view: &View) -> Vec<Action> {
    view.pods.iter().filter(|pod| !is_leaving_at_once(pod)).map(|pod| delete_pod_at_once(pod, None)).collect()
}

/// Deletion of one pod in which nothing of the VM runs. One that somebody else has deleted has the time that its guest
/// might have needed: that is cut to nothing, for its kubelet is in the middle of it.
pub fn delete_pod(pod: &Pod, failed: Option<String>) -> Action {
    let grace = if is_deleting(pod) { 0 } else { GRACE_OF_EMPTY_POD };
    Action::DeletePod { name: name(pod).to_owned(), uid: uid(pod).to_owned(), grace, failed }
}

/// Deletion of one pod without asking its kubelet, which may be away for good or in no hurry.
pub fn delete_pod_at_once(pod: &Pod, failed: Option<String>) -> Action {
    Action::DeletePod { name: name(pod).to_owned(), uid: uid(pod).to_owned(), grace: 0, failed }
}

/// Whether the deletion of a pod has been asked for without any time for its kubelet.
pub fn is_leaving_at_once(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

fn delete(view: &View) -> Vec<Action> {
    let status = view.status();
    let released = condition::is_true(&status.conditions, HOST_RELEASED);
    let mut wanted = StatusWanted::keep(&status);
    if !released && let Some(found) = domains::held_with_higher_epoch(view) {
        wanted.node_name = Some(found.0.to_owned());
        wanted.placement = Some(PlacementStatus { epoch: found.1, ..Default::default() });
        return vec![Action::WriteStatus(Box::new(wanted))];
    }
    let on_no_host = placement::is_on_no_host(&status);
    match status.node_name.as_deref() {
        Some(node) if !released && view.hosts.is_gone_for_good(node) => {
            wanted.host_released = Some(Wanted::yes(
                HOST_RELEASED,
                "HostOutOfService",
                format!("the Node {node} is out of service: what the VM left there is an orphan when the host returns"),
            ));
            vec![Action::WriteStatus(Box::new(wanted))]
        }
        Some(node) if !released && !view.hosts.is_live(node) && !on_no_host => {
            wanted.shown = Some(Shown { printable: "Unknown", ready: host_lost(node), power: None });
            vec![Action::WriteStatus(Box::new(wanted))]
        }
        // The executor stops and undefines the domain, and says HostReleased.
        Some(_) if !released && !on_no_host => vec![],
        _ => {
            if let Some((reason, message)) = domains::held_elsewhere(view, &status) {
                wanted.conditions = vec![Wanted::no(SCHEDULED, reason, message)];
                return vec![Action::WriteStatus(Box::new(wanted))];
            }
            // The namespace of the VM may wait for them to go.
            let mut actions = delete_pods_at_once(view);
            actions.extend(disks::give_back(view));
            actions.push(Action::RemoveFinalizer);
            actions
        }
    }
}

/// Seconds that a placement pod gets once nothing of the VM runs.
pub(crate) const GRACE_OF_EMPTY_POD: u32 = 1;

/// Whether the deletion of a pod has been asked for, with no more time than we would give it.
pub fn is_leaving_soon(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        && pod.metadata.deletion_grace_period_seconds.is_some_and(|given| given <= i64::from(GRACE_OF_EMPTY_POD))
}
