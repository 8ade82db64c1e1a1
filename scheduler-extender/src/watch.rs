//! The watches that keep the cache.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, select_all};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use kubevmm_api::{EXTERNAL, Hypervisor, LABEL_VM, NODE_LEASE_NAMESPACE, SYSTEM_NAMESPACE};
use serde::de::DeserializeOwned;

use crate::Error;
use crate::cache::{Cache, State, Watched};

/// What a watch tells.
#[derive(Debug)]
pub enum Seen<'a, K> {
    /// The object is there, or has changed.
    There(&'a K),
    /// The object is gone.
    Gone(&'a K),
    /// Those with these keys are all that there are.
    All(&'a HashSet<String>),
}

/// Keeps the cache up to date, until that is no longer possible.
pub async fn watch(client: &Client, cache: &Arc<Cache>) -> Error {
    let leases = |kind: Watched| {
        move |state: &mut State, seen: Seen<'_, Lease>| {
            match seen {
                Seen::There(lease) => state.put_lease(kind, lease, Instant::now())?,
                Seen::Gone(lease) => state.drop_lease(kind, &name(lease)),
                Seen::All(names) => state.retain_leases(kind, names),
            }
            Ok(())
        }
    };
    let all = watcher::Config::default();
    let watches: Vec<BoxFuture<'_, Error>> = vec![
        mirror(Api::all(client.clone()), all.clone(), cache, Watched::Hypervisors, name, hypervisors).boxed(),
        mirror(
            Api::namespaced(client.clone(), SYSTEM_NAMESPACE),
            all.clone(),
            cache,
            Watched::Leases,
            name,
            leases(Watched::Leases),
        )
        .boxed(),
        mirror(
            Api::namespaced(client.clone(), NODE_LEASE_NAMESPACE),
            all.clone().labels(EXTERNAL),
            cache,
            Watched::NodeLeases,
            name,
            leases(Watched::NodeLeases),
        )
        .boxed(),
        mirror(Api::all(client.clone()), all.labels(LABEL_VM), cache, Watched::Pods, uid, pods).boxed(),
    ];
    select_all(watches).await.0
}

fn name<K: Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}

fn uid<K: Resource>(object: &K) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

fn hypervisors(state: &mut State, seen: Seen<'_, Hypervisor>) -> Result<(), Error> {
    match seen {
        Seen::There(hypervisor) => state.put_hypervisor(hypervisor),
        Seen::Gone(hypervisor) => state.drop_hypervisor(&name(hypervisor)),
        Seen::All(names) => state.retain_hypervisors(names),
    }
    Ok(())
}

fn pods(state: &mut State, seen: Seen<'_, Pod>) -> Result<(), Error> {
    match seen {
        Seen::There(pod) => state.put_pod(pod),
        Seen::Gone(pod) => state.drop_pod(&uid(pod)),
        Seen::All(uids) => state.retain_pods(uids),
    }
    Ok(())
}

async fn mirror<K>(
    api: Api<K>,
    config: watcher::Config,
    cache: &Cache,
    kind: Watched,
    key: fn(&K) -> String,
    take: impl Fn(&mut State, Seen<'_, K>) -> Result<(), Error>,
) -> Error
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        let taken = match event {
            Ok(watcher::Event::Apply(object)) => cache.change(|state| take(state, Seen::There(&object))),
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(key(&object));
                cache.change(|state| take(state, Seen::There(&object)))
            }
            Ok(watcher::Event::Delete(object)) => cache.change(|state| take(state, Seen::Gone(&object))),
            Ok(watcher::Event::Init) => {
                listed.clear();
                Ok(())
            }
            Ok(watcher::Event::InitDone) => {
                let taken = cache.change(|state| take(state, Seen::All(&listed)));
                listed = HashSet::new();
                cache.listed(kind);
                taken
            }
            Err(error) => {
                tracing::warn!(%error, "the watch of {} failed; it starts again by itself", kind.name());
                Ok(())
            }
        };
        if let Err(error) = taken {
            return error;
        }
    }
    Error::WatchEnded(kind.name())
}
