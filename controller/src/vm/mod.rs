//! VirtualMachine: disks, placement, hand-over, deletion.

pub mod apply;
pub mod candidates;
pub mod decide;
pub mod disks;
pub mod pauses;
pub mod placement;
pub mod pod;
pub mod status;
pub mod view;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::context::Context;
use crate::error::Error;
use crate::vm::apply::Outcome;
use crate::vm::pod::Phase;

/// One round for the VM `namespace/name`. Returns when to look again without being asked.
pub async fn reconcile(context: &Context, namespace: &str, name: &str) -> Result<Option<Duration>, Error> {
    let Some(mut view) = context.view_of_vm(namespace, name) else { return Ok(None) };
    if view.pods.iter().any(|pod| matches!(pod::phase(pod), Phase::Running(_))) {
        context.pod_pauses.forget(view.uid());
    }
    let pause = context.pod_pauses.get(view.uid());
    view.pod_pause = pause.as_ref().map(|pause| pause.why.clone());
    let actions = decide::decide(&view);
    tracing::debug!(namespace, name, ?actions, "decided");
    match apply::apply(context, &view, actions).await? {
        Outcome::Done => Ok(context.pod_pauses.get(view.uid()).map(|pause| pause.left)),
        Outcome::PodRefused(message) => {
            context.pod_pauses.refused(view.uid(), &message);
            let pause = context.pod_pauses.get(view.uid());
            view.pod_pause = pause.as_ref().map(|pause| pause.why.clone());
            apply::apply(context, &view, decide::decide(&view)).await?;
            Ok(pause.map(|pause| pause.left))
        }
    }
}
