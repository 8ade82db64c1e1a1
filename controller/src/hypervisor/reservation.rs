//! The reservation pod of a host: the memory of running domains that have no placement pod, so that kube-scheduler does
//! not give it away. Its request is changed in place.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kubevmm_api::{Hypervisor, MANAGER_CONTROLLER, SYSTEM_NAMESPACE, names};
use serde_json::json;

use crate::context::Context;
use crate::error::Error;
use crate::object::{controlled_by, is_controlled_by, is_deleting, name, uid};
use crate::pause::{CONTAINER, idle, pause};
use crate::vm::affinity::affinity;
use crate::write::{self, Created};

/// Label of a reservation pod: the name of its host.
pub const LABEL: &str = "kubevmm.io/reservation";
/// PriorityClass of the reservation pods: what is used already is not to be preempted.
const PRIORITY: &str = "kubevmm-reservation";

/// A step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make the pod.
    Create(Box<Pod>),
    /// Let the pod request this much memory.
    Resize(Quantity),
    /// Delete the pod.
    Delete,
    /// Tell that the memory is not reserved, and why.
    Say(String),
}

/// The steps for the reservation of a host; `image` does nothing.
pub fn decide(hypervisor: &Hypervisor, pod: Option<&Pod>, image: &str) -> Vec<Action> {
    let unmanaged = hypervisor.status.as_ref().and_then(|status| status.unmanaged.as_ref());
    let bytes = unmanaged.and_then(|unmanaged| unmanaged.memory.bytes().ok()).unwrap_or_default();
    let wanted = (bytes > 0 && !is_deleting(hypervisor)).then(|| Quantity(kubevmm_api::Quantity::from_bytes(bytes).0));
    match (wanted, pod) {
        (None, None) => vec![],
        (_, Some(pod)) if is_deleting(pod) => vec![],
        // A namesake that is not ours is somebody else's to explain.
        (Some(_), Some(pod)) if !is_controlled_by(pod, uid(hypervisor)) => {
            vec![Action::Say(format!("a pod {} exists and is not this Hypervisor's: delete it", name(pod)))]
        }
        (None, Some(pod)) => {
            if is_controlled_by(pod, uid(hypervisor)) {
                vec![Action::Delete]
            } else {
                vec![]
            }
        }
        (Some(wanted), None) => vec![Action::Create(Box::new(build(hypervisor, wanted, image)))],
        (Some(wanted), Some(pod)) => keep(pod, wanted),
    }
}

fn keep(pod: &Pod, wanted: Quantity) -> Vec<Action> {
    let status = pod.status.clone().unwrap_or_default();
    if is_over(&status) {
        return vec![Action::Delete];
    }
    let spec = pod.spec.as_ref();
    let container = spec.and_then(|spec| spec.containers.iter().find(|container| container.name == CONTAINER));
    let requests = container.and_then(|container| container.resources.as_ref()?.requests.as_ref());
    if requests.and_then(|requests| requests.get("memory")) != Some(&wanted) {
        let bound = spec.is_some_and(|spec| spec.node_name.is_some());
        // Where no kubelet has it yet, there is nothing to be changed in place.
        return vec![if bound { Action::Resize(wanted) } else { Action::Delete }];
    }
    let conditions = status.conditions.unwrap_or_default();
    let is = |kind: &str, holds: &str| conditions.iter().find(|one| one.type_ == kind && one.status == holds);
    let missing = is("PodResizePending", "True").or_else(|| is("PodScheduled", "False"));
    let say = |why: &str| {
        Action::Say(format!(
            "{} of memory of domains without a placement pod are not reserved on the node, which has given it to other \
             pods already: {why}. Move some of them away, or the domains",
            wanted.0
        ))
    };
    missing.map(|condition| say(condition.message.as_deref().unwrap_or("it has no room"))).into_iter().collect()
}

fn build(hypervisor: &Hypervisor, memory: Quantity, image: &str) -> Pod {
    let host = name(hypervisor);
    let spec = PodSpec {
        affinity: affinity(None, Some(host)),
        containers: vec![Container {
            resources: Some(ResourceRequirements {
                requests: Some(BTreeMap::from([("memory".into(), memory)])),
                ..Default::default()
            }),
            ..pause(image)
        }],
        priority_class_name: Some(PRIORITY.into()),
        termination_grace_period_seconds: Some(1),
        // The domains run there, whatever the node is kept free of.
        tolerations: Some(vec![Toleration { operator: Some("Exists".into()), ..Default::default() }]),
        ..idle()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(names::reservation_pod(host)),
            namespace: Some(SYSTEM_NAMESPACE.into()),
            labels: Some(BTreeMap::from([
                ("app.kubernetes.io/part-of".into(), "kubevmm".into()),
                (LABEL.into(), host.to_owned()),
            ])),
            owner_references: Some(vec![controlled_by(hypervisor, false)]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// Takes the steps for the reservation of a host; when to look again.
pub async fn reconcile(context: &Context, hypervisor: &Hypervisor) -> Result<Option<Duration>, Error> {
    let pod = context.world.reservation(name(hypervisor));
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), SYSTEM_NAMESPACE);
    let pod_name = names::reservation_pod(name(hypervisor));
    let notice = format!("{}/reservation", uid(hypervisor));
    let actions = decide(hypervisor, pod.as_deref(), &context.pause_image);
    if !actions.iter().any(|action| matches!(action, Action::Say(_))) {
        context.notices.forget(&notice);
    }
    for action in actions {
        match action {
            Action::Create(pod) => {
                if let Some(pause) = context.pod_pauses.get(uid(hypervisor)) {
                    return Ok(Some(pause.left));
                }
                if let Created::Refused(message) = write::create(&pods, pod.as_ref()).await? {
                    return Err(Error::Refused { object: format!("Pod {SYSTEM_NAMESPACE}/{pod_name}"), message });
                }
            }
            Action::Resize(memory) => {
                let container = json!({"name": CONTAINER, "resources": {"requests": {"memory": memory}}});
                let body = json!({"spec": {"containers": [container]}});
                let params = PatchParams { field_manager: Some(MANAGER_CONTROLLER.into()), ..PatchParams::default() };
                let resized = pods.patch_subresource("resize", &pod_name, &params, &Patch::Strategic(body)).await;
                resized.map_err(|error| Error::api("resize", format!("Pod {pod_name}"), error))?;
            }
            Action::Delete => {
                let ended = pod.as_deref().and_then(|pod| pod.status.as_ref()).filter(|status| is_over(status));
                if let Some(status) = ended {
                    // A node that refuses it once, as for want of disk space, does so for a while.
                    context.pod_pauses.failed(uid(hypervisor), status.message.as_deref().unwrap_or_default());
                }
                let uid = pod.as_deref().map(uid).unwrap_or_default();
                write::delete(&pods, &pod_name, uid, None).await?;
            }
            Action::Say(message) => {
                if context.notices.is_news(&notice, &message) {
                    context.events.warning(hypervisor, "Reserve", "MemoryNotReserved", message);
                }
            }
        }
    }
    Ok(None)
}

fn is_over(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn host(status: &str) -> Hypervisor {
        yaml(&format!("metadata: {{name: n1, uid: h}}\nspec: {{}}\nstatus: {{{status}}}"))
    }

    fn with(memory: &str) -> Hypervisor {
        host(&format!("unmanaged: {{domains: 1, vcpus: 1, memory: {memory}}}"))
    }

    fn made(memory: &str) -> Pod {
        match decide(&with(memory), None, "pause").as_slice() {
            [Action::Create(pod)] => pod.as_ref().clone(),
            other => panic!("{other:?}"),
        }
    }

    fn on_its_node(memory: &str, status: &str) -> Pod {
        let mut pod = made(memory);
        pod.spec.as_mut().unwrap().node_name = Some("n1".into());
        let said: Pod = yaml(&format!("metadata: {{}}\nstatus: {{{status}}}"));
        pod.status = said.status;
        pod
    }

    #[test]
    fn the_memory_of_what_has_no_pod_is_reserved_on_its_node() {
        assert_eq!(decide(&host(""), None, "pause"), []);
        assert_eq!(decide(&with("0"), None, "pause"), []);
        let pod = serde_json::to_value(made("2560Mi")).unwrap();
        assert_eq!(pod["metadata"]["name"], "kubevmm-reservation-n1");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["controller"], true, "kubectl drain asks for it");
        assert_eq!(pod["spec"]["containers"][0]["resources"], json!({"requests": {"memory": "2560Mi"}}));
        assert_eq!(pod["spec"]["tolerations"], json!([{"operator": "Exists"}]));
        assert_eq!(pod["spec"]["priorityClassName"], "kubevmm-reservation");
        let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(required["nodeSelectorTerms"][0]["matchFields"][0]["values"], json!(["n1"]));
    }

    #[test]
    fn it_grows_and_shrinks_in_place_and_goes_with_the_domains() {
        let pod = on_its_node("1Gi", "phase: Running");
        assert_eq!(decide(&with("1Gi"), Some(&pod), "pause"), []);
        assert_eq!(decide(&with("1048576Ki"), Some(&pod), "pause"), [], "the same in other words");
        assert_eq!(decide(&with("3Gi"), Some(&pod), "pause"), [Action::Resize(Quantity("3Gi".into()))]);
        assert_eq!(decide(&host(""), Some(&pod), "pause"), [Action::Delete]);
        assert_eq!(decide(&with("3Gi"), Some(&made("1Gi")), "pause"), [Action::Delete], "no kubelet has it yet");
        let ended = on_its_node("1Gi", "phase: Failed, reason: OutOfmemory");
        assert_eq!(decide(&with("1Gi"), Some(&ended), "pause"), [Action::Delete]);
        let mut foreign = pod;
        foreign.metadata.owner_references = None;
        assert_eq!(decide(&host(""), Some(&foreign), "pause"), [], "not ours to delete");
        let actions = decide(&with("1Gi"), Some(&foreign), "pause");
        assert!(matches!(actions.as_slice(), [Action::Say(why)] if why.contains("delete it")), "{actions:?}");
    }

    #[test]
    fn a_node_without_room_is_told_and_not_asked_again() {
        for status in [
            "phase: Running, conditions: [{type: PodResizePending, status: 'True', reason: Infeasible, message: too much}]",
            "phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: too much}]",
        ] {
            let actions = decide(&with("9Gi"), Some(&on_its_node("9Gi", status)), "pause");
            let [Action::Say(why)] = actions.as_slice() else { panic!("{actions:?}") };
            assert!(why.starts_with("9Gi of memory") && why.contains("too much"), "{why}");
        }
    }
}
