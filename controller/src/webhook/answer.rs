//! What the eviction of a placement pod brings about: pure. The VM is asked to leave, or the answer says why it stays. Where
//! nothing of the VM runs by the pod, the pod is deleted before its eviction, which the budget of the namespace would hold
//! up otherwise.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kubevmm_api::vm::Release;
use kubevmm_api::{LABEL_VM, power};

use crate::object::{enumerate, is_deleting, name};
use crate::vm::disks;
use crate::vm::eviction::{Verdict, verdict};
use crate::vm::pod::is_placement_pod;
use crate::vm::view::View;
use crate::webhook::review::Answer;

/// What an eviction brings about.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What is done before the answer.
    pub deed: Option<Deed>,
    /// The answer.
    pub answer: Answer,
}

/// What an eviction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Asks the VM to leave.
    Evict,
    /// Deletes the pod.
    Delete,
}

/// What the eviction of `pod` brings about; `view` is that of the VM that the pod names.
pub fn decide(view: &View, pod: &Pod, dry_run: bool) -> Outcome {
    let answer = |answer: Answer| Outcome { deed: None, answer };
    let status = view.status();
    let placement = status.placement.clone().unwrap_or_default();
    let ours = is_placement_pod(pod, view.namespace(), view.uid());
    if !ours {
        return answer(Answer::Allow);
    }
    let vm = format!("VirtualMachine {}/{}", view.namespace(), view.name());
    let node = status.node_name.as_deref().unwrap_or_default();
    let later = |why: String| answer(Answer::Later(format!("{vm} {why}")));
    let empty = || {
        if dry_run {
            return answer(Answer::Would(format!("nothing of {vm} runs by its placement pod, which would be deleted")));
        }
        // Of a pod that is being deleted already, no budget is asked.
        Outcome { deed: (!is_deleting(pod)).then_some(Deed::Delete), answer: Answer::Allow }
    };
    // Nothing runs by a pod that the VM is not placed with; another one follows it.
    if view.vm.spec.observed().is_some() || placement.pod_name.as_deref() != Some(name(pod)) {
        return empty();
    }
    let blocked = |why: String| answer(Answer::Blocked(format!("{vm} {why}")));
    if !view.hosts.is_live(node) {
        return blocked(format!(
            "is on node {node}, whose executor does not answer: whether it runs is not known. Bring the host back; or, \
             when it is off for good, taint the Node with {}:NoExecute and delete the VirtualMachine",
            crate::hosts::OUT_OF_SERVICE
        ));
    }
    if is_deleting(view.vm.as_ref()) {
        return later(format!("is being deleted, and has yet to leave node {node}"));
    }
    if placement.release != Release::None {
        return later(leaves(node, placement.release));
    }
    if !power::should_run(&view.vm.spec, &status) {
        return if status.is_active() { later(format!("is being shut down on node {node}")) } else { empty() };
    }
    let (would, says) = match verdict(view, &disks::decide(view), false) {
        Verdict::Stay(why) => return blocked(format!("stays on node {node}: {why}")),
        Verdict::Move => (format!("would be shut down to leave node {node}"), leaves(node, Release::Stop)),
        Verdict::Halt => (
            format!("would be shut down, and started on node {node} again when it takes VMs again"),
            leaves(node, Release::Halt),
        ),
    };
    if dry_run {
        return answer(Answer::Would(format!("{vm} {would}")));
    }
    Outcome { deed: Some(Deed::Evict), ..later(says) }
}

/// The controller's own pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPod {
    /// Its name.
    pub pod: String,
    /// Its node.
    pub node: String,
}

/// Whether the controller's own pod may leave its `node`: after the VMs, which could not without it. `pods` are the
/// placement pods of all VMs; it `is_awaited` by somebody who was told to ask again for one of them.
pub fn decide_own(node: &Node, pods: &[Arc<Pod>], is_awaited: bool) -> Answer {
    let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
    let on_node = |pod: &&Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(name(node));
    // Anybody may label pods: the owner counts.
    let is_vms = |pod: &&Arc<Pod>| {
        let mut owners = pod.owner_references().iter();
        owners.any(|owner| owner.controller == Some(true) && owner.kind == "VirtualMachine")
    };
    let vm = |pod: &Arc<Pod>| Some(format!("{}/{}", pod.namespace()?, pod.labels().get(LABEL_VM)?));
    let vms: Vec<String> = pods.iter().filter(on_node).filter(is_vms).filter_map(vm).collect();
    if !cordoned || (vms.is_empty() && !is_awaited) {
        return Answer::Allow;
    }
    let node = name(node);
    if vms.is_empty() {
        return Answer::Later(format!(
            "the controller of the VirtualMachines leaves node {node} after them: they have left, and who waits for them \
             has yet to see it"
        ));
    }
    let vms = enumerate(&vms);
    Answer::Later(format!("the controller of the VirtualMachines leaves node {node} after them: {vms} are there still"))
}

fn leaves(node: &str, release: Release) -> String {
    let later =
        if release == Release::Halt { ", and is started there again when the node takes VMs again" } else { "" };
    format!("is being shut down to leave node {node}{later}; kubectl drain tries again until it has left")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn the_controller_leaves_after_its_vms() {
        let node = |spec: &str| -> Node { yaml(&format!("metadata: {{name: a}}\nspec: {{{spec}}}")) };
        let pod = |node: &str| -> Arc<Pod> {
            let meta = "metadata: {name: kubevmm-web-0123abcd, namespace: shop, labels: {kubevmm.io/vm: web}, \
                        ownerReferences: [{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachine, name: web, uid: u, \
                        controller: true}]}";
            Arc::new(yaml(&format!("{meta}\nspec: {{nodeName: {node}, containers: []}}")))
        };
        let drained = node("unschedulable: true");
        let Answer::Later(why) = decide_own(&drained, &[pod("a"), pod("b")], false) else { panic!("it leaves first") };
        assert!(why.contains("shop/web are there still"), "{why}");
        assert!(matches!(decide_own(&drained, &[pod("b")], true), Answer::Later(_)), "they ask again");
        assert_eq!(decide_own(&drained, &[pod("b")], false), Answer::Allow);
        assert_eq!(decide_own(&node(""), &[pod("a")], true), Answer::Allow, "nobody drains the node");
    }
}
