//! What is on the host: read when libvirt is connected and at each new session, then kept current by libvirt's events.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::api::Api;
use kubevmm_analyser::mark::{MARK_NAMESPACE, Mark};
use kubevmm_api::VirtualMachine;
use kubevmm_api::condition::{self, Wanted};
use kubevmm_api::hypervisor::{DomainMark, HostDomain};
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

use super::status::{HostFacts, accelerator};
use crate::Error;
use crate::api::limited;
use crate::host::Context;
use crate::kvm::{self, KvmProbe};
use crate::lease::Session;
use crate::libvirt::{Connection, Domain, DomainEvent, DomainFilter, Event, Impact, Lifecycle};

/// The pause after something that failed.
const RETRY: Duration = Duration::from_secs(2);
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Reports the host for as long as the process lives.
pub async fn run(context: Context, session: Session) {
    let mut events = context.libvirt_events.subscribe();
    let mut sessions = session.subscribe();
    let mut vms = context.store.vms.changes();
    let mut hypervisors = context.store.hypervisors.changes();
    let probed = kvm::probe(Path::new(kvm::DEVICE)).await;
    let mut inventory =
        Inventory { context, session, probed, domains: BTreeMap::new(), stale: true, policy_stale: true };
    loop {
        let retry = inventory.refresh().await.is_err();
        tokio::select! {
            event = events.recv() => match event.as_deref() {
                Ok(event) => inventory.note(event).await,
                Err(RecvError::Lagged(_)) => inventory.stale = true,
                Err(RecvError::Closed) => return,
            },
            _ = sessions.changed() => inventory.stale = true,
            _ = vms.changed() => {}
            _ = hypervisors.changed() => inventory.policy_stale = true,
            () = tokio::time::sleep(RETRY), if retry => {}
        }
    }
}

struct Inventory {
    context: Context,
    session: Session,
    probed: KvmProbe,
    domains: BTreeMap<Uuid, HostDomain>,
    /// The list must be read anew.
    stale: bool,
    policy_stale: bool,
}

impl Inventory {
    /// Takes up one event of libvirt.
    async fn note(&mut self, event: &Event) {
        match event {
            Event::Connected { .. } | Event::Lost | Event::Disconnected { .. } => self.stale = true,
            Event::Domain { domain, event: DomainEvent::Lifecycle(kind) } if changes_inventory(*kind) => {
                if let Err(error) = self.look_at(domain.uuid).await {
                    tracing::warn!(domain = domain.name, %error, "cannot read a domain; reading all of them anew");
                    self.stale = true;
                }
            }
            _ => {}
        }
    }

    /// Brings the report up to date with what is known.
    async fn refresh(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.policy_stale) {
            self.report_accelerator();
        }
        let connection = match self.context.libvirt.connection() {
            Ok(connection) => connection,
            Err(error) => {
                self.stale = true;
                let ready = Wanted::no(condition::READY, "LibvirtUnavailable", error.to_string());
                self.context.report.ready(ready);
                return Ok(());
            }
        };
        let done = self.refresh_from(&connection).await;
        if let Err(error) = &done {
            tracing::warn!(%error, "cannot read what is on this host; trying again");
        }
        done
    }

    async fn refresh_from(&mut self, connection: &Connection) -> Result<(), Error> {
        // A host that can say what runs on it takes part in decisions from now on.
        self.session.open();
        let Some(session) = self.session.current() else { return Ok(()) };
        if self.stale {
            self.domains = read_domains(connection).await?;
            self.context.report.facts(read_facts(connection).await?);
            let message = format!("connected to {}", connection.requested_uri());
            self.context.report.ready(Wanted::yes(condition::READY, "Connected", message));
            self.stale = false;
        }
        let found = self.find_orphans().await;
        // Only a list that was read in this session counts for it.
        if self.session.current().as_deref() == Some(session.as_str()) {
            self.context.report.domains(session, self.domains.values().cloned().collect());
        }
        found
    }

    fn report_accelerator(&self) {
        let policy = self.context.store.hypervisors.get_cluster(&self.context.node).map(|h| h.spec.accelerator);
        self.context.report.accelerator(accelerator(policy.unwrap_or_default(), &self.probed));
    }

    async fn look_at(&mut self, uuid: Uuid) -> Result<(), Error> {
        let connection = self.context.libvirt.connection()?;
        match connection.lookup_domain(uuid).await? {
            Some(domain) => {
                let entry = entry(&domain).await?;
                let orphan = self.domains.get(&uuid).is_some_and(|before| before.mark == entry.mark && before.orphan);
                self.domains.insert(uuid, HostDomain { orphan, ..entry });
            }
            None => drop(self.domains.remove(&uuid)),
        }
        Ok(())
    }

    /// Marks the domains without a VM here. An orphan stays one until its VM is in the watch of this node's.
    async fn find_orphans(&mut self) -> Result<(), Error> {
        for domain in self.domains.values_mut() {
            let Some(mark) = &domain.mark else { continue };
            let watched = self.context.store.vms.get(&mark.namespace, &mark.name);
            if mark.cluster_id == *self.context.cluster && watched.is_some_and(|vm| is_uid(&vm, &mark.uid)) {
                domain.orphan = false;
            } else if !domain.orphan {
                domain.orphan = !is_placed_here(&self.context, mark).await?;
            }
        }
        Ok(())
    }
}

/// Whether the VM of a mark is placed on this host; asked of the API server itself, for the watch may be behind.
async fn is_placed_here(context: &Context, mark: &DomainMark) -> Result<bool, Error> {
    if mark.cluster_id != *context.cluster {
        return Ok(false);
    }
    let api = Api::<VirtualMachine>::namespaced(context.client.clone(), &mark.namespace);
    let vm = limited(API_TIMEOUT, api.get_opt(&mark.name)).await?;
    Ok(vm.is_some_and(|vm| {
        let node = vm.status.as_ref().and_then(|status| status.node_name.as_deref());
        is_uid(&vm, &mark.uid) && node == Some(&*context.node)
    }))
}

fn is_uid(vm: &VirtualMachine, uid: &str) -> bool {
    vm.metadata.uid.as_deref() == Some(uid)
}

fn changes_inventory(kind: Lifecycle) -> bool {
    // What follows a Shutdown is a Stopped.
    !matches!(kind, Lifecycle::Shutdown(_))
}

async fn read_domains(connection: &Connection) -> Result<BTreeMap<Uuid, HostDomain>, Error> {
    let mut domains = BTreeMap::new();
    for domain in connection.list_domains(DomainFilter::All).await? {
        match entry(&domain).await {
            Ok(entry) => drop(domains.insert(domain.uuid(), entry)),
            // It went while the list was read; its event says so too.
            Err(Error::Libvirt(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(domains)
}

async fn entry(domain: &Domain) -> Result<HostDomain, Error> {
    Ok(HostDomain {
        uuid: domain.uuid().to_string(),
        name: domain.name().to_owned(),
        state: domain.state().await?.into(),
        mark: mark(domain).await?,
        orphan: false,
    })
}

/// The mark of this project; one that cannot be read is somebody else's.
async fn mark(domain: &Domain) -> Result<Option<DomainMark>, Error> {
    let Some(element) = domain.metadata(MARK_NAMESPACE, Impact::Current).await? else { return Ok(None) };
    match Mark::from_metadata(&element) {
        Ok(mark) => Ok(Some(DomainMark {
            cluster_id: mark.cluster,
            namespace: mark.namespace,
            name: mark.name,
            uid: mark.uid,
            epoch: mark.epoch,
        })),
        Err(error) => {
            tracing::warn!(domain = domain.name(), %error, "the mark of a domain cannot be read: it is left alone");
            Ok(None)
        }
    }
}

async fn read_facts(connection: &Connection) -> Result<HostFacts, Error> {
    let (uri, libvirt, hypervisor, node) = tokio::try_join!(
        connection.uri(),
        connection.lib_version(),
        connection.hypervisor_version(),
        connection.node_info()
    )?;
    Ok(HostFacts {
        uri,
        libvirt_version: libvirt.to_string(),
        hypervisor_version: hypervisor.map(|version| version.to_string()),
        architecture: node.model,
        cpus: node.cpus,
        memory_bytes: node.memory_bytes,
    })
}

/// Passes libvirt's events on to all who listen, for as long as there are any.
pub async fn forward_events(mut events: crate::libvirt::Events, to: tokio::sync::broadcast::Sender<Arc<Event>>) {
    while let Some(event) = events.recv().await {
        // Without a listener there is nobody to miss it.
        drop(to.send(Arc::new(event)));
    }
}
