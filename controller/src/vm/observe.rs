//! A VM that only observes a domain: nothing is placed. One that was managed before is let go once its host has taken the
//! mark off the domain. Pure.
//!
//! ```text
//!   managed: a finalizer, the mark, a pod, disks
//!      |  spec.management: Observe
//!   Releasing: the executor takes the mark off; nothing else is touched, also if the VM is deleted
//!      |  no host tells of the mark, or the host is gone for good
//!   the pod goes, the disks are given back, then the finalizer comes off; the number of the epoch stays
//! ```

use kubevmm_api::VirtualMachineStatus;
use kubevmm_api::condition::{READY, SCHEDULED, Wanted};
use kubevmm_api::vm::{ExistingDomain, PlacementStatus, Release};

use crate::object::{executor_owns, has_finalizer, is_deleting};
use crate::vm::decide::{Action, delete_pods, delete_pods_at_once, host_lost};
use crate::vm::disks;
use crate::vm::domains::marked_beside;
use crate::vm::status::{Shown, StatusWanted};
use crate::vm::view::View;

/// The steps for a VM that observes `domain`.
pub fn decide(view: &View, domain: &ExistingDomain) -> Vec<Action> {
    if has_finalizer(view.vm.as_ref()) { let_go(view, domain) } else { watch(view, domain) }
}

fn watch(view: &View, domain: &ExistingDomain) -> Vec<Action> {
    if is_deleting(view.vm.as_ref()) {
        return vec![];
    }
    let node = domain.node_name.as_str();
    let known = node_of(view, domain);
    let scheduled = observed(node);
    let mut wanted = StatusWanted {
        node_name: known.map(Into::into),
        placement: without_pod(&view.status()),
        conditions: vec![scheduled],
        ..Default::default()
    };
    if known.is_none() {
        let (scheduled, shown) = host_not_found(node);
        (wanted.conditions, wanted.shown) = (vec![scheduled], Some(shown));
    } else if !view.hosts.is_live(node) {
        let message = format!("the executor on {node} has not renewed its Lease: whether the domain runs is not known");
        wanted.conditions = vec![host_silent(node)];
        wanted.shown = Some(unknown(Wanted::unknown(READY, "HostLost", message)));
    }
    let mut actions = vec![Action::WriteStatus(Box::new(wanted))];
    // What a mirror that lagged behind did not show when the VM was let go.
    actions.extend(delete_pods(view));
    actions.extend(disks::give_back(view));
    actions
}

/// The VM was managed, and is only watched from now on.
fn let_go(view: &View, domain: &ExistingDomain) -> Vec<Action> {
    let status = view.status();
    let mut wanted = StatusWanted::keep(&status);
    wanted.node_name = wanted.node_name.or_else(|| node_of(view, domain).map(Into::into));
    if let Some((scheduled, shown)) = waits_for(view, domain, &status) {
        (wanted.conditions, wanted.shown) = (vec![scheduled], shown);
        return vec![Action::WriteStatus(Box::new(wanted))];
    }
    let deleting = is_deleting(view.vm.as_ref());
    wanted.placement = without_pod(&status);
    if wanted.placement != status.placement && !deleting {
        // It brings the next round.
        wanted.conditions = vec![observed(&domain.node_name)];
        return vec![Action::WriteStatus(Box::new(wanted))];
    }
    let mut actions = if deleting { delete_pods_at_once(view) } else { delete_pods(view) };
    actions.extend(disks::give_back(view));
    actions.push(Action::RemoveFinalizer);
    actions
}

/// What is waited for before the VM is let go: nothing, once no domain bears its mark and none gets it any more.
fn waits_for(view: &View, domain: &ExistingDomain, status: &VirtualMachineStatus) -> Option<(Wanted, Option<Shown>)> {
    let home = domain.node_name.as_str();
    let told = view.hosts.holding(&view.cluster_id, view.uid()).next().is_some();
    let marked = told || status.domain.as_ref().is_some_and(|domain| domain.generation.is_some());
    let handed_over = status.node_name.is_some();
    if view.hosts.is_gone_for_good(home) || !(marked || handed_over) {
        return None;
    }
    if !view.hosts.is_live(home) {
        return Some((host_silent(home), Some(unknown(host_lost(home)))));
    }
    if let Some(message) = marked_beside(view, home) {
        return Some((Wanted::no(SCHEDULED, "HeldElsewhere", message), None));
    }
    let reported = view.hosts.get(home).is_some_and(|host| host.reported_session().is_some());
    (marked || !reported || !is_known_to_executor(view, status)).then(|| {
        let message = format!("the host {home} takes its mark off the domain, and does not touch it otherwise");
        (Wanted::yes(SCHEDULED, "Releasing", message), None)
    })
}

/// The executor has answered the spec of now: what it has not marked by now it does not mark.
fn is_known_to_executor(view: &View, status: &VirtualMachineStatus) -> bool {
    let vm = view.vm.as_ref();
    status.observed_generation == vm.metadata.generation && executor_owns(vm, &["f:observedGeneration"])
}

/// The node of the domain, once there is a Hypervisor of that name.
pub fn node_of<'a>(view: &View, domain: &'a ExistingDomain) -> Option<&'a str> {
    let known = view.hosts.get(&domain.node_name).is_some_and(|host| host.hypervisor.is_some());
    known.then_some(domain.node_name.as_str())
}

/// What is said of a domain on a host that there is not.
pub fn host_not_found(node: &str) -> (Wanted, Shown) {
    let message = format!(
        "spec.existingDomain.nodeName: there is no Hypervisor {node}: `virtctl domains` lists the hosts and their domains"
    );
    let ready = Wanted::no(READY, "HostNotFound", message.clone());
    (Wanted::no(SCHEDULED, "HostNotFound", message), Shown { printable: "Pending", ready, power: None })
}

fn observed(node: &str) -> Wanted {
    Wanted::yes(SCHEDULED, "Observed", format!("a domain of the host {node} is watched; nothing is reserved for it"))
}

fn host_silent(node: &str) -> Wanted {
    Wanted::unknown(SCHEDULED, "HostLost", format!("the host {node} does not answer"))
}

fn unknown(ready: Wanted) -> Shown {
    Shown { printable: "Unknown", ready, power: None }
}

/// The number of the last epoch: should the VM be managed again, the next one is higher.
fn without_pod(status: &VirtualMachineStatus) -> Option<PlacementStatus> {
    status.placement.as_ref().map(|placement| PlacementStatus {
        epoch: placement.epoch,
        pod_name: None,
        pod_uid: None,
        confirmed: None,
        release: Release::None,
    })
}
