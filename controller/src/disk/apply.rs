//! Takes the steps that were decided for a disk.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kubevmm_api::VirtualMachineDisk;

use crate::context::Context;
use crate::disk::decide::Action;
use crate::error::Error;
use crate::write;

/// Takes `actions` in order.
pub async fn apply(context: &Context, disk: &VirtualMachineDisk, actions: Vec<Action>) -> Result<(), Error> {
    let namespace = disk.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<VirtualMachineDisk> = Api::namespaced(context.client.clone(), namespace);
    for action in actions {
        match action {
            Action::AddFinalizer => write::add_finalizer(&api, disk).await?,
            Action::RemoveFinalizer => write::remove_finalizer(&api, disk).await?,
            Action::Write(owned) => {
                if let Some(status) = owned.over(disk, &Time(Timestamp::now())) {
                    write::apply_status(&api, disk, status).await?;
                }
            }
        }
    }
    Ok(())
}
