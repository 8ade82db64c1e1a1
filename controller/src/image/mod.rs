//! VirtualMachineImage and ClusterVirtualMachineImage: the digest that every copy must have, and the count of copies.

pub mod decide;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use kubevmm_api::common::ImageKind;
use kubevmm_api::{ClusterVirtualMachineImage, VirtualMachineDisk, VirtualMachineImage, VirtualMachineImageStatus};

use crate::context::Context;
use crate::error::Error;
use crate::image::decide::View;
use crate::lifecycle::Action;
use crate::object::{is_deleting, uid};
use crate::write::{self, Object};

/// One round for the image `name` of `namespace`, or of the cluster.
pub async fn reconcile(context: &Context, namespace: Option<&str>, name: &str) -> Result<Option<Duration>, Error> {
    let world = &context.world;
    match namespace {
        Some(namespace) => {
            let Some(image) = world.images.get(&ObjectRef::new(name).within(namespace)) else { return Ok(None) };
            let api: Api<VirtualMachineImage> = Api::namespaced(context.client.clone(), namespace);
            let users = users(context, image.as_ref(), ImageKind::VirtualMachineImage, Some(namespace));
            let status = image.status.clone().unwrap_or_default();
            let view = View { status: &status, checksum: image.spec.checksum.as_deref(), users, hosts: &world.hosts() };
            apply(&api, image.as_ref(), &status, decide::decide(image.as_ref(), &view)).await
        }
        None => {
            let Some(image) = world.cluster_images.get(&ObjectRef::new(name)) else { return Ok(None) };
            let api: Api<ClusterVirtualMachineImage> = Api::all(context.client.clone());
            let users = users(context, image.as_ref(), ImageKind::ClusterVirtualMachineImage, None);
            let status = image.status.clone().unwrap_or_default();
            let view = View { status: &status, checksum: image.spec.checksum.as_deref(), users, hosts: &world.hosts() };
            apply(&api, image.as_ref(), &status, decide::decide(image.as_ref(), &view)).await
        }
    }
}

/// Disks that are copies of the image; looked for only when it is to be deleted.
fn users<K: Object>(context: &Context, image: &K, kind: ImageKind, namespace: Option<&str>) -> Vec<String> {
    if !is_deleting(image) {
        return vec![];
    }
    let name = crate::object::name(image);
    let uses = |disk: &VirtualMachineDisk| {
        disk.spec.source.image.as_ref().is_some_and(|source| source.kind == kind && source.name == name)
            && namespace.is_none_or(|namespace| disk.metadata.namespace.as_deref() == Some(namespace))
    };
    let mut users: Vec<String> =
        context.world.disks.state_filter(uses).iter().map(|disk| crate::object::describe(disk.as_ref())).collect();
    users.sort();
    users
}

async fn apply<K: Object>(
    api: &Api<K>,
    image: &K,
    before: &VirtualMachineImageStatus,
    actions: Vec<Action<VirtualMachineImageStatus>>,
) -> Result<Option<Duration>, Error> {
    for action in actions {
        match action {
            Action::AddFinalizer => write::add_finalizer(api, image).await?,
            Action::RemoveFinalizer => write::remove_finalizer(api, image).await?,
            Action::Write(mut status, ready) => {
                let generation = image.meta().generation;
                status.observed_generation = generation;
                status.conditions = vec![ready.over(&before.conditions, generation, &Time(Timestamp::now()))];
                if status != *before {
                    tracing::debug!(image = image.name_any(), uid = uid(image), "status");
                    write::apply_status(api, image, write::to_value(&status)).await?;
                }
            }
        }
    }
    Ok(None)
}
