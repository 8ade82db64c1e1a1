//! The domains of the host: read when libvirt is connected and at each new session, then kept current by libvirt's events.
//! Others wait for this list, and it waits for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::Api;
use kubevmm_analyser::mark::{MARK_NAMESPACE, Mark};
use kubevmm_api::VirtualMachine;
use kubevmm_api::condition::{self, Wanted};
use kubevmm_api::hypervisor::{DomainMark, HostDomain, HostUsage};
use kubevmm_api::vm::{DomainState, Management};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::devices::Place;
use super::status::Domains;
use super::usage::{Found, Size, held, used};
use super::{devices, offers, take_up};
use crate::Error;
use crate::api::limited;
use crate::host::Context;
use crate::lease::Session;
use crate::libvirt::{Connection, Domain, DomainEvent, DomainFilter, Event, Impact, Lifecycle, LinkState, XmlOptions};

/// The pause after something that failed.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// The pause before a domain is asked again that libvirt did not answer for.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The pause between two reports in which only foreign domains differ: others may start and stop theirs all the time.
const FOREIGN_PAUSE: Duration = Duration::from_secs(10);
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Domains that are asked about at a time. libvirt answers few calls at once, and VMs have calls to make as well; but one
/// after the other, each would wait behind all of theirs.
const AT_A_TIME: usize = 4;

/// Reports the host for as long as the process lives.
pub async fn run(context: Context, session: Session) {
    let (told, domains_told) = watch::channel(false);
    tokio::join!(offers::run(context.clone(), domains_told), report(context, session, told));
}

/// Reports the domains, and whether libvirt can be reached.
async fn report(context: Context, session: Session, told: watch::Sender<bool>) {
    let mut events = context.libvirt_events.subscribe();
    let mut sessions = session.subscribe();
    let mut vms = context.store.vms.changes();
    // Before the first attempt to connect has ended, nothing can be said of libvirt.
    drop(context.libvirt.state().wait_for(|state| *state != LinkState::Connecting).await.map(drop));
    let mut inventory = Inventory {
        context,
        session,
        domains: BTreeMap::new(),
        stale: true,
        to_look_at: BTreeSet::new(),
        unanswered: BTreeMap::new(),
        reported: None,
        told,
    };
    let mut retry = None;
    loop {
        if retry.is_none_or(|at| at <= Instant::now()) {
            retry = inventory.refresh().await.is_err().then(|| Instant::now() + RETRY);
        }
        // What is due after a failure is part of trying again.
        let wake = retry.or_else(|| inventory.due());
        tokio::select! {
            event = events.recv() => {
                if take_up(event, &mut events, |event| inventory.note(event)).is_none() {
                    return;
                }
            },
            _ = sessions.changed() => inventory.stale = true,
            _ = vms.changed() => {}
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

struct Inventory {
    context: Context,
    session: Session,
    domains: BTreeMap<Uuid, Found>,
    /// The list must be read anew.
    stale: bool,
    /// Domains of which an event has told.
    to_look_at: BTreeSet<Uuid>,
    /// Domains that libvirt did not answer for, and when to ask again: the last that is known of them stays.
    unanswered: BTreeMap<Uuid, Instant>,
    reported: Option<Reported>,
    /// Whether there has been a report.
    told: watch::Sender<bool>,
}

/// The last report of the domains.
struct Reported {
    session: String,
    domains: BTreeMap<Uuid, Found>,
    unmanaged: HostUsage,
    at: Instant,
}

impl Reported {
    /// Whether it will do for now: it says what is, or all that differs is foreign and may wait.
    fn will_do(&self, session: &str, domains: &BTreeMap<Uuid, Found>, unmanaged: &HostUsage, now: Instant) -> bool {
        fn marked(domains: &BTreeMap<Uuid, Found>) -> impl Iterator<Item = &Found> {
            domains.values().filter(|found| found.domain.mark.is_some())
        }
        self.session == session
            && (self.says(domains, unmanaged)
                || (now < self.at + FOREIGN_PAUSE && marked(&self.domains).eq(marked(domains))))
    }

    /// When what is not told yet must be, at the latest; `None` if there is no such thing.
    fn due(&self, domains: &BTreeMap<Uuid, Found>, unmanaged: &HostUsage) -> Option<Instant> {
        (!self.says(domains, unmanaged)).then(|| self.at + FOREIGN_PAUSE)
    }

    fn says(&self, domains: &BTreeMap<Uuid, Found>, unmanaged: &HostUsage) -> bool {
        self.domains == *domains && self.unmanaged == *unmanaged
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
            // They come and go without it, too.
            Ok(Event::Domain {
                domain,
                event: DomainEvent::DeviceAdded { alias } | DomainEvent::DeviceRemoved { alias },
            }) if may_be_hosts(alias) => drop(self.to_look_at.insert(domain.uuid)),
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
        let held = self.reported.as_ref().and_then(|reported| reported.due(&self.domains, &self.unmanaged()));
        held.into_iter().chain(self.unanswered.values().copied()).min()
    }

    /// Brings the report up to date with what is known.
    async fn refresh(&mut self) -> Result<(), Error> {
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
            let message = format!("connected to {}", connection.requested_uri());
            self.context.report.ready(Wanted::yes(condition::READY, "Connected", message));
            self.stale = false;
        }
        self.look_at_domains(connection).await?;
        self.find_observed();
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
        let unmanaged = self.unmanaged();
        if self.reported.as_ref().is_some_and(|reported| reported.will_do(&session, &self.domains, &unmanaged, now)) {
            return;
        }
        self.context.report.domains(Domains {
            session: session.clone(),
            domains: self.domains.values().map(|found| found.domain.clone()).collect(),
            used: used(self.domains.values()),
            unmanaged: unmanaged.clone(),
            held: held(self.without_placement()),
        });
        self.told.send_replace(true);
        self.reported = Some(Reported { session, domains: self.domains.clone(), unmanaged, at: now });
    }

    /// What running domains have that have no placement pod.
    fn unmanaged(&self) -> HostUsage {
        used(self.without_placement())
    }

    fn without_placement(&self) -> impl Iterator<Item = &Found> {
        self.domains.values().filter(|found| !self.has_placement(&found.domain))
    }

    /// Whether a domain is one of a VM that runs by a placement pod, as those do that are managed.
    fn has_placement(&self, domain: &HostDomain) -> bool {
        let Some(mark) = domain.mark.as_ref().filter(|_| !domain.orphan) else { return false };
        let vm = self.context.store.vms.get(&mark.namespace, &mark.name);
        vm.is_none_or(|vm| vm.spec.management == Management::Manage)
    }

    /// Reads all domains. One that libvirt does not answer for stays as it is known; of one that never was, nothing can be
    /// said, and so nothing of this host.
    async fn read_domains(&mut self, connection: &Connection) -> Result<(), Error> {
        self.to_look_at.clear();
        let mut domains = BTreeMap::new();
        let listed = futures::stream::iter(connection.list_domains(DomainFilter::All).await?);
        let mut reads = listed.map(find).buffer_unordered(AT_A_TIME);
        while let Some((uuid, read)) = reads.next().await {
            if let Some(found) = self.settle(uuid, read.map(Some))? {
                domains.insert(uuid, found);
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
                Ok(Some(domain)) => find(domain).await.1.map(Some),
                Ok(None) => Ok(None),
                Err(error) => Err(error.into()),
            };
            match self.settle(uuid, read) {
                Ok(Some(mut found)) => {
                    let before = self.domains.get(&uuid).map(|found| &found.domain);
                    found.domain.orphan = before.is_some_and(|it| it.mark == found.domain.mark && it.orphan);
                    self.domains.insert(uuid, found);
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
    fn settle(&mut self, uuid: Uuid, read: Result<Option<Found>, Error>) -> Result<Option<Found>, Error> {
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
                    let domain = domains.iter().find(|domain| domain.uuid == uuid.to_string())?.clone();
                    // What it has been given is not written.
                    Some(Found { domain, size: Size::default(), devices: BTreeSet::new() })
                };
                let known = self.domains.get(&uuid).cloned().or_else(written).ok_or(error)?;
                tracing::warn!(
                    domain = known.domain.name,
                    "libvirt does not answer for a domain: what is known of it stays"
                );
                self.unanswered.insert(uuid, Instant::now() + ASK_AGAIN);
                Ok(Some(known))
            }
        }
    }

    /// Marks the domains that a VM watches.
    fn find_observed(&mut self) {
        let vms = self.context.store.vms.list();
        let observed = vms.iter().filter_map(|vm| vm.spec.observed()?.uuid.parse().ok());
        let observed: BTreeSet<Uuid> = observed.collect();
        for (uuid, Found { domain, .. }) in &mut self.domains {
            domain.observed = domain.mark.is_none() && observed.contains(uuid);
        }
    }

    /// Marks the domains without a VM here. An orphan stays one until its VM is in the watch of this node's.
    async fn find_orphans(&mut self) -> Result<(), Error> {
        let context = &self.context;
        let doubtful = self.domains.iter_mut().filter_map(|(uuid, Found { domain, .. })| {
            let mark = domain.mark.clone()?;
            let watched = context.store.vms.get(&mark.namespace, &mark.name);
            if mark.cluster_id == *context.cluster && watched.is_some_and(|vm| is_uid(&vm, &mark.uid)) {
                domain.orphan = false;
                return None;
            }
            (!domain.orphan).then(|| is_placed_here(context.clone(), *uuid, mark))
        });
        let doubtful: Vec<_> = doubtful.collect();
        let mut asked = futures::stream::iter(doubtful).buffer_unordered(AT_A_TIME);
        while let Some((uuid, here)) = asked.try_next().await? {
            if let Some(found) = self.domains.get_mut(&uuid) {
                found.domain.orphan = !here;
            }
        }
        Ok(())
    }
}

/// Whether the VM of a domain's mark is placed on this host; asked of the API server itself, for the watch may be behind.
async fn is_placed_here(context: Context, uuid: Uuid, mark: DomainMark) -> Result<(Uuid, bool), Error> {
    if mark.cluster_id != *context.cluster {
        return Ok((uuid, false));
    }
    let api = Api::<VirtualMachine>::namespaced(context.client.clone(), &mark.namespace);
    let vm = limited(API_TIMEOUT, api.get_opt(&mark.name)).await?;
    let here = vm.is_some_and(|vm| {
        let node = vm.status.as_ref().and_then(|status| status.node_name.as_deref());
        is_uid(&vm, &mark.uid) && node == Some(&*context.node)
    });
    Ok((uuid, here))
}

fn is_uid(vm: &VirtualMachine, uid: &str) -> bool {
    vm.metadata.uid.as_deref() == Some(uid)
}

/// Whether an alias may be that of a device of the host: libvirt's own say it, users' begin with `ua-`.
fn may_be_hosts(alias: &str) -> bool {
    alias.starts_with("hostdev") || alias.starts_with("ua-")
}

fn changes_inventory(kind: Lifecycle) -> bool {
    // What follows a Shutdown is a Stopped.
    !matches!(kind, Lifecycle::Shutdown(_))
}

async fn find(domain: Domain) -> (Uuid, Result<Found, Error>) {
    let found = async {
        let (info, mark) = (domain.info().await?, mark(&domain).await?);
        let (uuid, name) = (domain.uuid().to_string(), domain.name().to_owned());
        let devices = match DomainState::from(info.state).is_active() {
            true => held_devices(&domain).await?,
            false => BTreeSet::new(),
        };
        Ok(Found {
            domain: HostDomain { uuid, name, state: info.state.into(), mark, orphan: false, observed: false },
            size: Size { vcpus: info.vcpus, memory_bytes: info.max_memory_bytes },
            devices,
        })
    };
    (domain.uuid(), found.await)
}

/// The host's devices that a running domain has; none where libvirt does not tell, for that must not hide the domain.
async fn held_devices(domain: &Domain) -> Result<BTreeSet<Place>, Error> {
    match domain.xml(XmlOptions::default()).await {
        Ok(xml) => Ok(devices::held(&xml)),
        Err(error) if error.is_not_found() || error.is_connection_lost() => Err(error.into()),
        Err(error) => {
            tracing::warn!(domain = domain.name(), %error, "libvirt does not tell which devices a domain has");
            Ok(BTreeSet::new())
        }
    }
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
    use kubevmm_api::hypervisor::DeviceBus;

    fn domain(number: u128, state: DomainState, marked: bool) -> (Uuid, Found) {
        let uuid = Uuid::from_u128(number);
        let mark = marked.then(|| DomainMark {
            cluster_id: "c".into(),
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            epoch: 1,
        });
        let domain =
            HostDomain { uuid: uuid.to_string(), name: "d".into(), state, mark, orphan: false, observed: false };
        (uuid, Found { domain, size: Size { vcpus: 1, memory_bytes: 1 << 30 }, devices: BTreeSet::new() })
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ours_is_told_at_once_and_what_is_not_every_ten_seconds() {
        use DomainState::{Running, Shutoff};
        let now = Instant::now();
        let told = BTreeMap::from([domain(1, Running, true), domain(2, Running, false)]);
        let unmanaged = |domains: &BTreeMap<Uuid, Found>| used(domains.values().filter(|it| it.domain.mark.is_none()));
        let reported = Reported { session: "s".into(), domains: told.clone(), unmanaged: unmanaged(&told), at: now };
        let will_do = |session, domains, now| reported.will_do(session, domains, &unmanaged(domains), now);
        assert!(will_do("s", &told, now + FOREIGN_PAUSE * 9), "nothing is new");
        assert!(!will_do("t", &told, now), "another session reads for itself");
        let ours = BTreeMap::from([domain(1, Shutoff, true), domain(2, Running, false)]);
        assert!(!will_do("s", &ours, now));
        let foreign = BTreeMap::from([domain(1, Running, true), domain(3, Running, false)]);
        assert!(will_do("s", &foreign, now + FOREIGN_PAUSE / 2));
        assert!(!will_do("s", &foreign, now + FOREIGN_PAUSE));
        let mut grown = told.clone();
        let mut given = told.clone();
        given.get_mut(&Uuid::from_u128(2)).unwrap().devices.insert((DeviceBus::USB, "1:4".into()));
        assert_eq!(reported.due(&given, &unmanaged(&given)), Some(now + FOREIGN_PAUSE), "it has a device now");
        grown.get_mut(&Uuid::from_u128(1)).unwrap().size.vcpus = 2;
        assert!(!will_do("s", &grown, now), "it counts for more");
        assert!(
            !reported.will_do("s", &told, &used(told.values()), now + FOREIGN_PAUSE),
            "a VM that is only watched now"
        );
        assert_eq!(reported.due(&told, &unmanaged(&told)), None);
        for (domains, unmanaged) in [(&foreign, unmanaged(&foreign)), (&told, used(told.values()))] {
            assert!(reported.will_do("s", domains, &unmanaged, now), "it may wait");
            assert_eq!(reported.due(domains, &unmanaged), Some(now + FOREIGN_PAUSE), "and is told then");
        }
    }
}
