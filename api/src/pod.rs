//! What is asked of pods in more than one program.

use k8s_openapi::api::core::v1::Pod;

/// The node that the scheduler has given the pod.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// Whether the pod has ended: to its kubelet, it has given up what it requested.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}
