//! What the scheduler says of a placement pod that it finds no node for, in the words of VMs. Pure.

use k8s_openapi::api::core::v1::Pod;
use kubevmm_api::SCHEDULER;

use crate::vm::candidates::Refusal;

/// Where the scheduler asks its extender, and what the extender calls itself.
const EXTENDER_URL: &str = "https://127.0.0.1:8443/";
const EXTENDER: &str = "kubevmm-scheduler-extender";

/// What the scheduler says of a node, and what can be done about it.
const ADVICE: [(&str, &str); 8] = [
    ("Too many pods", "each VM that runs is one pod: raise maxPods of the kubelets, or add a host"),
    ("untolerated taint", "spec.placement.tolerations of the VM says which taints it tolerates"),
    ("were unschedulable", "a node that is cordoned takes VMs again after kubectl uncordon"),
    (
        "didn't match Pod's node affinity/selector",
        "spec.placement.nodeSelector and spec.placement.affinity of the VM, or the place of its data, leave these nodes out",
    ),
    ("didn't match pod affinity rules", "spec.placement.affinity of the VM wants it near other VMs"),
    ("didn't match pod anti-affinity rules", "spec.placement.affinity of the VM keeps it away from other VMs"),
    (
        "didn't satisfy existing pods anti-affinity rules",
        "spec.placement.affinity of a VM that runs there keeps this one away",
    ),
    (
        "didn't match pod topology spread constraints",
        "spec.placement.topologySpreadConstraints of the VM allows no more there: set whenUnsatisfiable to ScheduleAnyway, \
         or add a host",
    ),
];

/// Why `pod` has no node: reason and message; nothing when the scheduler has not said anything yet.
pub fn explain(pod: &Pod) -> Option<Refusal> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref())?;
    let refused = conditions.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
    let said = refused.message.as_deref().unwrap_or_default().trim_end_matches('.');
    if refused.reason.as_deref() == Some("SchedulerError") {
        let by_extender = [EXTENDER_URL, EXTENDER].iter().any(|word| said.contains(word));
        let reason = if by_extender { "ExtenderUnavailable" } else { "SchedulerError" };
        let message = format!(
            "the scheduler {SCHEDULER} cannot place VMs, and tries again by itself: {said}. Look at it and its extender: \
             kubectl -n kubevmm-system get pods -l app.kubernetes.io/name={SCHEDULER}"
        );
        return Some((reason, message));
    }
    let mut parts = vec![said.to_owned()];
    for resource in ["memory", "cpu"] {
        if said.contains(&format!("Insufficient {resource}")) {
            parts.push(too_little(pod, resource));
        }
    }
    parts.extend(ADVICE.iter().filter(|(word, _)| said.contains(word)).map(|(_, advice)| (*advice).to_owned()));
    Some(("Unschedulable", parts.join("; ")))
}

fn too_little(pod: &Pod, resource: &str) -> String {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let requests = container.and_then(|container| container.resources.as_ref()?.requests.as_ref());
    let asked = requests.and_then(|requests| requests.get(resource)).map_or("?", |quantity| quantity.0.as_str());
    let (what, less) = match resource {
        "memory" => ("memory, its own and QEMU's", "spec.memory.size"),
        _ => ("CPU", "spec.cpu.request"),
    };
    format!("the VM asks for {asked} of {what}: stop another VM, lower {less}, or add a host")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn said(reason: &str, message: &str) -> Option<Refusal> {
        let pod: Pod = yaml(&format!(
            "metadata: {{name: p}}\nspec: {{containers: [{{name: c, resources: {{requests: {{memory: 393Mi, cpu: 200m}}}}}}]}}\n\
             status: {{conditions: [{{type: PodScheduled, status: 'False', reason: {reason}, message: \"{message}\"}}]}}"
        ));
        explain(&pod)
    }

    #[test]
    fn what_the_scheduler_says_is_followed_by_what_helps() {
        let (reason, message) = said(
            "Unschedulable",
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient memory. preemption: no.",
        )
        .unwrap();
        assert_eq!(reason, "Unschedulable");
        assert_eq!(
            message,
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient memory. preemption: no; the VM \
             asks for 393Mi of memory, its own and QEMU's: stop another VM, lower spec.memory.size, or add a host; \
             spec.placement.tolerations of the VM says which taints it tolerates"
        );
        let plain = said("Unschedulable", "0/3 nodes are available: 3 pool x").unwrap();
        assert_eq!(plain.1, "0/3 nodes are available: 3 pool x", "nothing is known to help");
    }

    #[test]
    fn an_extender_that_is_away_is_told_from_a_full_cluster() {
        let away = "Post https://127.0.0.1:8443/filter: connect: connection refused";
        let (reason, message) = said("SchedulerError", away).unwrap();
        assert_eq!(reason, "ExtenderUnavailable");
        assert!(message.contains("connection refused. Look at it"), "{message}");
        let early = "kubevmm-scheduler-extender has just started and has yet to list the Leases: it is asked again";
        assert_eq!(said("SchedulerError", early).unwrap().0, "ExtenderUnavailable");
        assert_eq!(said("SchedulerError", "binding rejected").unwrap().0, "SchedulerError");
    }

    #[test]
    fn before_the_scheduler_has_looked_it_has_said_nothing() {
        assert_eq!(explain(&Pod::default()), None);
    }
}
