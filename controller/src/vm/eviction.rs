//! Somebody wants a VM off its node: whether it leaves, and how. Pure.
//!
//! ```text
//!                       every disk in a shared pool      a disk of this host alone, UEFI variables or
//!                                                        TPM state, or imported
//! strategy unset        Move                             Stay
//! strategy Shutdown     Move                             Halt
//! strategy Block        Stay                             Stay
//! preempted             Move                             Halt
//! ```

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kubevmm_api::condition::{SCHEDULED, Wanted};
use kubevmm_api::pod::has_ended;
use kubevmm_api::vm::{EvictionStrategy, Release};
use kubevmm_api::{EVICT, VirtualMachineDisk};

use crate::object::{enumerate, is_deleting, name, uid};
use crate::vm::decide::{Action, delete_pod};
use crate::vm::disks::{Disks, is_shared, names_of};
use crate::vm::domain_needs::has_state;
use crate::vm::placement::Placing;
use crate::vm::pod::disruption;
use crate::vm::view::View;

/// What an eviction does with a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is shut down and undefined, and started on whichever host takes it.
    Move,
    /// It is shut down, and started again when its host takes VMs again.
    Halt,
    /// It stays: why, and the way out.
    Stay(String),
}

/// What an eviction does with the VM. The scheduler has given the memory of one that is `preempted` away already.
pub fn verdict(view: &View, disks: &Disks, preempted: bool) -> Verdict {
    let strategy = view.vm.spec.eviction_strategy;
    if strategy == Some(EvictionStrategy::Block) && !preempted {
        return Verdict::Stay(
            "spec.evictionStrategy is Block: stop the VM (virtctl stop), or set spec.evictionStrategy to Shutdown"
                .into(),
        );
    }
    let local: Vec<Arc<VirtualMachineDisk>> =
        disks.held.iter().flatten().filter(|disk| !is_shared(view, disk)).cloned().collect();
    let imported = view.home().is_some();
    if disks.held.is_some() && local.is_empty() && !imported && !has_state(&view.vm) {
        return Verdict::Move;
    }
    let not_taken_over = view.vm.spec.existing_domain.is_some()
        && view.vm.status.as_ref().and_then(|status| status.domain.as_ref()).is_some_and(|d| d.generation.is_none());
    if not_taken_over {
        return Verdict::Stay(
            "its domain has not been taken over, so nobody may stop it but its owner: the condition Ready says what is \
             in the way"
                .into(),
        );
    }
    if preempted || strategy == Some(EvictionStrategy::Shutdown) {
        return Verdict::Halt;
    }
    let why = match local.is_empty() {
        _ if imported => "it is an imported one, which stays on its host".to_owned(),
        true if disks.held.is_none() => return Verdict::Stay(disks.condition.message.clone()),
        true => "the variables of its UEFI, or the state of its TPM, lie on this host alone".to_owned(),
        false => format!("the disks {} lie in pools of this host alone", enumerate(&names_of(&local))),
    };
    Verdict::Stay(format!(
        "{why}: stop the VM (virtctl stop), or set spec.evictionStrategy to Shutdown: it is shut down then, and started \
         again when this host takes VMs again"
    ))
}

/// The placement pod of a placed VM that somebody else has deleted, while nothing is done about it yet. On a host that is
/// silent nothing is done, nor for a VM that is only observed by now.
pub fn evicted(view: &View) -> Option<&Pod> {
    if view.vm.spec.observed().is_some() {
        return None;
    }
    let status =
        view.vm.status.as_ref().filter(|status| status.node_name.as_deref().is_some_and(|n| view.hosts.is_live(n)))?;
    let placement = status.placement.as_ref().filter(|placement| placement.release == Release::None)?;
    let pod = view.pod(placement.pod_name.as_deref()?)?;
    (!is_deleting(view.vm.as_ref()) && is_deleting(pod)).then_some(pod)
}

/// Why somebody wants the VM of this pod off its node, as the webhook of evictions has noted it.
pub fn asked(pod: &Pod) -> Option<&str> {
    pod.annotations().get(EVICT).map(String::as_str)
}

/// Somebody wants the VM off its node.
pub fn leave(view: &View, disks: &Disks, pod: &Pod, node: &str, why: &str, mut placing: Placing) -> Placing {
    let mut release = |what: Release| {
        if let Some(placement) = &mut placing.placement {
            placement.release = what;
        }
    };
    if view.namespace_ends {
        // The VM itself is deleted only when no pod is left in the namespace.
        release(Release::Stop);
        let message = format!("the namespace is being deleted: the host {node} stops the VM");
        placing.scheduled = Wanted::no(SCHEDULED, "NamespaceTerminating", message);
        return placing;
    }
    match verdict(view, disks, is_preempted(pod)) {
        Verdict::Move => {
            release(Release::Stop);
            placing.scheduled = Wanted::no(SCHEDULED, "Moving", format!("{why}: the VM leaves the host {node}"));
        }
        Verdict::Halt => {
            release(Release::Halt);
            placing.scheduled = halting(node, Some(why));
        }
        Verdict::Stay(reason) => {
            let message = format!("{why}, but the VM stays on the host {node}: {reason}");
            placing.scheduled = Wanted::yes(SCHEDULED, "EvacuationBlocked", message);
            if !is_deleting(pod) {
                if has_ended(pod) {
                    placing.after.push(delete_pod(pod, Some(why.to_owned())));
                } else if asked(pod).is_some() {
                    // Who asks again is told; nobody's word of long ago is to stop the VM one day.
                    placing.after.push(Action::ForgetEviction { name: name(pod).to_owned(), uid: uid(pod).to_owned() });
                }
            }
        }
    }
    placing
}

/// The host shuts the VM down, and keeps it.
pub fn halting(node: &str, why: Option<&str>) -> Wanted {
    let why = why.map(|why| format!("{why}: ")).unwrap_or_default();
    let message =
        format!("{why}the host {node} shuts the VM down; it is started there again when the host takes VMs again");
    Wanted::no(SCHEDULED, "Evicted", message)
}

/// The scheduler has given the pod's room to another one.
fn is_preempted(pod: &Pod) -> bool {
    disruption(pod, &["PreemptionByScheduler"]).is_some()
}
