//! VirtualMachineStoragePool: on how many hosts it can be used, and its end.

pub mod decide;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::runtime::reflector::ObjectRef;
use kubevmm_api::VirtualMachineStoragePool;

use crate::context::Context;
use crate::disk::decide::pool_of;
use crate::error::Error;
use crate::lifecycle::Action;
use crate::object::{describe, is_deleting};
use crate::write;

/// One round for the pool `name`.
pub async fn reconcile(context: &Context, name: &str) -> Result<Option<Duration>, Error> {
    let Some(pool) = context.world.pools.get(&ObjectRef::new(name)) else { return Ok(None) };
    let hosts = context.world.hosts();
    let users = if is_deleting(pool.as_ref()) { users(context, name) } else { vec![] };
    let api: Api<VirtualMachineStoragePool> = Api::all(context.client.clone());
    let before = pool.status.clone().unwrap_or_default();
    for action in decide::decide(&pool, &users, &hosts) {
        match action {
            Action::AddFinalizer => write::add_finalizer(&api, pool.as_ref()).await?,
            Action::RemoveFinalizer => write::remove_finalizer(&api, pool.as_ref()).await?,
            Action::Write(mut status, ready) => {
                let generation = pool.metadata.generation;
                status.observed_generation = generation;
                status.conditions = vec![ready.over(&before.conditions, generation, &Time(Timestamp::now()))];
                if status != before {
                    write::apply_status(&api, pool.as_ref(), write::to_value(&status)).await?;
                }
            }
        }
    }
    Ok(None)
}

/// Disks and cached images that lie in the pool.
fn users(context: &Context, name: &str) -> Vec<String> {
    let disks = context.world.disks.state_filter(|disk| pool_of(disk, &[]).as_deref() == Some(name));
    let mut users: Vec<String> = disks.iter().map(|disk| describe(disk.as_ref())).collect();
    users.extend(decide::images_in(name, &context.world.hosts()));
    users.sort();
    users.dedup();
    users
}
