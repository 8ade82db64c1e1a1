//! Hypervisor: one per Linux node, made by the controller, filled by the node's executor. Of one whose executor is silent
//! the controller says so.

pub mod decide;
pub mod reservation;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::runtime::reflector::ObjectRef;
use kubevmm_api::Hypervisor;
use serde_json::json;

use crate::context::Context;
use crate::error::Error;
use crate::object::uid;
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
    say_lost(context, name).await?;
    match known {
        Some(hypervisor) => reservation::reconcile(context, &hypervisor).await,
        None => Ok(None),
    }
}

/// Says once for each time that a Lease runs out that the host is not ready: what an executor writes after that is its
/// own word, and it takes the condition back when it returns.
async fn say_lost(context: &Context, name: &str) -> Result<(), Error> {
    let hosts = context.world.hosts();
    let Some(host) = hosts.get(name) else { return Ok(()) };
    let (Some((ready, lease)), Some(hypervisor)) = (decide::lost(host), host.hypervisor.as_deref()) else {
        return Ok(());
    };
    if !context.notices.is_news(uid(hypervisor), lease) {
        return Ok(());
    }
    let before = host.status().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let condition = ready.over(before, hypervisor.metadata.generation, &Time(Timestamp::now()));
    let api: Api<Hypervisor> = Api::all(context.client.clone());
    let written = write::apply_status(&api, hypervisor, json!({ "conditions": [condition] })).await;
    if let Err(error) = written {
        // It has not been said.
        context.notices.forget(uid(hypervisor));
        return Err(error);
    }
    context.events.warning(hypervisor, "Connect", ready.reason, ready.message);
    Ok(())
}
