//! The reservation pod of a host: the memory of running domains that have no placement pod, and what an administrator
//! keeps for the host itself, so that kube-scheduler does not give it away. Its requests are changed in place.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use kubevmm_api::pod::has_ended;
use kubevmm_api::{EXTERNAL, Hypervisor, MANAGER_CONTROLLER, SYSTEM_NAMESPACE, names};
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
    /// Let the pod request this much.
    Resize(Requests),
    /// Delete the pod.
    Delete,
    /// Tell that the memory is not reserved, and why.
    Say(String),
}

/// What a pod requests, by resource.
pub type Requests = BTreeMap<String, Quantity>;
/// What is reserved.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// The API server writes a quantity in words of its own. In thousandths.
fn amount(quantity: Option<&Quantity>) -> Option<u64> {
    kubevmm_api::Quantity(quantity?.0.clone()).millis().ok().filter(|amount| *amount > 0)
}

/// What is to be reserved. The Node of an external host is its executor's, which leaves out what is kept for the host.
fn requests(hypervisor: &Hypervisor, is_external: bool) -> Requests {
    let unmanaged = hypervisor.status.as_ref().and_then(|status| status.unmanaged.as_ref());
    let used = unmanaged.and_then(|unmanaged| unmanaged.memory.bytes().ok()).unwrap_or_default();
    let kept = hypervisor.spec.system_reserved.as_ref().filter(|_| !is_external);
    let memory = kept.and_then(|kept| kept.memory.as_ref()?.bytes().ok()).unwrap_or_default();
    let millis = kept.and_then(|kept| kept.cpu.as_ref()?.millis().ok()).unwrap_or_default();
    let mut requests = Requests::new();
    if used.saturating_add(memory) > 0 {
        let memory = kubevmm_api::Quantity::from_bytes(used.saturating_add(memory));
        requests.insert("memory".into(), Quantity(memory.0));
    }
    if millis > 0 {
        requests.insert("cpu".into(), Quantity(format!("{millis}m")));
    }
    requests
}

/// The steps for the reservation of a host; `image` does nothing.
pub fn decide(hypervisor: &Hypervisor, is_external: bool, pod: Option<&Pod>, image: &str) -> Vec<Action> {
    let wanted = Some(requests(hypervisor, is_external)).filter(|all| !all.is_empty() && !is_deleting(hypervisor));
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

fn keep(pod: &Pod, wanted: Requests) -> Vec<Action> {
    if has_ended(pod) {
        return vec![Action::Delete];
    }
    let spec = pod.spec.as_ref();
    let container = spec.and_then(|spec| spec.containers.iter().find(|container| container.name == CONTAINER));
    let requests = container.and_then(|container| container.resources.as_ref()?.requests.as_ref());
    let is = |resource: &str| amount(requests.and_then(|requests| requests.get(resource)));
    if RESOURCES.iter().any(|resource| is(resource) != amount(wanted.get(*resource))) {
        let bound = spec.is_some_and(|spec| spec.node_name.is_some());
        let taken_away = RESOURCES.iter().any(|resource| is(resource).is_some() && !wanted.contains_key(*resource));
        // Where no kubelet has it yet, there is nothing to be changed in place; and a request cannot be taken away.
        return vec![if bound && !taken_away { Action::Resize(wanted) } else { Action::Delete }];
    }
    let conditions = || pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is = |kind: &str, holds: &str| conditions().find(|one| one.type_ == kind && one.status == holds);
    let missing = is("PodResizePending", "True").or_else(|| is("PodScheduled", "False"));
    let say = |why: &str| {
        Action::Say(format!(
            "{} for domains without a placement pod and for spec.systemReserved are not reserved on the node, which has \
             given it to other pods already: {why}. Move some of them away, or the domains",
            words(&wanted)
        ))
    };
    missing.map(|condition| say(condition.message.as_deref().unwrap_or("it has no room"))).into_iter().collect()
}

fn words(requests: &Requests) -> String {
    let each: Vec<String> = requests.iter().map(|(resource, amount)| format!("{} of {resource}", amount.0)).collect();
    each.join(" and ")
}

fn build(hypervisor: &Hypervisor, requests: Requests, image: &str) -> Pod {
    let host = name(hypervisor);
    let spec = PodSpec {
        affinity: affinity(None, Some(host)),
        containers: vec![Container {
            resources: Some(ResourceRequirements { requests: Some(requests), ..Default::default() }),
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
    let node = context.world.nodes.get(&ObjectRef::new(name(hypervisor)));
    let is_external = node.is_some_and(|node| node.labels().contains_key(EXTERNAL));
    let actions = decide(hypervisor, is_external, pod.as_deref(), &context.pause_image);
    if actions.is_empty() && pod.is_some() {
        context.pod_pauses.forget(uid(hypervisor));
    }
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
            Action::Resize(requests) => {
                let container = json!({"name": CONTAINER, "resources": {"requests": requests}});
                let body = json!({"spec": {"containers": [container]}});
                let params = PatchParams { field_manager: Some(MANAGER_CONTROLLER.into()), ..PatchParams::default() };
                let resized = pods.patch_subresource("resize", &pod_name, &params, &Patch::Strategic(body)).await;
                resized.map_err(|error| Error::api("resize", format!("Pod {pod_name}"), error))?;
            }
            Action::Delete => {
                let status = pod.as_deref().and_then(|pod| pod.status.as_ref());
                // A node that refuses it once, as for want of disk space, does so for a while.
                let why = status.and_then(|status| status.message.as_deref()).unwrap_or("it asks for something else");
                context.pod_pauses.failed(uid(hypervisor), why);
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

    fn decide(hypervisor: &Hypervisor, pod: Option<&Pod>, image: &str) -> Vec<Action> {
        super::decide(hypervisor, false, pod, image)
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
        assert_eq!(
            decide(&with("3Gi"), Some(&pod), "pause"),
            [Action::Resize(Requests::from([("memory".into(), Quantity("3Gi".into()))]))]
        );
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

    #[test]
    fn what_is_kept_for_the_host_is_reserved_where_a_kubelet_does_not_know_of_it() {
        let mut kept = with("1Gi");
        kept.spec.system_reserved = Some(serde_json::from_value(json!({"memory": "2Gi", "cpu": "500m"})).unwrap());
        let Some(Action::Create(pod)) = super::decide(&kept, false, None, "pause").pop() else { panic!("no pod") };
        let pod = serde_json::to_value(pod).unwrap();
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"], json!({"memory": "3Gi", "cpu": "500m"}));
        let Some(Action::Create(pod)) = super::decide(&kept, true, None, "pause").pop() else { panic!("no pod") };
        let pod = serde_json::to_value(pod).unwrap();
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"], json!({"memory": "1Gi"}), "its Node says so");
        let before = on_its_node("1Gi", "phase: Running");
        assert!(matches!(decide(&kept, Some(&before), "pause").as_slice(), [Action::Resize(_)]));
        let mut written: Pod = serde_json::from_value(pod).unwrap();
        let resources = written.spec.as_mut().unwrap().containers[0].resources.as_mut().unwrap();
        let canonical = [("cpu".to_owned(), Quantity("1".into())), ("memory".to_owned(), Quantity("500M".into()))];
        resources.requests = Some(canonical.into());
        kept.spec.system_reserved =
            Some(serde_json::from_value(json!({"memory": "500000000", "cpu": "1000m"})).unwrap());
        kept.status = None;
        assert_eq!(decide(&kept, Some(&written), "pause"), [], "the API server's own words");
        written.spec.as_mut().unwrap().node_name = Some("n1".into());
        assert_eq!(decide(&with("1Gi"), Some(&written), "pause"), [Action::Delete], "a request cannot be taken away");
    }
}
