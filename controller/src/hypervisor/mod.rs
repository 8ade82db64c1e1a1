//! Hypervisor: one per Linux node, made by the controller, filled by the node's executor.

pub mod decide;

use std::time::Duration;

use kube::Api;
use kube::runtime::reflector::ObjectRef;
use kubevmm_api::Hypervisor;

use crate::context::Context;
use crate::error::Error;
use crate::write::{self, Created};

/// One round for the node `name`.
pub async fn reconcile(context: &Context, name: &str) -> Result<Option<Duration>, Error> {
    let Some(node) = context.world.nodes.get(&ObjectRef::new(name)) else { return Ok(None) };
    let known = context.world.hypervisors.get(&ObjectRef::new(name));
    if let Some(hypervisor) = decide::missing(&node, known.as_deref()) {
        let api: Api<Hypervisor> = Api::all(context.client.clone());
        if let Created::Refused(message) = write::create(&api, &hypervisor).await? {
            return Err(Error::Refused { object: format!("Hypervisor {name}"), message });
        }
    }
    Ok(None)
}
