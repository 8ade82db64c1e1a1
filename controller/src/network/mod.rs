//! VirtualMachineNetwork and ClusterVirtualMachineNetwork: on how many hosts they are up, and their end.

pub mod decide;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::runtime::reflector::ObjectRef;
use kubevmm_api::common::NetworkKind;
use kubevmm_api::{ClusterVirtualMachineNetwork, VirtualMachine, VirtualMachineNetwork, VirtualMachineNetworkStatus};

use crate::context::Context;
use crate::error::Error;
use crate::lifecycle::Action;
use crate::object::{describe, is_deleting, name};
use crate::write::{self, Object};

/// One round for the network `network` of `namespace`, or of the cluster.
pub async fn reconcile(context: &Context, namespace: Option<&str>, network: &str) -> Result<Option<Duration>, Error> {
    let world = &context.world;
    let hosts = world.hosts();
    match namespace {
        Some(namespace) => {
            let Some(network) = world.networks.get(&ObjectRef::new(network).within(namespace)) else { return Ok(None) };
            let api: Api<VirtualMachineNetwork> = Api::namespaced(context.client.clone(), namespace);
            let users = users(context, network.as_ref(), NetworkKind::VirtualMachineNetwork, Some(namespace));
            let before = network.status.clone().unwrap_or_default();
            apply(&api, network.as_ref(), &before, decide::decide(network.as_ref(), false, &users, &hosts)).await
        }
        None => {
            let Some(network) = world.cluster_networks.get(&ObjectRef::new(network)) else { return Ok(None) };
            let api: Api<ClusterVirtualMachineNetwork> = Api::all(context.client.clone());
            let users = users(context, network.as_ref(), NetworkKind::ClusterVirtualMachineNetwork, None);
            let before = network.status.clone().unwrap_or_default();
            let existing = network.spec.existing.is_some();
            apply(&api, network.as_ref(), &before, decide::decide(network.as_ref(), existing, &users, &hosts)).await
        }
    }
}

/// VMs that name the network, or run on it; looked for only when it is to be deleted.
fn users<K: Object>(context: &Context, network: &K, kind: NetworkKind, namespace: Option<&str>) -> Vec<String> {
    if !is_deleting(network) {
        return vec![];
    }
    let network = name(network);
    let uses = |vm: &VirtualMachine| {
        let here = namespace.is_none_or(|namespace| vm.metadata.namespace.as_deref() == Some(namespace));
        let named = vm.spec.networks.iter().filter_map(|nic| nic.network.as_ref());
        let effective = vm.status.as_ref().and_then(|status| status.effective.as_ref());
        let mut running = effective.iter().flat_map(|effective| &effective.networks);
        here && (named.into_iter().any(|nic| nic.kind == kind && nic.name == network)
            || running.any(|nic| nic.kind == kind && nic.network_name == network))
    };
    let mut users: Vec<String> = context.world.vms.state_filter(uses).iter().map(|vm| describe(vm.as_ref())).collect();
    users.sort();
    users
}

async fn apply<K: Object>(
    api: &Api<K>,
    network: &K,
    before: &VirtualMachineNetworkStatus,
    actions: Vec<Action<VirtualMachineNetworkStatus>>,
) -> Result<Option<Duration>, Error> {
    for action in actions {
        match action {
            Action::AddFinalizer => write::add_finalizer(api, network).await?,
            Action::RemoveFinalizer => write::remove_finalizer(api, network).await?,
            Action::Write(mut status, ready) => {
                let generation = network.meta().generation;
                status.observed_generation = generation;
                status.conditions = vec![ready.over(&before.conditions, generation, &Time(Timestamp::now()))];
                if status != *before {
                    write::apply_status(api, network, write::to_value(&status)).await?;
                }
            }
        }
    }
    Ok(None)
}
