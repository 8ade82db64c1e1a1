//! What is on the host: read when libvirt is connected and at each new session, then kept current by libvirt's events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::api::Api;
use kubevmm_analyser::mark::{MARK_NAMESPACE, Mark};
use kubevmm_api::VirtualMachine;
use kubevmm_api::condition::{self, Wanted};
use kubevmm_api::hypervisor::{DomainMark, HostDomain};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;
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
/// The pause before a domain is asked again that libvirt did not answer for.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The pause between two reports in which only foreign domains differ: others may start and stop theirs all the time.
const FOREIGN_PAUSE: Duration = Duration::from_secs(10);
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Reports the host for as long as the process lives.
pub async fn run(context: Context, session: Session) {
    let mut events = context.libvirt_events.subscribe();
    let mut sessions = session.subscribe();
    let mut vms = context.store.vms.changes();
    let mut hypervisors = context.store.hypervisors.changes();
    let probed = kvm::probe(Path::new(kvm::DEVICE)).await;
    let mut inventory = Inventory {
        context,
        session,
        probed,
        domains: BTreeMap::new(),
        stale: true,
        policy_stale: true,
        to_look_at: BTreeSet::new(),
        unanswered: BTreeMap::new(),
        reported: None,
    };
    let mut retry = None;
    loop {
        if retry.is_none_or(|at| at <= Instant::now()) {
            retry = inventory.refresh().await.is_err().then(|| Instant::now() + RETRY);
        }
        let wake = [retry, inventory.due()].into_iter().flatten().min();
        tokio::select! {
            event = events.recv() => {
                inventory.note(event.as_deref());
                // What has piled up is one state.
                loop {
                    match events.try_recv() {
                        Ok(event) => inventory.note(Ok(&event)),
                        Err(TryRecvError::Lagged(lost)) => inventory.note(Err(&RecvError::Lagged(lost))),
                        Err(TryRecvError::Closed) => return,
                        Err(TryRecvError::Empty) => break,
                    }
                }
            },
            _ = sessions.changed() => inventory.stale = true,
            _ = vms.changed() => {}
            _ = hypervisors.changed() => inventory.policy_stale = true,
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
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
    /// Domains of which an event has told.
    to_look_at: BTreeSet<Uuid>,
    /// Domains that libvirt did not answer for, and when to ask again: the last that is known of them stays.
    unanswered: BTreeMap<Uuid, Instant>,
    reported: Option<Reported>,
}

/// The last report of the domains.
struct Reported {
    session: String,
    domains: BTreeMap<Uuid, HostDomain>,
    at: Instant,
}

impl Reported {
    /// Whether it will do for now: it says what is, or all that differs is foreign and may wait.
    fn will_do(&self, session: &str, domains: &BTreeMap<Uuid, HostDomain>, now: Instant) -> bool {
        let marked = |domains: &BTreeMap<Uuid, HostDomain>| {
            domains.values().filter(|domain| domain.mark.is_some()).cloned().collect::<Vec<_>>()
        };
        self.session == session
            && (self.domains == *domains || (now < self.at + FOREIGN_PAUSE && marked(&self.domains) == marked(domains)))
    }
}

impl Inventory {
    /// Takes up one event of libvirt; nothing is asked yet.
    fn note(&mut self, event: Result<&Event, &RecvError>) {
        match event {
            Err(_) | Ok(Event::Connected { .. } | Event::Lost | Event::Disconnected { .. }) => self.stale = true,
            Ok(Event::Domain { domain, event: DomainEvent::Lifecycle(kind) }) if changes_inventory(*kind) => {
                self.to_look_at.insert(domain.uuid);
            }
            Ok(Event::Domain { domain, event: DomainEvent::MetadataChange { namespace } })
                if namespace.as_deref() == Some(MARK_NAMESPACE) =>
            {
                self.to_look_at.insert(domain.uuid);
            }
            Ok(_) => {}
        }
    }

    /// When there is something to do without being told. Without libvirt or a session there is nothing; their return is
    /// told.
    fn due(&self) -> Option<Instant> {
        if self.context.libvirt.connection().is_err() || self.session.current().is_none() {
            return None;
        }
        let held = self.reported.as_ref().filter(|reported| reported.domains != self.domains);
        held.map(|reported| reported.at + FOREIGN_PAUSE).into_iter().chain(self.unanswered.values().copied()).min()
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
            if let Err(error) = self.read_domains(connection).await {
                let message = format!("cannot read the host's domains: {error}");
                self.context.report.ready(Wanted::no(condition::READY, "LibvirtError", message));
                return Err(error);
            }
            self.context.report.facts(read_facts(connection).await?);
            let message = format!("connected to {}", connection.requested_uri());
            self.context.report.ready(Wanted::yes(condition::READY, "Connected", message));
            self.stale = false;
        }
        self.look_at_domains(connection).await?;
        let found = self.find_orphans().await;
        // Only a list that was read in this session counts for it.
        if self.session.current().as_deref() == Some(session.as_str()) {
            self.report_domains(session);
        }
        found
    }

    /// Tells of the domains: at once of what is ours, and at most every ten seconds of what is not.
    fn report_domains(&mut self, session: String) {
        let now = Instant::now();
        if self.reported.as_ref().is_some_and(|reported| reported.will_do(&session, &self.domains, now)) {
            return;
        }
        self.context.report.domains(session.clone(), self.domains.values().cloned().collect());
        self.reported = Some(Reported { session, domains: self.domains.clone(), at: now });
    }

    fn report_accelerator(&self) {
        let policy = self.context.store.hypervisors.get_cluster(&self.context.node).map(|h| h.spec.accelerator);
        self.context.report.accelerator(accelerator(policy.unwrap_or_default(), &self.probed));
    }

    /// Reads all domains. One that libvirt does not answer for stays as it is known; of one that never was, nothing can be
    /// said, and so nothing of this host.
    async fn read_domains(&mut self, connection: &Connection) -> Result<(), Error> {
        self.to_look_at.clear();
        let mut domains = BTreeMap::new();
        for domain in connection.list_domains(DomainFilter::All).await? {
            if let Some(entry) = self.settle(domain.uuid(), entry(&domain).await.map(Some))? {
                domains.insert(domain.uuid(), entry);
            }
        }
        self.unanswered.retain(|uuid, _| domains.contains_key(uuid));
        self.domains = domains;
        Ok(())
    }

    /// Reads the domains that events have told of, and those that are due again.
    async fn look_at_domains(&mut self, connection: &Connection) -> Result<(), Error> {
        let now = Instant::now();
        let due = self.unanswered.iter().filter(|(_, at)| **at <= now).map(|(uuid, _)| *uuid);
        let mut uuids: BTreeSet<Uuid> = due.collect();
        uuids.append(&mut self.to_look_at);
        while let Some(uuid) = uuids.pop_first() {
            let read = match connection.lookup_domain(uuid).await {
                Ok(Some(domain)) => entry(&domain).await.map(Some),
                Ok(None) => Ok(None),
                Err(error) => Err(error.into()),
            };
            match self.settle(uuid, read) {
                Ok(Some(entry)) => {
                    let orphan =
                        self.domains.get(&uuid).is_some_and(|before| before.mark == entry.mark && before.orphan);
                    self.domains.insert(uuid, HostDomain { orphan, ..entry });
                }
                Ok(None) => drop(self.domains.remove(&uuid)),
                Err(error) => {
                    // None of them is forgotten.
                    self.to_look_at.append(&mut uuids);
                    self.to_look_at.insert(uuid);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// What becomes of an answer about a domain; `None`: it is not there.
    fn settle(&mut self, uuid: Uuid, read: Result<Option<HostDomain>, Error>) -> Result<Option<HostDomain>, Error> {
        match read {
            Ok(there) => {
                self.unanswered.remove(&uuid);
                Ok(there)
            }
            // It went while it was read; its event says so too.
            Err(Error::Libvirt(error)) if error.is_not_found() => self.settle(uuid, Ok(None)),
            Err(Error::Libvirt(error)) if error.is_connection_lost() => Err(Error::Libvirt(error)),
            Err(error) => {
                let written = || {
                    let hypervisor = self.context.store.hypervisors.get_cluster(&self.context.node)?;
                    let domains = &hypervisor.status.as_ref()?.domains;
                    domains.iter().find(|domain| domain.uuid == uuid.to_string()).cloned()
                };
                let known = self.domains.get(&uuid).cloned().or_else(written).ok_or(error)?;
                tracing::warn!(domain = known.name, "libvirt does not answer for a domain: what is known of it stays");
                self.unanswered.insert(uuid, Instant::now() + ASK_AGAIN);
                Ok(Some(known))
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use kubevmm_api::vm::DomainState;

    fn domain(number: u128, state: DomainState, marked: bool) -> (Uuid, HostDomain) {
        let uuid = Uuid::from_u128(number);
        let mark = marked.then(|| DomainMark {
            cluster_id: "c".into(),
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            epoch: 1,
        });
        (uuid, HostDomain { uuid: uuid.to_string(), name: "d".into(), state, mark, orphan: false })
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ours_is_told_at_once_and_what_is_not_every_ten_seconds() {
        use DomainState::{Running, Shutoff};
        let now = Instant::now();
        let told = BTreeMap::from([domain(1, Running, true), domain(2, Running, false)]);
        let reported = Reported { session: "s".into(), domains: told.clone(), at: now };
        assert!(reported.will_do("s", &told, now + FOREIGN_PAUSE * 9), "nothing is new");
        assert!(!reported.will_do("t", &told, now), "another session reads for itself");
        let ours = BTreeMap::from([domain(1, Shutoff, true), domain(2, Running, false)]);
        assert!(!reported.will_do("s", &ours, now));
        let foreign = BTreeMap::from([domain(1, Running, true), domain(3, Running, false)]);
        assert!(reported.will_do("s", &foreign, now + FOREIGN_PAUSE / 2));
        assert!(!reported.will_do("s", &foreign, now + FOREIGN_PAUSE));
    }
}
