//! What the API server says, kept current by watches. Reading it costs no request.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef, reflector};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Client, Resource};
use kubevmm_api::{
    ClusterVirtualMachineImage, ClusterVirtualMachineNetwork, Hypervisor, VirtualMachine, VirtualMachineClass,
    VirtualMachineDisk, VirtualMachineImage, VirtualMachineNetwork, VirtualMachineStoragePool,
};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The first pause after a watch that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest one: an API server that is back is noticed within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A watch that did not fail for this long has held.
const HELD: Duration = Duration::from_secs(30);

/// The objects of one kind that concern this host. Clones share them.
#[derive(Clone)]
pub struct Cache<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Hash + Eq + Clone,
{
    objects: reflector::Store<K>,
    changed: Arc<watch::Sender<u64>>,
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// An object of a namespace.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let mut key = ObjectRef::new(name);
        key.namespace = Some(namespace.to_owned());
        self.objects.get(&key)
    }

    /// An object of the cluster.
    pub fn get_cluster(&self, name: &str) -> Option<Arc<K>> {
        self.objects.get(&ObjectRef::new(name))
    }

    /// All objects.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects.state()
    }

    /// Learns when any of the objects changes. A receiver that is asked for now is current.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits for the first list. The cache is empty before it.
    pub async fn ready(&self) {
        // The writer lives as long as the process: its task never ends.
        drop(self.objects.wait_until_ready().await);
    }

    /// Starts a watch; each of its events is also given to `observe`.
    pub(crate) fn start(
        api: Api<K>,
        config: Config,
        mut observe: impl FnMut(&watcher::Event<K>) + Send + 'static,
    ) -> Self {
        let (objects, writer) = reflector::store();
        let changed = Arc::new(watch::Sender::new(0));
        let cache = Self { objects, changed: Arc::clone(&changed) };
        let events = reflector(writer, watcher(api, config).backoff(Pauses::default()));
        tokio::spawn(async move {
            let mut events = std::pin::pin!(log_errors(events));
            while let Some(event) = events.next().await {
                observe(&event);
                // A list is one change, at its end.
                if !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)) {
                    changed.send_modify(|count| *count = count.wrapping_add(1));
                }
            }
        });
        cache
    }
}

/// A watch that fails is tried again for ever; the log says so.
fn log_errors<K>(
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
) -> impl Stream<Item = watcher::Event<K>>
where
    K: Resource<DynamicType = ()>,
{
    events.filter_map(|event| async {
        event.inspect_err(|error| tracing::warn!(kind = %K::kind(&()), %error, "a watch failed; trying again")).ok()
    })
}

/// What happened to a VM in the watch of this node's.
#[derive(Clone, Debug)]
pub enum VmEvent {
    /// It is there, new or changed.
    Seen(Arc<VirtualMachine>),
    /// It has left the watch: deleted, or its status.nodeName is another one. Look again before anything is done.
    Left(Arc<VirtualMachine>),
    /// A list begins; those that it does not bring have left while nobody watched.
    ListBegins,
    /// The list is whole.
    ListEnds,
}

/// All the caches.
#[derive(Clone)]
pub struct Store {
    /// VMs whose status.nodeName is this node.
    pub vms: Cache<VirtualMachine>,
    /// Disks whose status.nodeName is this node.
    pub disks: Cache<VirtualMachineDisk>,
    /// All classes.
    pub classes: Cache<VirtualMachineClass>,
    /// All storage pools.
    pub pools: Cache<VirtualMachineStoragePool>,
    /// All networks of namespaces.
    pub networks: Cache<VirtualMachineNetwork>,
    /// All networks of the cluster.
    pub cluster_networks: Cache<ClusterVirtualMachineNetwork>,
    /// All images of namespaces.
    pub images: Cache<VirtualMachineImage>,
    /// All images of the cluster.
    pub cluster_images: Cache<ClusterVirtualMachineImage>,
    /// This node, for its labels.
    pub nodes: Cache<Node>,
    /// This host's Hypervisor object, with the status that was read or written last.
    pub hypervisors: Cache<Hypervisor>,
}

impl Store {
    /// Starts the watches for `node`; the receiver gets the events of its VMs.
    pub fn start(client: &Client, node: &str) -> (Self, mpsc::UnboundedReceiver<VmEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let placed_here = Config::default().fields(&format!("status.nodeName={node}"));
        let named = Config::default().fields(&format!("metadata.name={node}"));
        let forward = move |event: &watcher::Event<VirtualMachine>| {
            // Nobody listens any more when the executor is about to end.
            drop(sender.send(match event {
                watcher::Event::Apply(vm) | watcher::Event::InitApply(vm) => VmEvent::Seen(Arc::new(vm.clone())),
                watcher::Event::Delete(vm) => VmEvent::Left(Arc::new(vm.clone())),
                watcher::Event::Init => VmEvent::ListBegins,
                watcher::Event::InitDone => VmEvent::ListEnds,
            }));
        };
        let store = Self {
            vms: Cache::start(Api::all(client.clone()), placed_here.clone(), forward),
            disks: Cache::start(Api::all(client.clone()), placed_here, |_| {}),
            classes: all(client),
            pools: all(client),
            networks: all(client),
            cluster_networks: all(client),
            images: all(client),
            cluster_images: all(client),
            nodes: Cache::start(Api::all(client.clone()), named.clone(), |_| {}),
            hypervisors: Cache::start(Api::all(client.clone()), named, |_| {}),
        };
        (store, receiver)
    }

    /// Waits until each kind has been listed once.
    pub async fn ready(&self) {
        tokio::join!(
            self.vms.ready(),
            self.disks.ready(),
            self.classes.ready(),
            self.pools.ready(),
            self.networks.ready(),
            self.cluster_networks.ready(),
            self.images.ready(),
            self.cluster_images.ready(),
            self.nodes.ready(),
            self.hypervisors.ready(),
        );
    }

    /// The one cluster network that is annotated as the default; `None` when there is none, or several.
    pub fn default_network(&self) -> Option<String> {
        let is_default = |network: &&Arc<ClusterVirtualMachineNetwork>| {
            let annotations = network.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(kubevmm_api::IS_DEFAULT)).is_some_and(|value| value == "true")
        };
        let networks = self.cluster_networks.list();
        let mut defaults = networks.iter().filter(is_default);
        match (defaults.next(), defaults.next()) {
            (Some(network), None) => network.metadata.name.clone(),
            _ => None,
        }
    }
}

fn all<K>(client: &Client) -> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    Cache::start(Api::all(client.clone()), Config::default(), |_| {})
}

/// Doubling pauses with a short upper bound. The attempt itself counts as success to whoever resets them: only a watch
/// that has held for a while begins anew with a short one.
struct Pauses {
    next: Duration,
    last_failure: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST_PAUSE, last_failure: None }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last_failure.replace(now).is_some_and(|last| now - last > HELD) {
            self.next = FIRST_PAUSE;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

impl Backoff for Pauses {
    /// By time alone: see [`Pauses`].
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failed_watch_is_tried_again_within_five_seconds() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.next(), Some(FIRST_PAUSE));
        pauses.reset();
        assert_eq!(pauses.next(), Some(FIRST_PAUSE * 2), "a list that has begun is no watch that holds");
        assert_eq!(pauses.by_ref().nth(20), Some(LONGEST_PAUSE));
        tokio::time::advance(HELD + Duration::from_secs(1)).await;
        assert_eq!(pauses.next(), Some(FIRST_PAUSE), "it has held meanwhile");
    }
}
