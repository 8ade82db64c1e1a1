//! Whether the memory that the scheduler has given to a VM is free.
//!
//! A VM that is preempted keeps its pod while it is shut down, but not for longer than the pod's own time. Who comes after
//! it is not started beside it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kubevmm_api::VirtualMachine;
use kubevmm_api::pod::{has_ended, node_of};
use kubevmm_api::vm::Release;

use crate::object::uid;
use crate::vm::pod::{Phase, phase};
use crate::vm::view::View;
use crate::world::World;

/// How soon to look again: what frees the memory is a change of another VM.
pub const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The VM, `namespace/name`, that is to leave the node of this VM's new pod, and runs there still, without a pod of its own.
/// (One that is to stay gets a pod again, for which there may be no room: nobody waits for that.)
pub fn taken_by(world: &World, view: &View) -> Option<String> {
    let placement = view.vm.status.as_ref().and_then(|status| status.placement.as_ref());
    let placed = placement.and_then(|placement| placement.pod_name.as_ref());
    let new = view.pods.iter().filter(|pod| pod.metadata.name.as_ref() != placed);
    let node = new.map(|pod| phase(pod)).find_map(|phase| match phase {
        Phase::Running(node) => Some(node),
        _ => None,
    })?;
    let others = world.vms.state();
    let other = others.iter().filter(|other| uid(other.as_ref()) != view.uid()).find(|other| {
        let namespace = other.namespace().unwrap_or_default();
        is_leaving(other, &node) && has_no_pod(&world.pods_of(&namespace, uid(other.as_ref())), &node)
    })?;
    Some(format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()))
}

fn is_leaving(vm: &VirtualMachine, node: &str) -> bool {
    let there = vm.status.as_ref().filter(|status| status.node_name.as_deref() == Some(node) && status.is_active());
    there.and_then(|status| status.placement.as_ref()).is_some_and(|placement| placement.release != Release::None)
}

fn has_no_pod(pods: &[Arc<Pod>], node: &str) -> bool {
    !pods.iter().any(|pod| node_of(pod) == Some(node) && !has_ended(pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn a_vm_whose_pod_has_ended_before_it_takes_the_room_of_others() {
        let vm = |state: &str, release: &str| -> VirtualMachine {
            let domain = format!("domain: {{name: shop.web, uuid: u, epoch: 1, state: {state}}}");
            let placement = format!("placement: {{epoch: 1, release: {release}}}");
            yaml(&format!("metadata: {{name: web}}\nspec: {{}}\nstatus: {{nodeName: a, {domain}, {placement}}}"))
        };
        assert!(is_leaving(&vm("ShuttingDown", "Stop"), "a") && is_leaving(&vm("Running", "Halt"), "a"));
        assert!(!is_leaving(&vm("Shutoff", "Stop"), "a") && !is_leaving(&vm("Running", "Stop"), "b"));
        assert!(!is_leaving(&vm("Running", "None"), "a"), "it may wait for room itself");
        let pod = |node: &str, phase: &str| -> Arc<Pod> {
            let spec = format!("spec: {{nodeName: {node}, containers: []}}");
            Arc::new(yaml(&format!("metadata: {{name: p}}\n{spec}\nstatus: {{phase: {phase}}}")))
        };
        assert!(!has_no_pod(&[pod("a", "Running")], "a"), "its room is its own, however long it takes");
        assert!(
            has_no_pod(&[], "a") && has_no_pod(&[pod("b", "Running")], "a") && has_no_pod(&[pod("a", "Failed")], "a")
        );
    }
}
