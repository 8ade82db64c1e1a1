//! VirtualMachineDisk: its pool, its holder, its end.

pub mod apply;
pub mod decide;
pub mod status;

use std::time::Duration;

use kube::runtime::reflector::ObjectRef;

use crate::context::Context;
use crate::error::Error;

/// One round for the disk `namespace/name`.
pub async fn reconcile(context: &Context, namespace: &str, name: &str) -> Result<Option<Duration>, Error> {
    let world = &context.world;
    let Some(disk) = world.disks.get(&ObjectRef::new(name).within(namespace)) else { return Ok(None) };
    let used_by = disk.status.as_ref().and_then(|status| status.used_by.as_ref());
    let holder = used_by.and_then(|holder| world.vms.get(&ObjectRef::new(&holder.name).within(namespace)));
    let hosts = world.hosts();
    let default_pools = context.default_pools();
    let view = decide::View {
        disk: &disk,
        holder,
        default_pools: &default_pools,
        cluster_id: &context.cluster_id,
        hosts: &hosts,
    };
    apply::apply(context, &disk, decide::decide(&view)).await?;
    Ok(None)
}
