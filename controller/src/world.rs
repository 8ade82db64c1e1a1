//! What the API server holds, mirrored: one watch per kind, and the liveness of the hosts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::reflector::{self, ObjectRef, Store, reflector, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use kubevmm_api::fit::{Claims, Offer};
use kubevmm_api::{
    ClusterVirtualMachineImage, ClusterVirtualMachineNetwork, EXTERNAL, Hypervisor, LABEL_VM, LABEL_VM_UID,
    NODE_LEASE_NAMESPACE, SCHEDULER, SYSTEM_NAMESPACE, VirtualMachine, VirtualMachineClass, VirtualMachineDisk,
    VirtualMachineImage, VirtualMachineNetwork, VirtualMachineStoragePool, names,
};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch as flag};
use tokio::time::Instant;

use crate::budget;
use crate::error::Error;
use crate::hosts::{Host, Hosts, Liveness, Source, is_out_of_service};
use crate::hypervisor::reservation;
use crate::lease::LEASE_NAME;
use crate::object::name;
use crate::vm::candidates::count;
use crate::vm::pod::is_placement_pod;

/// The mirrored objects.
pub struct World {
    /// VirtualMachines.
    pub vms: Store<VirtualMachine>,
    /// VirtualMachineDisks.
    pub disks: Store<VirtualMachineDisk>,
    /// VirtualMachineClasses.
    pub classes: Store<VirtualMachineClass>,
    /// VirtualMachineImages.
    pub images: Store<VirtualMachineImage>,
    /// ClusterVirtualMachineImages.
    pub cluster_images: Store<ClusterVirtualMachineImage>,
    /// VirtualMachineStoragePools.
    pub pools: Store<VirtualMachineStoragePool>,
    /// VirtualMachineNetworks.
    pub networks: Store<VirtualMachineNetwork>,
    /// ClusterVirtualMachineNetworks.
    pub cluster_networks: Store<ClusterVirtualMachineNetwork>,
    /// Hypervisors.
    pub hypervisors: Store<Hypervisor>,
    /// Nodes.
    pub nodes: Store<Node>,
    /// Placement pods.
    pub pods: Store<Pod>,
    /// The PodDisruptionBudgets of the placement pods.
    pub budgets: Store<PodDisruptionBudget>,
    reservations: Store<Pod>,
    pods_by_vm: Mutex<PodsByVm>,
    leases: Leases,
    /// Of external hosts.
    node_leases: Leases,
    hosts: Mutex<Option<Arc<Hosts>>>,
    /// What each Hypervisor offers, as long as it is the same object.
    offers: Mutex<HashMap<String, Offered>>,
    claims: Arc<RwLock<Claims>>,
}

/// Namespaces and names of placement pods, by the UID of their VM.
type PodsByVm = HashMap<String, BTreeSet<(String, String)>>;

/// The Leases of executors in one namespace.
struct Leases {
    namespace: &'static str,
    labels: Option<&'static str>,
    liveness: Mutex<Liveness>,
    changed: Notify,
    listed: flag::Sender<bool>,
}

impl Leases {
    fn new(namespace: &'static str, labels: Option<&'static str>) -> Self {
        let (liveness, changed, listed) = (Mutex::default(), Notify::new(), flag::Sender::new(false));
        Self { namespace, labels, liveness, changed, listed }
    }

    async fn wait_until_listed(&self) {
        // The sender is this object's: it cannot be gone.
        drop(self.listed.subscribe().wait_for(|listed| *listed).await);
    }
}

/// What a Hypervisor offers, and the object that says so.
type Offered = (Arc<Hypervisor>, Arc<Offer>);

/// What has happened to the mirrored objects.
#[derive(Debug)]
pub enum Change {
    /// A VM is new, changed or gone.
    Vm(Box<VirtualMachine>),
    /// A disk is new, changed or gone.
    Disk(Box<VirtualMachineDisk>),
    /// A class is new, changed or gone.
    Class(VirtualMachineClass),
    /// An image is new, changed or gone.
    Image(VirtualMachineImage),
    /// A cluster image is new, changed or gone.
    ClusterImage(ClusterVirtualMachineImage),
    /// A pool is new, changed or gone.
    Pool(VirtualMachineStoragePool),
    /// A network is new, changed or gone.
    Network(VirtualMachineNetwork),
    /// A cluster network is new, changed or gone.
    ClusterNetwork(ClusterVirtualMachineNetwork),
    /// A Hypervisor is new, changed or gone.
    Hypervisor(Box<Hypervisor>),
    /// A Node is new, changed or gone.
    Node(Box<Node>),
    /// A placement pod is new, changed or gone.
    Pod(Box<Pod>),
    /// The PodDisruptionBudget of a namespace's placement pods is new, changed or gone.
    Budget(PodDisruptionBudget),
    /// The reservation pod of a host is new, changed or gone.
    Reservation(Box<Pod>),
    /// The Lease of a host's executor says something new, or has run out.
    Host(String),
    /// Anything may have changed: a watch has started anew.
    Everything,
}

/// Receives changes, after the mirror has taken them in.
pub type OnChange = Arc<dyn Fn(Change) + Send + Sync>;

/// How long the API server may take to show a Lease that is due.
const LEASE_READ: Duration = Duration::from_secs(5);
/// Pause after a Lease that is due could not be read.
const LEASE_READ_AGAIN: Duration = Duration::from_secs(1);

type Watch = BoxFuture<'static, Error>;

impl World {
    /// Builds the mirror, and the watches that keep it: each ends only with an error.
    pub fn new(client: &Client, on_change: &OnChange) -> (Arc<Self>, Vec<Watch>) {
        let (vms, vm_writer) = reflector::store();
        let (disks, disk_writer) = reflector::store();
        let (classes, class_writer) = reflector::store();
        let (images, image_writer) = reflector::store();
        let (cluster_images, cluster_image_writer) = reflector::store();
        let (pools, pool_writer) = reflector::store();
        let (networks, network_writer) = reflector::store();
        let (cluster_networks, cluster_network_writer) = reflector::store();
        let (hypervisors, hypervisor_writer) = reflector::store();
        let (nodes, node_writer) = reflector::store();
        let (pods, pod_writer) = reflector::store();
        let (reservations, reservation_writer) = reflector::store();
        let (budgets, budget_writer) = reflector::store();
        let world = Arc::new(Self {
            vms,
            disks,
            classes,
            images,
            cluster_images,
            pools,
            networks,
            cluster_networks,
            hypervisors,
            nodes,
            pods,
            reservations,
            budgets,
            pods_by_vm: Mutex::default(),
            leases: Leases::new(SYSTEM_NAMESPACE, None),
            node_leases: Leases::new(NODE_LEASE_NAMESPACE, Some(EXTERNAL)),
            hosts: Mutex::default(),
            offers: Mutex::default(),
            claims: Arc::default(),
        });
        let plain = watcher::Config::default;
        let pods = plain().labels(LABEL_VM);
        let reservations = plain().labels(reservation::LABEL);
        let budgets = plain().fields(&format!("metadata.name={}", budget::NAME));
        let watches = vec![
            watch(client, plain(), vm_writer, &world, on_change, |_, _, vm| Change::Vm(Box::new(vm))),
            watch(client, plain(), disk_writer, &world, on_change, |_, _, disk| Change::Disk(Box::new(disk))),
            watch(client, plain(), class_writer, &world, on_change, |_, _, class| Change::Class(class)),
            watch(client, plain(), image_writer, &world, on_change, |_, _, image| Change::Image(image)),
            watch(client, plain(), cluster_image_writer, &world, on_change, |_, _, image| Change::ClusterImage(image)),
            watch(client, plain(), pool_writer, &world, on_change, |_, _, pool| Change::Pool(pool)),
            watch(client, plain(), network_writer, &world, on_change, |_, _, network| Change::Network(network)),
            watch(client, plain(), cluster_network_writer, &world, on_change, |_, _, network| {
                Change::ClusterNetwork(network)
            }),
            watch(client, plain(), hypervisor_writer, &world, on_change, |world, _, hypervisor| {
                world.forget_hosts();
                Change::Hypervisor(Box::new(hypervisor))
            }),
            watch(client, plain(), node_writer, &world, on_change, |world, _, node| {
                world.forget_hosts();
                Change::Node(Box::new(node))
            }),
            watch_listed(client, pods, pod_writer, &world, on_change, World::index_pods, |world, there, pod| {
                world.index_pod(&pod, there);
                Change::Pod(Box::new(pod))
            }),
            watch(client, reservations, reservation_writer, &world, on_change, |_, _, pod| {
                Change::Reservation(Box::new(pod))
            }),
            watch(client, budgets, budget_writer, &world, on_change, |_, _, budget| Change::Budget(budget)),
            watch_leases(client, &world, |world| &world.leases, on_change).boxed(),
            watch_leases(client, &world, |world| &world.node_leases, on_change).boxed(),
            expire_leases(client, &world, |world| &world.leases, on_change).boxed(),
            expire_leases(client, &world, |world| &world.node_leases, on_change).boxed(),
        ];
        (world, watches)
    }

    /// Waits until every kind has been listed once. Only one may wait: a store wakes the last one.
    pub async fn wait_until_ready(&self) -> Result<(), Error> {
        let ended = |_| Error::WatchEnded("a kind that had to be listed first");
        self.vms.wait_until_ready().await.map_err(ended)?;
        self.disks.wait_until_ready().await.map_err(ended)?;
        self.classes.wait_until_ready().await.map_err(ended)?;
        self.images.wait_until_ready().await.map_err(ended)?;
        self.cluster_images.wait_until_ready().await.map_err(ended)?;
        self.pools.wait_until_ready().await.map_err(ended)?;
        self.networks.wait_until_ready().await.map_err(ended)?;
        self.cluster_networks.wait_until_ready().await.map_err(ended)?;
        self.hypervisors.wait_until_ready().await.map_err(ended)?;
        self.nodes.wait_until_ready().await.map_err(ended)?;
        self.pods.wait_until_ready().await.map_err(ended)?;
        self.reservations.wait_until_ready().await.map_err(ended)?;
        self.budgets.wait_until_ready().await.map_err(ended)?;
        // Without the Leases every host would look lost.
        self.leases.wait_until_listed().await;
        self.node_leases.wait_until_listed().await;
        Ok(())
    }

    /// The hosts, at this moment.
    pub fn hosts(&self) -> Arc<Hosts> {
        let mut cached = lock(&self.hosts);
        if let Some(hosts) = cached.as_ref() {
            return Arc::clone(hosts);
        }
        let hosts = Arc::new(self.gather_hosts());
        *cached = Some(Arc::clone(&hosts));
        hosts
    }

    /// The placement pods of the VM `uid` in `namespace`.
    pub fn pods_of(&self, namespace: &str, vm_uid: &str) -> Vec<Arc<Pod>> {
        let names = lock(&self.pods_by_vm).get(vm_uid).cloned().unwrap_or_default();
        let pods = names.iter().filter_map(|(there, name)| self.pods.get(&ObjectRef::new(name).within(there)));
        pods.filter(|pod| is_placement_pod(pod, namespace, vm_uid)).collect()
    }

    fn gather_hosts(&self) -> Hosts {
        let mut hosts = Hosts::default();
        let host = |hosts: &mut Hosts, name: &str, set: &dyn Fn(&mut Host)| {
            let entry = hosts.0.entry(name.to_owned());
            set(entry.or_insert_with(|| Host { name: name.to_owned(), ..Host::default() }));
        };
        for leases in [&self.leases, &self.node_leases] {
            let liveness = lock(&leases.liveness);
            for name in liveness.held() {
                // Of a host that has become an external one, or is one no longer, the Lease that is live counts.
                host(&mut hosts, name, &|host| {
                    if !host.is_live() {
                        host.lease = liveness.state(name);
                    }
                });
            }
        }
        let mut offers = lock(&self.offers);
        let before = std::mem::take(&mut *offers);
        for hypervisor in self.hypervisors.state() {
            let key = name(hypervisor.as_ref());
            let known = before.get(key).filter(|(known, _)| Arc::ptr_eq(known, &hypervisor));
            let offer = known.map_or_else(|| Arc::new(Offer::of(&hypervisor)), |(_, offer)| Arc::clone(offer));
            host(&mut hosts, key, &|host| {
                host.hypervisor = Some(Arc::clone(&hypervisor));
                host.offer = Some(Arc::clone(&offer));
            });
            offers.insert(key.to_owned(), (hypervisor, offer));
        }
        for node in self.nodes.state() {
            host(&mut hosts, name(node.as_ref()), &|host| host.out_of_service = is_out_of_service(&node));
        }
        hosts
    }

    fn forget_hosts(&self) {
        *lock(&self.hosts) = None;
    }

    /// The reservation pod of a host.
    pub fn reservation(&self, host: &str) -> Option<Arc<Pod>> {
        self.reservations.get(&ObjectRef::new(&names::reservation_pod(host)).within(SYSTEM_NAMESPACE))
    }

    /// What the placed VMs have been promised.
    pub fn claims(&self) -> Arc<RwLock<Claims>> {
        Arc::clone(&self.claims)
    }

    /// The pods that have been listed are all that there are.
    fn index_pods(&self) {
        let (mut claims, mut by_vm) = (Claims::default(), PodsByVm::new());
        for pod in self.pods.state() {
            count(&mut claims, &pod, true);
            index(&mut by_vm, &pod, true);
        }
        // Who looks meanwhile sees the old ones, and never a part of the new ones.
        *self.claims.write().unwrap_or_else(PoisonError::into_inner) = claims;
        *lock(&self.pods_by_vm) = by_vm;
    }

    fn index_pod(&self, pod: &Pod, there: bool) {
        count(&mut self.claims.write().unwrap_or_else(PoisonError::into_inner), pod, there);
        index(&mut lock(&self.pods_by_vm), pod, there);
    }
}

/// Takes a placement pod into the names by the UID of its VM, or out of them.
fn index(by_vm: &mut PodsByVm, pod: &Pod, there: bool) {
    let Some(vm_uid) = pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_VM_UID)) else { return };
    let key = (pod.metadata.namespace.clone().unwrap_or_default(), name(pod).to_owned());
    if there {
        by_vm.entry(vm_uid.clone()).or_default().insert(key);
    } else if let Some(names) = by_vm.get_mut(vm_uid) {
        names.remove(&key);
        if names.is_empty() {
            by_vm.remove(vm_uid);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is replaced or extended in one step: a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One watch.
fn watch<K>(
    client: &Client,
    config: watcher::Config,
    writer: Writer<K>,
    world: &Arc<World>,
    on_change: &OnChange,
    change: impl Fn(&World, bool, K) -> Change + Send + 'static,
) -> Watch
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    watch_listed(client, config, writer, world, on_change, |_| (), change)
}

/// As [`watch`], with what is done when everything has been listed anew.
fn watch_listed<K>(
    client: &Client,
    config: watcher::Config,
    writer: Writer<K>,
    world: &Arc<World>,
    on_change: &OnChange,
    on_listed: fn(&World),
    change: impl Fn(&World, bool, K) -> Change + Send + 'static,
) -> Watch
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let (world, on_change) = (Arc::clone(world), Arc::clone(on_change));
    let events = watcher(Api::<K>::all(client.clone()), config);
    async move {
        let kind: &'static str = std::any::type_name::<K>();
        let mut events = std::pin::pin!(reflector(writer, events).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(object)) => on_change(change(&world, true, object)),
                Ok(watcher::Event::Delete(object)) => on_change(change(&world, false, object)),
                // Listed objects are in the store with InitDone.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(watcher::Event::InitDone) => {
                    world.forget_hosts();
                    on_listed(&world);
                    on_change(Change::Everything);
                }
                Err(error) => tracing::warn!(kind, %error, "the watch failed; it starts again by itself"),
            }
        }
        Error::WatchEnded(kind)
    }
    .boxed()
}

/// Which Leases.
type Which = fn(&World) -> &Leases;

/// The Leases change without end: only what they say of the hosts is kept.
fn watch_leases(
    client: &Client,
    world: &Arc<World>,
    which: Which,
    on_change: &OnChange,
) -> impl Future<Output = Error> + 'static {
    let (world, on_change) = (Arc::clone(world), Arc::clone(on_change));
    let api: Api<Lease> = Api::namespaced(client.clone(), which(&world).namespace);
    async move {
        let leases = which(&world);
        let config = watcher::Config { label_selector: leases.labels.map(str::to_owned), ..Default::default() };
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listed: HashSet<String> = HashSet::new();
        while let Some(event) = events.next().await {
            let now = Instant::now();
            match event {
                Ok(watcher::Event::Apply(lease)) => {
                    if let Err(error) = world.observe(leases, &lease, Source::Watch, now, &on_change) {
                        return error;
                    }
                }
                Ok(watcher::Event::InitApply(lease)) => {
                    listed.insert(name(&lease).to_owned());
                    if let Err(error) = world.observe(leases, &lease, Source::Watch, now, &on_change) {
                        return error;
                    }
                }
                Ok(watcher::Event::Delete(lease)) => {
                    if lock(&leases.liveness).forget(name(&lease)) {
                        world.forget_hosts();
                        on_change(Change::Host(name(&lease).to_owned()));
                    }
                }
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitDone) => {
                    lock(&leases.liveness).retain(&listed);
                    leases.listed.send_replace(true);
                    world.forget_hosts();
                    on_change(Change::Everything);
                }
                Err(error) => tracing::warn!(%error, "the watch of Leases failed; it starts again by itself"),
            }
        }
        Error::WatchEnded("Lease")
    }
}

/// Declares hosts silent whose Lease has run out. A Lease that is due is read once more: a watch that hangs must not make
/// live hosts look lost.
fn expire_leases(
    client: &Client,
    world: &Arc<World>,
    which: Which,
    on_change: &OnChange,
) -> impl Future<Output = Error> + 'static {
    let (world, on_change) = (Arc::clone(world), Arc::clone(on_change));
    let api: Api<Lease> = Api::namespaced(client.clone(), which(&world).namespace);
    async move {
        let leases = which(&world);
        loop {
            let next = lock(&leases.liveness).next_expiry();
            let changed = leases.changed.notified();
            match next {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
            let now = Instant::now();
            let due = lock(&leases.liveness).due(now);
            for host in due {
                match tokio::time::timeout(LEASE_READ, api.get_opt(&host)).await {
                    Ok(Ok(Some(lease))) => {
                        if let Err(error) = world.observe(leases, &lease, Source::Read, Instant::now(), &on_change) {
                            return error;
                        }
                    }
                    Ok(Ok(None)) => {}
                    // Without the API server nothing is decided anyway.
                    Ok(Err(_)) | Err(_) => {
                        tokio::time::sleep(LEASE_READ_AGAIN).await;
                        continue;
                    }
                }
                if lock(&leases.liveness).expire(&host, now) {
                    tracing::warn!(host, "the Lease of the executor has run out");
                    world.forget_hosts();
                    on_change(Change::Host(host));
                }
            }
        }
    }
}

impl World {
    fn observe(
        &self,
        leases: &Leases,
        lease: &Lease,
        source: Source,
        now: Instant,
        on_change: &OnChange,
    ) -> Result<(), Error> {
        // Those of the controller and the scheduler are there, too.
        if [LEASE_NAME, SCHEDULER].contains(&name(lease)) {
            return Ok(());
        }
        let news = lock(&leases.liveness).observe(lease, source, now)?;
        leases.changed.notify_one();
        if news {
            self.forget_hosts();
            on_change(Change::Host(name(lease).to_owned()));
        }
        Ok(())
    }
}
