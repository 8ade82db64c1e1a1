//! Answers for the placement pods of this host, as its kubelet would: they are all the pods that it knows. Others that
//! are bound here (a DaemonSet tolerates everything) stay as they are.

mod decide;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::Config;
use kubevmm_api::VirtualMachineStatus;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::Error;
use crate::api::{is_conflict, is_not_found, limited};
use crate::host::Context;
use crate::node::status::Host;
use crate::store::Cache;
use decide::{Action, Answer, Resources, Seen};

/// The pause after a request that failed.
const RETRY: Duration = Duration::from_secs(2);
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers for as long as the process lives.
pub async fn run(context: Context, host: Host) {
    let here = Config::default().fields(&format!("spec.nodeName={}", host.name));
    let pods = Cache::<Pod>::start(Api::all(context.client.clone()), here, |_| {});
    pods.ready().await;
    let mut changes = pods.changes();
    let (mut vms, mut nodes) = (context.store.vms.changes(), context.store.nodes.changes());
    let mut leaving = HashMap::new();
    loop {
        let now = Instant::now();
        let answers = answers(&context, &host, &pods.list(), &mut leaving, now);
        let mut wake = answers.iter().filter_map(|answer| answer.wake).min();
        for answer in &answers {
            let Some(action) = &answer.action else { continue };
            if let Err(error) = act(&context, &host, &answer.pod, action).await {
                let pod = answer.pod.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(pod, %error, "cannot answer for a placement pod; trying again");
                wake = Some(wake.map_or(now + RETRY, |at| at.min(now + RETRY)));
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            _ = vms.changed() => {}
            _ = nodes.changed() => {}
            () = tokio::time::sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
        }
    }
}

/// What to do about each pod of ours. `leaving` remembers since when a pod has been asked to go, by this host's clock.
fn answers(
    context: &Context,
    host: &Host,
    pods: &[Arc<Pod>],
    leaving: &mut HashMap<String, Instant>,
    now: Instant,
) -> Vec<Answer> {
    let mut seen = Vec::new();
    for pod in pods.iter().filter(|pod| decide::is_ours(pod, &host.name)) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let leaves = pod.metadata.deletion_timestamp.is_some();
        let since = leaves.then(|| *leaving.entry(uid).or_insert(now));
        seen.push(Seen { pod: Arc::clone(pod), leaving_since: since, in_use: is_in_use(context, pod) });
    }
    leaving.retain(|uid, _| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid)));
    let node = context.store.nodes.get_cluster(&host.name);
    let allocatable = node.as_ref().and_then(|node| node.status.as_ref()?.allocatable.as_ref());
    let conditions = node.iter().filter_map(|node| node.status.as_ref()?.conditions.as_ref()).flatten();
    let is_ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    decide::decide(seen, allocatable.and_then(Resources::allocatable), is_ready, now)
}

/// Whether a domain may run for this pod still.
fn is_in_use(context: &Context, pod: &Pod) -> bool {
    let (Some(namespace), Some((name, uid))) = (&pod.metadata.namespace, decide::vm_of(pod)) else { return false };
    let vm = context.store.vms.get(namespace, name);
    let stands_on = |status: &VirtualMachineStatus| {
        status.placement.as_ref().is_some_and(|placement| placement.pod_uid == pod.metadata.uid)
    };
    vm.is_some_and(|vm| {
        let status = vm.status.as_ref();
        vm.metadata.uid.as_deref() == Some(uid) && status.is_some_and(|status| stands_on(status) && status.is_active())
    })
}

async fn act(context: &Context, host: &Host, pod: &Pod, action: &Action) -> Result<(), Error> {
    let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    let api = Api::<Pod>::namespaced(context.client.clone(), namespace.unwrap_or_default());
    let name = name.unwrap_or_default();
    tracing::info!(pod = name, namespace, ?action, "answering for a placement pod");
    let status = match action {
        Action::Remove => {
            let uid = pod.metadata.uid.clone();
            let preconditions = Some(Preconditions { uid, resource_version: None });
            let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
            return done(limited(API_TIMEOUT, api.delete(name, &params)).await.map(drop));
        }
        Action::Run => running(pod, host, &super::now()),
        Action::Ready => json!({"conditions": conditions(&super::now())}),
        Action::Resize => json!({"containerStatuses": containers(pod, &super::now())}),
        Action::Refuse { reason, message } => json!({"phase": "Failed", "reason": reason, "message": message}),
    };
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    let params = PatchParams::default();
    done(limited(API_TIMEOUT, api.patch_status(name, &params, &Patch::Strategic(&patch))).await.map(drop))
}

/// A pod that is gone, or is another one of this name, needs no answer any more.
fn done(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        result => result,
    }
}

/// The status of a pod that runs.
fn running(pod: &Pod, host: &Host, now: &Time) -> Json {
    json!({
        "phase": "Running",
        "startTime": now,
        "hostIP": host.address.to_string(),
        "hostIPs": [{"ip": host.address.to_string()}],
        "conditions": conditions(now),
        "containerStatuses": containers(pod, now),
    })
}

/// The conditions of a pod that runs.
fn conditions(now: &Time) -> [Json; 4] {
    let kinds = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];
    kinds.map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": now}))
}

/// The containers, as if they ran: with the resources that they ask for. (A pod that does not tell them cannot be resized.)
fn containers(pod: &Pod, now: &Time) -> Vec<Json> {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).unwrap_or(now);
    let container = |container: &Container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        json!({"name": container.name, "image": container.image, "imageID": "", "ready": true, "started": true,
               "restartCount": 0, "state": {"running": {"startedAt": started}},
               "resources": container.resources, "allocatedResources": requests})
    };
    pod.spec.iter().flat_map(|spec| &spec.containers).map(container).collect()
}
