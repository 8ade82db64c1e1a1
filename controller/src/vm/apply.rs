//! Takes the steps that were decided for a VM.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kubevmm_api::requirements::REQUIREMENTS;
use kubevmm_api::vm::PlacementStatus;
use kubevmm_api::{EVICT, VirtualMachine, VirtualMachineDisk, VirtualMachineStatus};

use crate::context::Context;
use crate::error::Error;
use crate::object::name;
use crate::vm::decide::Action;
use crate::vm::pod::{HOSTS, is_placement_pod};
use crate::vm::status::{StatusWanted, transitions};
use crate::vm::view::View;
use crate::write::{self, Created};

/// What became of the steps.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All were taken.
    Done,
    /// The API server refuses the placement pod, with this message.
    PodRefused(String),
    /// The API server refuses a disk, with this message.
    DiskRefused(String),
}

/// Takes `actions` in order.
pub async fn apply(context: &Context, view: &View, actions: Vec<Action>) -> Result<Outcome, Error> {
    let namespace = view.namespace();
    let vms: Api<VirtualMachine> = Api::namespaced(context.client.clone(), namespace);
    let disks: Api<VirtualMachineDisk> = Api::namespaced(context.client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let now = Time(Timestamp::now());
    for action in actions {
        match action {
            Action::AddFinalizer => write::add_finalizer(&vms, view.vm.as_ref()).await?,
            Action::RemoveFinalizer => {
                write::remove_finalizer(&vms, view.vm.as_ref()).await?;
                context.pod_pauses.forget(view.uid());
                context.disk_pauses.forget(view.uid());
            }
            Action::CreateDisk { disk, owned } => match write::create(&disks, disk.as_ref()).await? {
                Created::Yes(created) => {
                    if let Some(status) = owned.over(&created, &now) {
                        write::apply_status(&disks, created.as_ref(), status).await?;
                    }
                }
                // The mirror is about to show it.
                Created::Exists | Created::NoNamespace => {}
                Created::Refused(message) => return Ok(Outcome::DiskRefused(message)),
            },
            Action::WriteDisk { disk, owned } => {
                if let Some(status) = owned.over(&disk, &now) {
                    write::apply_status(&disks, disk.as_ref(), status).await?;
                }
            }
            Action::CreatePod(pod) => match write::create(&pods, pod.as_ref()).await? {
                Created::Yes(_) | Created::NoNamespace => {}
                Created::Refused(message) => return Ok(Outcome::PodRefused(message)),
                Created::Exists => {
                    if let Some(message) = foreign(&pods, view, pod.as_ref()).await? {
                        return Ok(Outcome::PodRefused(message));
                    }
                }
            },
            Action::DeletePod { name, uid, grace, failed } => {
                if let Some(why) = failed {
                    context.pod_pauses.failed(view.uid(), &why);
                }
                write::delete(&pods, &name, &uid, Some(grace)).await?;
            }
            Action::TellHosts { name, uid, hosts } => {
                write::annotate(&pods, &name, &uid, HOSTS, Some(&hosts)).await?;
            }
            Action::TellNeeds { name, uid, needs } => {
                write::annotate(&pods, &name, &uid, REQUIREMENTS, Some(&needs)).await?;
            }
            Action::ForgetEviction { name, uid } => write::annotate(&pods, &name, &uid, EVICT, None).await?,
            Action::WriteStatus(wanted) => {
                let Some(status) = wanted.over(&view.vm, &now) else { continue };
                if gives_word(&view.status(), &wanted) {
                    context.lease.renew().await?;
                }
                let after = write::apply_status(&vms, view.vm.as_ref(), status).await?;
                for event in transitions(&view.status(), &after.status.clone().unwrap_or_default()) {
                    context.events.send(&after, event.warning, "Place", &event.reason, event.message);
                }
            }
        }
    }
    Ok(Outcome::Done)
}

/// The status sends the VM to a host, or lets one start it: only the controller that holds the Lease may, and only on the
/// etcd that it knows.
fn gives_word(before: &VirtualMachineStatus, wanted: &StatusWanted) -> bool {
    let confirmed = |placement: &Option<PlacementStatus>| placement.as_ref().and_then(|p| p.confirmed.clone());
    let (was, is) = (confirmed(&before.placement), confirmed(&wanted.placement));
    (is.is_some() && is != was) || (wanted.node_name.is_some() && wanted.node_name != before.node_name)
}

/// What to say when the pod of this name is somebody else's.
async fn foreign(pods: &Api<Pod>, view: &View, wanted: &Pod) -> Result<Option<String>, Error> {
    let name = name(wanted);
    let found = pods.get_opt(name).await.map_err(|error| Error::api("read", format!("Pod {name}"), error))?;
    let theirs = found.is_some_and(|pod| !is_placement_pod(&pod, view.namespace(), view.uid()));
    Ok(theirs.then(|| format!("a pod {name} exists and is not this VM's: delete it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_is_shown_before_a_host_gets_the_word() {
        let status = |node: Option<&str>, confirmed: Option<&str>| VirtualMachineStatus {
            node_name: node.map(Into::into),
            placement: Some(PlacementStatus { confirmed: confirmed.map(Into::into), ..Default::default() }),
            ..Default::default()
        };
        let gives = |before: &VirtualMachineStatus, after: &VirtualMachineStatus| {
            gives_word(before, &StatusWanted::keep(after))
        };
        let (none, off) = (VirtualMachineStatus::default(), status(Some("a"), None));
        let (first, second) = (status(Some("a"), Some("a_1")), status(Some("a"), Some("a_2")));
        assert!(gives(&none, &first), "placed");
        assert!(gives(&none, &off), "taken over");
        assert!(gives(&off, &first) && gives(&first, &second), "confirmed for another session");
        assert!(!gives(&first, &first) && !gives(&first, &off) && !gives(&off, &none), "nothing new, or taken back");
    }
}
