//! The placement pod: how the scheduler, quota and the kubelet see a VM. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, Lifecycle, LifecycleHandler, Pod, PodCondition, PodSpec, ResourceRequirements, SecretVolumeSource,
    SleepAction, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kubevmm_api::effective::{self, EffectiveSpec, MergeError};
use kubevmm_api::pod::has_ended;
use kubevmm_api::requirements::{REQUIREMENTS, Requirements};
use kubevmm_api::vm::Placement;
use kubevmm_api::{EXTERNAL, LABEL_EPOCH, LABEL_VM, LABEL_VM_UID, SCHEDULER, names};
use serde::Serialize;

use crate::object::{controlled_by, is_controlled_by, uid};
use crate::pause::{idle, pause};
use crate::vm::affinity::affinity;
use crate::vm::eviction;
use crate::vm::requirements::{self, requirements};
use crate::vm::view::View;

/// Volume that brings the Secret of the user data to the node.
pub const USER_DATA_VOLUME: &str = "cloud-init-user-data";
/// Where the pause container has it, unread.
const USER_DATA_PATH: &str = "/run/kubevmm/cloud-init-user-data";
/// Annotation with a hash of the pod's spec: a pod that waits for a node is made anew when it would differ.
pub const SPEC_HASH: &str = "kubevmm.io/spec-hash";
/// Annotation with a hash of what the VM asks for, by whatever name the pod and its hosts go: what admission adds to the pod
/// is not the VM's doing.
const ASKED_HASH: &str = "kubevmm.io/asked-hash";
/// Annotation with the hosts that could take the VM when it was last said: kube-scheduler looks once more at a pod that it
/// has found no node for when the pod changes, and of hosts it hears nothing.
pub const HOSTS: &str = "kubevmm.io/hosts";
/// Why an eviction is one: reasons of the pod condition DisruptionTarget.
const EVICTIONS: [&str; 4] =
    ["PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager", "TerminationByKubelet"];

/// The merged spec of the VM.
pub fn merged(view: &View) -> Result<EffectiveSpec, MergeError> {
    let defaults = view.default_networks();
    let network = if let [only] = defaults.as_slice() { Some(*only) } else { None };
    let class = view.class.as_deref().map(|class| &class.spec);
    effective::merge(view.name(), view.uid(), &view.vm.spec, class, network)
}

/// The hosts that a placement pod is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Any that can take the VM.
    Any,
    /// The one where the VM has been placed, which must be able to start it.
    Back(&'a str),
    /// The one where the VM runs: nothing is asked any more, the pod only stands for it.
    Running(&'a str),
}

/// The placement pod of the VM at `epoch`.
pub fn build(view: &View, epoch: i64, target: Target<'_>) -> Result<Pod, MergeError> {
    let vm = &view.vm.spec;
    let merged = merged(view)?;
    // What runs has what it was started with.
    let started = view.vm.status.as_ref().and_then(|status| status.effective.as_ref());
    let running = started.filter(|_| matches!(target, Target::Running(_)));
    let needs = requirements(view, running.unwrap_or(&merged))?;
    let class = view.class.as_deref().map(|class| &class.spec);
    let millis = effective::cpu_request_millis(vm, class, view.millis_per_vcpu)?;
    let grace = vm.termination_grace_period_seconds;
    let placement = vm.placement.clone().unwrap_or_default();
    let secret = vm.cloud_init.as_ref().and_then(|init| init.user_data_secret_name.clone());
    let volume = secret.map(|name| Volume {
        name: USER_DATA_VOLUME.into(),
        // Optional: a missing Secret is told by the executor, in words, instead of by a pod that hangs.
        secret: Some(SecretVolumeSource { secret_name: Some(name), optional: Some(true), ..Default::default() }),
        ..Default::default()
    });
    let host = match target {
        Target::Any => needs.only_host(),
        Target::Back(host) | Target::Running(host) => Some(host),
    };
    let mut spec = PodSpec {
        affinity: affinity(placement.affinity.clone(), host),
        containers: vec![container(view, &needs, millis, grace, volume.is_some())],
        node_selector: (!placement.node_selector.is_empty()).then(|| placement.node_selector.clone()),
        priority_class_name: placement.priority_class_name.clone(),
        scheduler_name: Some(SCHEDULER.to_owned()),
        termination_grace_period_seconds: Some(grace + 30),
        tolerations: Some(tolerations(placement.tolerations.clone())),
        topology_spread_constraints: (!placement.topology_spread_constraints.is_empty())
            .then(|| placement.topology_spread_constraints.clone()),
        volumes: volume.map(|volume| vec![volume]),
        ..idle()
    };
    let mut asked = asked(&spec, &placement, &needs);
    if let Target::Running(host) = target {
        if running.is_some_and(|running| *running != merged) {
            // The next start is for another pod.
            asked = names::short_hash(&asked, 16);
        }
        only_stand_for(&mut spec, host);
    }
    let annotations = [
        (SPEC_HASH, names::short_hash(&json_of(&(&spec, &needs)), 16)),
        (ASKED_HASH, asked),
        (REQUIREMENTS, needs.to_annotation()),
    ];
    Ok(Pod {
        metadata: ObjectMeta {
            name: Some(names::placement_pod(view.name(), view.uid(), epoch)),
            namespace: Some(view.namespace().to_owned()),
            labels: Some(labels(view, epoch)),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value)).into()),
            owner_references: Some(vec![controlled_by(view.vm.as_ref(), false)]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    })
}

/// Where the VM runs, nothing is asked any more: the pod goes there whatever the node and its neighbours are like by now.
fn only_stand_for(spec: &mut PodSpec, host: &str) {
    spec.affinity = affinity(None, Some(host));
    (spec.node_selector, spec.topology_spread_constraints, spec.scheduler_name) = (None, None, None);
    spec.tolerations = Some(vec![Toleration { operator: Some("Exists".into()), ..Default::default() }]);
}

/// A hash of what of a pod follows from the VM and decides where it can run and what it brings there.
fn asked(spec: &PodSpec, placement: &Placement, needs: &Requirements) -> String {
    let resources = spec.containers.first().and_then(|container| container.resources.as_ref());
    let asked = (resources, placement, &spec.tolerations, &spec.volumes, requirements::asked(needs));
    names::short_hash(&json_of(&asked), 16)
}

fn json_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Whether the VM asks for something else by now than the pod that it was placed with. While the spec cannot be read, it
/// does not.
pub fn is_outdated(pod: &Pod, view: &View) -> bool {
    let of = |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|all| all.get(ASKED_HASH)).cloned();
    let wanted = build(view, 0, Target::Any).ok().as_ref().and_then(of);
    of(pod).zip(wanted).is_some_and(|(then, now)| then != now)
}

/// Whether `pod` is a placement pod of the VM `vm_uid` in `namespace`. Anybody who may make pods may label them: only the
/// controlling owner counts.
pub fn is_placement_pod(pod: &Pod, namespace: &str, vm_uid: &str) -> bool {
    pod.metadata.namespace.as_deref() == Some(namespace) && is_controlled_by(pod, vm_uid)
}

/// When the pod was given its node, and its UID for those of the same second.
pub fn bound_at(pod: &Pod) -> (Option<Timestamp>, &str) {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut bound = conditions.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "True");
    let at = bound.next().and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    (at, uid(pod))
}

fn labels(view: &View, epoch: i64) -> BTreeMap<String, String> {
    let mut labels = view.vm.metadata.labels.clone().unwrap_or_default();
    labels.insert(LABEL_VM.into(), view.name().to_owned());
    labels.insert(LABEL_VM_UID.into(), view.uid().to_owned());
    labels.insert(LABEL_EPOCH.into(), epoch.to_string());
    labels
}

fn container(view: &View, needs: &Requirements, millis: u64, grace: i64, secret: bool) -> Container {
    let list = |millis: u64| {
        let memory = Quantity(kubevmm_api::Quantity::from_bytes(needs.memory).0);
        Some(BTreeMap::from([("cpu".into(), Quantity(format!("{millis}m"))), ("memory".into(), memory)]))
    };
    let resources = ResourceRequirements {
        requests: list(millis),
        // The most that the VM can take. Without limits, a LimitRange would set its own, which may be below the requests.
        limits: list(millis.max(u64::from(needs.vcpus) * 1000)),
        ..Default::default()
    };
    Container {
        resources: Some(resources),
        // The kubelet brings only volumes that a container mounts.
        volume_mounts: secret.then(|| {
            vec![VolumeMount {
                name: USER_DATA_VOLUME.into(),
                mount_path: USER_DATA_PATH.into(),
                read_only: Some(true),
                ..Default::default()
            }]
        }),
        // Keeps the pod, and with it its node's memory accounting, while the guest shuts down.
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler { sleep: Some(SleepAction { seconds: grace + 15 }), ..Default::default() }),
            ..Default::default()
        }),
        ..pause(&view.pause_image)
    }
}

fn tolerations(mut wanted: Vec<Toleration>) -> Vec<Toleration> {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        // A VM outlives its kubelet: no eviction by time.
        wanted.push(Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            ..Default::default()
        });
    }
    // Other pods stay away from a host that has no kubelet.
    wanted.push(Toleration {
        key: Some(EXTERNAL.into()),
        operator: Some("Exists".into()),
        effect: Some("NoSchedule".into()),
        ..Default::default()
    });
    wanted
}

/// Where a pod has got to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// No node yet; the scheduler's word when it found none.
    Unbound(Option<String>),
    /// On its node, not running yet; what its container waits for.
    Starting(String),
    /// Running on the node.
    Running(String),
    /// Somebody asked for it to go: it is terminating, or was evicted.
    Leaving(String),
    /// It has ended without anybody asking, with what is said of it.
    Ended(String),
}

/// The condition DisruptionTarget of `pod`, when it holds for one of `reasons`.
pub fn disruption<'a>(pod: &'a Pod, reasons: &[&str]) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| {
        condition.type_ == "DisruptionTarget"
            && condition.status == "True"
            && condition.reason.as_deref().is_some_and(|reason| reasons.contains(&reason))
    })
}

/// Where `pod` has got to.
pub fn phase(pod: &Pod) -> Phase {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let eviction = disruption(pod, &EVICTIONS);
    let ended = has_ended(pod);
    if let Some(eviction) = eviction {
        let message = eviction.message.clone().or_else(|| eviction.reason.clone());
        return Phase::Leaving(message.unwrap_or_default());
    }
    let collected = conditions.iter().any(|condition| {
        condition.type_ == "DisruptionTarget" && condition.reason.as_deref() == Some("DeletionByPodGC")
    });
    if pod.metadata.deletion_timestamp.is_some() && !collected && !ended {
        return Phase::Leaving("the placement pod was deleted".into());
    }
    if ended || pod.metadata.deletion_timestamp.is_some() {
        return Phase::Ended(status.message.or(status.reason).unwrap_or_else(|| "the placement pod ended".into()));
    }
    if let Some(why) = eviction::asked(pod) {
        return Phase::Leaving(why.to_owned());
    }
    let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
        let refused =
            conditions.into_iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        return Phase::Unbound(refused.map(|condition| condition.message.unwrap_or_default()));
    };
    if status.phase.as_deref() == Some("Running") {
        return Phase::Running(node);
    }
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone()?;
        Some(match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason,
        })
    });
    Phase::Starting(waiting.unwrap_or_else(|| "ContainerCreating".into()))
}

/// What was last said of the hosts that could take the VM.
pub fn told_hosts(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(HOSTS).map(String::as_str)
}

/// Whether `pod` was made from another spec than `wanted`.
pub fn differs(pod: &Pod, wanted: &Pod) -> bool {
    let hash = |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|all| all.get(SPEC_HASH)).cloned();
    hash(pod) != hash(wanted)
}
