//! What to do about each placement pod: pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kubevmm_api::{GROUP, LABEL_VM, SYSTEM_NAMESPACE, names};
use tokio::time::Instant;

/// Grace of a pod that says none, as Kubernetes has it.
const GRACE: Duration = Duration::from_secs(30);

/// A placement pod, and what this host knows of it.
pub(super) struct Seen {
    pub pod: Arc<Pod>,
    /// Since when it has been asked to go.
    pub leaving_since: Option<Instant>,
    /// A domain runs for it.
    pub in_use: bool,
}

/// What to do about a pod, and when to look again without being told.
pub(super) struct Answer {
    pub pod: Arc<Pod>,
    pub action: Option<Action>,
    pub wake: Option<Instant>,
}

/// What a kubelet would tell the API server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It runs.
    Run,
    /// It is ready as it was: while nothing was known of the host, Kubernetes said that it is not.
    Ready,
    /// It has been given the resources that it asks for by now.
    Resize,
    /// There is no room for it.
    Refuse { reason: &'static str, message: String },
    /// It is gone.
    Remove,
}

/// CPU in thousandths, memory in bytes, and pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resources([u64; 3]);

/// The resources by Kubernetes' names, and why there is no room.
const KINDS: [(&str, &str); 3] = [("cpu", "OutOfcpu"), ("memory", "OutOfmemory"), ("pods", "OutOfpods")];

impl Resources {
    /// What a Node promises; `None` before it has told what it has.
    pub(super) fn allocatable(named: &BTreeMap<String, Quantity>) -> Option<Self> {
        let all = Self::of(named);
        (all.0[1] > 0).then_some(all)
    }

    /// What a Node or a container names. A quantity that is none counts as nothing.
    fn of(named: &BTreeMap<String, Quantity>) -> Self {
        let read = |name: &str| named.get(name).map(|quantity| kubevmm_api::Quantity(quantity.0.clone()));
        let whole = |name: &str| read(name).and_then(|quantity| quantity.bytes().ok()).unwrap_or_default();
        let millis = read("cpu").and_then(|quantity| quantity.millis().ok()).unwrap_or_default();
        Self([millis, whole("memory"), whole("pods")])
    }

    fn requested(pod: &Pod) -> Self {
        let mut sum = Self([0, 0, 1]);
        let spec = pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|spec| &spec.containers);
        let requests = containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref());
        for requests in requests.chain(spec.and_then(|spec| spec.overhead.as_ref())) {
            sum.add(Self::of(requests));
        }
        sum
    }

    fn add(&mut self, other: Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = own.saturating_add(other);
        }
    }
}

/// Whether this host answers for the pod: a placement pod, or the reservation for domains without one. Anybody who may
/// make pods may label them, so the owner counts.
pub(super) fn is_ours(pod: &Pod, node: &str) -> bool {
    vm_of(pod).is_some() || is_reservation(pod, node)
}

/// Name and uid of the VM that the pod stands for.
pub(super) fn vm_of(pod: &Pod) -> Option<(&str, &str)> {
    let labelled = pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_VM))?;
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    let of_group = owner.api_version.split_once('/').is_some_and(|(group, _)| group == GROUP);
    (of_group && owner.kind == "VirtualMachine" && owner.name == *labelled).then_some((&owner.name, &owner.uid))
}

fn is_reservation(pod: &Pod, node: &str) -> bool {
    pod.metadata.namespace.as_deref() == Some(SYSTEM_NAMESPACE)
        && pod.metadata.name.as_deref() == Some(names::reservation_pod(node).as_str())
}

/// What to do about `pods`, of which those that run already have their room. Without `allocatable` nothing is admitted
/// yet.
pub(super) fn decide(
    mut pods: Vec<Seen>,
    allocatable: Option<Resources>,
    node_is_ready: bool,
    now: Instant,
) -> Vec<Answer> {
    pods.sort_by_key(|seen| (seen.pod.metadata.creation_timestamp.clone(), seen.pod.metadata.uid.clone()));
    let mut used = Resources::default();
    for seen in pods.iter().filter(|seen| phase(&seen.pod) == "Running") {
        used.add(Resources::requested(&seen.pod));
    }
    pods.into_iter().map(|seen| answer(seen, allocatable, &mut used, node_is_ready, now)).collect()
}

fn answer(
    seen: Seen,
    allocatable: Option<Resources>,
    used: &mut Resources,
    node_is_ready: bool,
    now: Instant,
) -> Answer {
    let (action, wake) = match seen.leaving_since {
        Some(since) => leave(&seen, since, now),
        None => match phase(&seen.pod) {
            "Pending" => (allocatable.map(|all| admit(&seen.pod, all, used)), None),
            "Running" if is_resized(&seen.pod) => (Some(Action::Resize), None),
            "Running" if node_is_ready && is_called_unready(&seen.pod) => (Some(Action::Ready), None),
            _ => (None, None),
        },
    };
    Answer { pod: seen.pod, action, wake }
}

fn leave(seen: &Seen, since: Instant, now: Instant) -> (Option<Action>, Option<Instant>) {
    let seconds = seen.pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let until = since + seconds.map_or(GRACE, Duration::from_secs);
    if seen.in_use && now < until { (None, Some(until)) } else { (Some(Action::Remove), None) }
}

fn admit(pod: &Pod, allocatable: Resources, used: &mut Resources) -> Action {
    let requested = Resources::requested(pod);
    // A reservation stands for what is used already.
    let bounded = vm_of(pod).is_some();
    for (at, (name, reason)) in KINDS.into_iter().enumerate() {
        let (wanted, taken, all) = (requested.0[at], used.0[at], allocatable.0[at]);
        if bounded && wanted > 0 && taken.saturating_add(wanted) > all {
            let message = format!(
                "Pod was rejected: Node didn't have enough resource: {name}, requested: {wanted}, used: {taken}, capacity: {all}"
            );
            return Action::Refuse { reason, message };
        }
    }
    used.add(requested);
    Action::Run
}

/// Whether the pod asks for something else than it was last told to have. What a domain has is libvirt's to give, so there
/// is nothing to wait for. An API server that knows no resizing does not keep what was told.
fn is_resized(pod: &Pod) -> bool {
    let told: Vec<_> = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).collect();
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.any(|container| {
        let told = told.iter().find(|told| told.name == container.name).and_then(|told| told.resources.as_ref());
        told.is_some_and(|told| Some(told) != container.resources.as_ref())
    })
}

fn is_called_unready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status != "True")
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, memory: &str, phase: &str) -> Pod {
        serde_yaml_ng::from_str(&format!(
            "{{metadata: {{name: {name}, namespace: shop, uid: {name}, labels: {{kubevmm.io/vm: web}}, \
             deletionGracePeriodSeconds: 90, ownerReferences: [{{apiVersion: kubevmm.io/v1beta1, \
             kind: VirtualMachine, name: web, uid: v, controller: true}}]}}, spec: {{containers: [{{name: pause, \
             resources: {{requests: {{cpu: 100m, memory: {memory}}}}}}}]}}, status: {{phase: {phase}, \
             containerStatuses: [{{name: pause, image: i, imageID: '', ready: true, restartCount: 0, \
             resources: {{requests: {{cpu: 100m, memory: {memory}}}}}}}]}}}}"
        ))
        .unwrap()
    }

    fn seen(pod: Pod) -> Seen {
        Seen { pod: Arc::new(pod), leaving_since: None, in_use: false }
    }

    fn node() -> Option<Resources> {
        let quantity = |text: &str| Quantity(text.to_owned());
        let named = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")];
        Resources::allocatable(&named.map(|(name, text)| (name.to_owned(), quantity(text))).into())
    }

    fn actions(pods: Vec<Seen>, allocatable: Option<Resources>, now: Instant) -> Vec<Option<Action>> {
        decide(pods, allocatable, true, now).into_iter().map(|answer| answer.action).collect()
    }

    #[test]
    fn a_pod_runs_as_long_as_there_is_room() {
        let now = Instant::now();
        assert_eq!(actions(vec![seen(pod("a", "600Mi", "Pending"))], node(), now), [Some(Action::Run)]);
        let new = [("memory".to_owned(), Quantity("0".into()))].into();
        assert_eq!(Resources::allocatable(&new), None);
        assert_eq!(actions(vec![seen(pod("a", "600Mi", "Pending"))], None, now), [None], "nothing is known yet");
        let both = vec![seen(pod("a", "600Mi", "Running")), seen(pod("b", "600Mi", "Pending"))];
        let message = "Pod was rejected: Node didn't have enough resource: memory, requested: 629145600, used: 629145600, capacity: 1073741824";
        let refused = Action::Refuse { reason: "OutOfmemory", message: message.into() };
        assert_eq!(actions(both, node(), now), [None, Some(refused)]);
        let ended = vec![seen(pod("a", "600Mi", "Failed")), seen(pod("b", "600Mi", "Pending"))];
        assert_eq!(actions(ended, node(), now), [None, Some(Action::Run)], "what has ended takes no room");
        let many = ["a", "b", "c", "d"].map(|name| seen(pod(name, "1Mi", "Pending")));
        let reasons: Vec<_> = actions(many.into(), node(), now)
            .into_iter()
            .map(|action| match action {
                Some(Action::Refuse { reason, .. }) => reason,
                _ => "",
            })
            .collect();
        assert_eq!(reasons, ["", "", "", "OutOfpods"]);
    }

    #[test]
    fn a_pod_goes_when_its_domain_is_off_or_its_grace_has_passed() {
        let start = Instant::now();
        let leaving = |in_use| Seen { leaving_since: Some(start), in_use, ..seen(pod("a", "1Mi", "Running")) };
        assert_eq!(actions(vec![leaving(false)], node(), start), [Some(Action::Remove)]);
        let waiting = decide(vec![leaving(true)], node(), true, start);
        let until = start + Duration::from_secs(90);
        assert_eq!((&waiting[0].action, waiting[0].wake), (&None, Some(until)));
        assert_eq!(actions(vec![leaving(true)], node(), until), [Some(Action::Remove)]);
    }

    #[test]
    fn a_pod_that_asks_for_more_is_told_that_it_has_it() {
        let mut grown = pod("a", "1Mi", "Running");
        let container = &mut grown.spec.as_mut().unwrap().containers[0];
        let requests = container.resources.as_mut().unwrap().requests.as_mut().unwrap();
        requests.insert("memory".into(), Quantity("2Mi".into()));
        assert_eq!(actions(vec![seen(grown)], node(), Instant::now()), [Some(Action::Resize)]);
    }

    #[test]
    fn a_pod_is_ready_again_once_the_node_is() {
        let now = Instant::now();
        let unready = || {
            let mut pod = pod("a", "600Mi", "Running");
            let said: Pod =
                serde_yaml_ng::from_str("{metadata: {}, status: {conditions: [{type: Ready, status: 'False'}]}}")
                    .unwrap();
            pod.status.as_mut().unwrap().conditions = said.status.unwrap().conditions;
            seen(pod)
        };
        for (node_is_ready, action) in [(true, Some(Action::Ready)), (false, None)] {
            let answers = decide(vec![unready()], node(), node_is_ready, now);
            assert_eq!(answers[0].action, action);
        }
    }

    #[test]
    fn others_pods_are_left_alone() {
        assert_eq!(vm_of(&pod("a", "1Mi", "Pending")), Some(("web", "v")));
        let mut labelled = pod("a", "1Mi", "Pending");
        labelled.metadata.owner_references = None;
        let mut owned = pod("a", "1Mi", "Pending");
        owned.metadata.labels = None;
        let mut other_group = pod("a", "1Mi", "Pending");
        other_group.metadata.owner_references.as_mut().unwrap()[0].api_version = "example.com/v1".into();
        for foreign in [labelled, owned, other_group] {
            assert!(!is_ours(&foreign, "kvm1"));
        }
        let mut reservation = pod("kubevmm-reservation-kvm1", "1Mi", "Pending");
        (reservation.metadata.labels, reservation.metadata.owner_references) = (None, None);
        assert!(!is_ours(&reservation, "kvm1"), "in a namespace of somebody's");
        reservation.metadata.namespace = Some(SYSTEM_NAMESPACE.into());
        assert!(is_ours(&reservation, "kvm1") && !is_ours(&reservation, "kvm2"));
        let container = &mut reservation.spec.as_mut().unwrap().containers[0];
        container.resources.as_mut().unwrap().requests = Some([("memory".into(), Quantity("9Gi".into()))].into());
        assert_eq!(actions(vec![seen(reservation)], node(), Instant::now()), [Some(Action::Run)], "it is used already");
    }
}
