//! VirtualMachine: disks, placement, hand-over, deletion.

pub mod admission;
pub mod affinity;
pub mod apply;
pub mod attempt;
pub mod candidates;
pub mod decide;
pub mod disks;
pub mod domain_needs;
pub mod domains;
pub mod eviction;
pub mod observe;
pub mod pauses;
pub mod placement;
pub mod pod;
pub mod requirements;
pub mod room;
pub mod status;
pub mod unschedulable;
pub mod view;

#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::context::Context;
use crate::error::Error;
use crate::vm::apply::Outcome;
use crate::vm::pod::Phase;
use crate::vm::view::View;
use crate::write;

/// One round for the VM `namespace/name`. Returns when to look again without being asked.
pub async fn reconcile(context: &Context, namespace: &str, name: &str) -> Result<Option<Duration>, Error> {
    let Some(mut view) = context.view_of_vm(namespace, name) else { return Ok(None) };
    if view.pods.iter().any(|pod| matches!(pod::phase(pod), Phase::Running(_))) {
        context.pod_pauses.forget(view.uid());
    }
    set_pauses(context, &mut view);
    if let Some(pod) = eviction::evicted(&view) {
        let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
        // Without an answer the eviction goes on as one: a VM that should leave its node must not wait for this.
        view.namespace_ends = write::is_namespace_ending(&pods, pod).await.unwrap_or_else(|error| {
            tracing::warn!(namespace, name, %error, "cannot ask whether the namespace is being deleted");
            false
        });
    }
    view.taken_by = room::taken_by(&context.world, &view);
    let actions = decide::decide(&view);
    tracing::debug!(namespace, name, ?actions, "decided");
    match apply::apply(context, &view, actions).await? {
        Outcome::Done => {}
        Outcome::PodRefused(message) => {
            context.pod_pauses.refused(view.uid(), &message);
            say_refusal(context, &mut view).await?;
        }
        Outcome::DiskRefused(message) => {
            context.disk_pauses.refused(view.uid(), &message);
            say_refusal(context, &mut view).await?;
        }
    }
    let pauses = [context.pod_pauses.get(view.uid()), context.disk_pauses.get(view.uid())];
    let room = view.taken_by.is_some().then_some(room::LOOK_AGAIN);
    Ok(pauses.into_iter().flatten().map(|pause| pause.left).chain(room).min())
}

fn set_pauses(context: &Context, view: &mut View) {
    view.pod_pause = context.pod_pauses.get(view.uid()).map(|pause| pause.why);
    view.disk_refused = context.disk_pauses.get(view.uid()).map(|pause| pause.why.1);
}

async fn say_refusal(context: &Context, view: &mut View) -> Result<(), Error> {
    set_pauses(context, view);
    apply::apply(context, view, decide::decide(view)).await.map(|_| ())
}
