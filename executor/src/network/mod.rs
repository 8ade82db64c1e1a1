//! The networks of this host.
//!
//! A nat network is made on its first use here and taken away with its object. What the host has already (`existing`)
//! is looked at and never changed.

mod subnet;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::ResourceExt;
use kubevmm_analyser::lower::{Forward, NetworkInput, NicSource, lower_network};
use kubevmm_analyser::mark::Mark;
use kubevmm_api::common::NetworkKind;
use kubevmm_api::hypervisor::HostNetwork;
use kubevmm_api::names;
use kubevmm_api::network::ExistingNetwork;
use uuid::Uuid;

use self::subnet::Subnet;
use crate::host::{Context, Networks, NotYet};
use crate::libvirt;
use crate::turns::Turns;

/// How soon a network that could not be taken away is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// A network object, whichever of the two kinds it is.
#[derive(Clone, Debug)]
struct Object {
    kind: NetworkKind,
    namespace: Option<String>,
    name: String,
    uid: String,
    generation: i64,
    deleted: bool,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Nat { subnet: String },
    Existing(ExistingNetwork),
}

/// The networks of this host. Clones share them.
#[derive(Clone)]
pub struct HostNetworks {
    context: Context,
    /// One turn at a time for each network.
    turns: Turns,
    reported: Arc<Mutex<Option<Vec<HostNetwork>>>>,
}

impl Networks for HostNetworks {
    fn ensure<'a>(
        &'a self,
        kind: NetworkKind,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<NicSource, NotYet>> {
        async move {
            let object = self.find(kind, namespace, name)?;
            let _turn = self.turns.take(&object.uid).await;
            match &object.what {
                What::Nat { subnet } => self.ensure_nat(&object, subnet).await,
                What::Existing(existing) => self.look(existing).await,
            }
        }
        .boxed()
    }
}

impl HostNetworks {
    /// The networks of `context`'s host.
    pub fn new(context: Context) -> Self {
        Self { context, turns: Turns::default(), reported: Arc::default() }
    }

    /// Reports the networks and takes away those of deleted objects, for ever.
    pub async fn run(self) {
        let store = &self.context.store;
        let (mut networks, mut cluster) = (store.networks.changes(), store.cluster_networks.changes());
        let mut vms = store.vms.changes();
        let mut events = self.context.libvirt_events.subscribe();
        loop {
            let again = self.reconcile().await;
            let retry = tokio::time::sleep(RETRY);
            tokio::pin!(retry);
            loop {
                tokio::select! {
                    Ok(()) = networks.changed() => break,
                    Ok(()) = cluster.changed() => break,
                    // A VM that goes may be what a deleted network waits for.
                    Ok(()) = vms.changed(), if again => break,
                    () = &mut retry, if again => break,
                    event = events.recv() => match event.as_deref() {
                        Ok(libvirt::Event::Connected { .. } | libvirt::Event::Lost | libvirt::Event::Network { .. })
                        | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => break,
                        Ok(_) => {}
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    async fn reconcile(&self) -> bool {
        if self.context.libvirt.connection().is_err() {
            return false;
        }
        let mut again = false;
        let mut reports = Vec::new();
        for object in self.objects() {
            let _turn = self.turns.take(&object.uid).await;
            let state = match (&object.what, object.deleted) {
                (What::Nat { .. }, true) => {
                    let removed = self.remove(&object).await;
                    again |= removed.is_err();
                    removed.map(|()| false)
                }
                (What::Existing(_), true) => Ok(false),
                (What::Nat { .. }, false) => self.is_up(&object).await,
                (What::Existing(existing), false) => {
                    let looked = self.look(existing).await;
                    // No event tells of a bridge that is made later.
                    again |= looked.is_err() && existing.bridge.is_some();
                    looked.map(|_| true)
                }
            };
            match state {
                Ok(true) => reports.push(report(&object, None)),
                Ok(false) => {}
                Err(not_yet) => reports.push(report(&object, Some(not_yet))),
            }
        }
        reports.sort_by(|a, b| (a.kind, &a.namespace, &a.name).cmp(&(b.kind, &b.namespace, &b.name)));
        let mut last = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() != Some(&reports) {
            *last = Some(reports.clone());
            self.context.report.networks(reports);
            self.context.changes.notify();
        }
        again
    }

    /// Makes the network real: defined with our mark, and active.
    async fn ensure_nat(&self, object: &Object, subnet: &str) -> Result<NicSource, NotYet> {
        let connection = self.context.libvirt.connection()?;
        let (name, uid) = (object.libvirt_name(), object.uuid()?);
        let network = match connection.lookup_network_by_name(&name).await? {
            Some(network) if network.uuid() != uid => return Err(taken(&name, network.uuid())),
            Some(network) => network,
            None => {
                let xml = lower_network(&self.input(object, subnet)?).to_xml();
                connection.define_network(&name, &xml).await?
            }
        };
        if !network.is_active().await? {
            network.create().await.map_err(|error| {
                let message = format!(
                    "network {}: {error}; check that spec.nat.subnet {subnet} overlaps no other network of this host",
                    object.name
                );
                NotYet::backoff("LibvirtError", message)
            })?;
            tracing::info!(network = name, "network started");
        }
        Ok(NicSource::Network(name))
    }

    fn input(&self, object: &Object, subnet: &str) -> Result<NetworkInput, NotYet> {
        let subnet: Subnet = subnet
            .parse()
            .map_err(|error| NotYet::on_change("InvalidSubnet", format!("network {}: {error}", object.name)))?;
        Ok(NetworkInput {
            name: object.libvirt_name(),
            uuid: object.uuid()?,
            mark: Mark {
                cluster: self.context.cluster.to_string(),
                namespace: object.namespace.clone().unwrap_or_default(),
                name: object.name.clone(),
                uid: object.uid.clone(),
                epoch: 0,
                generation: object.generation,
            },
            forward: Forward::Nat,
            bridge: None,
            address: subnet.host(),
            prefix: subnet.prefix(),
            dhcp: Some(subnet.leases()),
            domain: None,
        })
    }

    /// What the host has already: there and up, or not.
    async fn look(&self, existing: &ExistingNetwork) -> Result<NicSource, NotYet> {
        if let Some(bridge) = &existing.bridge {
            // The executor shares the host's network namespace.
            return match Path::new("/sys/class/net").join(bridge).join("bridge").is_dir() {
                true => Ok(NicSource::Bridge(bridge.clone())),
                false => Err(NotYet::backoff("NetworkNotFound", format!("this host has no bridge {bridge}: make it"))),
            };
        }
        let name = existing.libvirt_network.clone().unwrap_or_default();
        let connection = self.context.libvirt.connection()?;
        let Some(network) = connection.lookup_network_by_name(&name).await? else {
            let message = format!("libvirt has no network {name} on this host: define it with virsh net-define");
            return Err(NotYet::backoff("NetworkNotFound", message));
        };
        match network.is_active().await? {
            true => Ok(NicSource::Network(name)),
            false => Err(NotYet::backoff(
                "NetworkInactive",
                format!("the libvirt network {name} is not active: start it with virsh net-start {name}"),
            )),
        }
    }

    async fn is_up(&self, object: &Object) -> Result<bool, NotYet> {
        let connection = self.context.libvirt.connection()?;
        match connection.lookup_network_by_name(&object.libvirt_name()).await? {
            Some(network) if network.uuid() == object.uuid()? => Ok(network.is_active().await?),
            Some(network) => Err(taken(&object.libvirt_name(), network.uuid())),
            None => Ok(false),
        }
    }

    /// Takes away a network of ours, once no VM here uses it.
    async fn remove(&self, object: &Object) -> Result<(), NotYet> {
        let connection = self.context.libvirt.connection()?;
        let Some(network) = connection.lookup_network(object.uuid()?).await? else { return Ok(()) };
        if network.name() != object.libvirt_name() {
            return Ok(());
        }
        if self.is_used(object) {
            return Err(NotYet::on_change("InUse", format!("VMs on this host use network {}", object.name)));
        }
        if network.is_active().await? {
            network.destroy().await?;
        }
        network.undefine().await?;
        tracing::info!(network = object.libvirt_name(), "network removed");
        Ok(())
    }

    fn is_used(&self, object: &Object) -> bool {
        self.context.store.vms.list().iter().any(|vm| {
            let same_namespace = object.namespace.is_none() || vm.namespace() == object.namespace;
            let running = vm.status.as_ref().and_then(|status| status.effective.as_ref());
            let defined = vm.status.as_ref().is_some_and(|status| status.domain.is_some());
            same_namespace
                && defined
                && running.is_some_and(|spec| {
                    spec.networks.iter().any(|nic| nic.kind == object.kind && nic.network_name == object.name)
                })
        })
    }

    fn find(&self, kind: NetworkKind, namespace: &str, name: &str) -> Result<Object, NotYet> {
        let object = match kind {
            NetworkKind::VirtualMachineNetwork => {
                self.context.store.networks.get(namespace, name).map(|o| namespaced(&o))
            }
            NetworkKind::ClusterVirtualMachineNetwork => {
                let network = self.context.store.cluster_networks.get_cluster(name);
                if network.as_ref().is_some_and(|network| !network.spec.allows(namespace)) {
                    let message = format!(
                        "ClusterVirtualMachineNetwork {name} does not allow namespace {namespace}: add it to spec.allowedNamespaces"
                    );
                    return Err(NotYet::on_change("NetworkNotAllowed", message));
                }
                network.and_then(|network| cluster_wide(&network))
            }
        };
        match object {
            None => Err(NotYet::on_change("NetworkNotFound", format!("there is no {kind:?} {name}"))),
            Some(object) if object.deleted => {
                Err(NotYet::on_change("NetworkDeleted", format!("{kind:?} {name} is being deleted")))
            }
            Some(object) => Ok(object),
        }
    }

    fn objects(&self) -> Vec<Object> {
        let networks = self.context.store.networks.list();
        let cluster = self.context.store.cluster_networks.list();
        networks.iter().map(|object| namespaced(object)).chain(cluster.iter().filter_map(|o| cluster_wide(o))).collect()
    }
}

impl Object {
    fn libvirt_name(&self) -> String {
        names::network(self.namespace.as_deref(), &self.name)
    }

    fn uuid(&self) -> Result<Uuid, NotYet> {
        let uid = &self.uid;
        uid.parse().map_err(|_| NotYet::on_change("NameTaken", format!("the object's uid {uid:?} is no UUID")))
    }
}

fn namespaced(object: &kubevmm_api::VirtualMachineNetwork) -> Object {
    Object {
        kind: NetworkKind::VirtualMachineNetwork,
        namespace: object.namespace(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        deleted: object.metadata.deletion_timestamp.is_some(),
        what: What::Nat { subnet: object.spec.nat.subnet.clone() },
    }
}

/// `None` for an object with neither of the two, which the schema does not let through.
fn cluster_wide(object: &kubevmm_api::ClusterVirtualMachineNetwork) -> Option<Object> {
    let what = match (&object.spec.nat, &object.spec.existing) {
        (Some(nat), _) => What::Nat { subnet: nat.subnet.clone() },
        (None, Some(existing)) => What::Existing(existing.clone()),
        (None, None) => return None,
    };
    Some(Object {
        kind: NetworkKind::ClusterVirtualMachineNetwork,
        namespace: None,
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        deleted: object.metadata.deletion_timestamp.is_some(),
        what,
    })
}

fn taken(name: &str, uuid: Uuid) -> NotYet {
    let message =
        format!("libvirt has a network {name} that is not ours (UUID {uuid}): rename or remove it with virsh");
    NotYet::backoff("NameTaken", message)
}

fn report(object: &Object, problem: Option<NotYet>) -> HostNetwork {
    HostNetwork {
        kind: object.kind,
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        uid: object.uid.clone(),
        ready: problem.is_none(),
        reason: problem.as_ref().map(|p| p.reason.to_owned()),
        message: problem.map(|p| p.message),
    }
}
