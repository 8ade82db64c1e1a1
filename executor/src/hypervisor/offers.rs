//! What the host is and offers to guests: how their CPUs run, what libvirt says of itself and the host, its capabilities,
//! read when libvirt is connected and when the accelerator changes, and its devices, kept current by libvirt's events. It
//! has a loop of its own: KVM is tried for seconds where it hangs, libvirt may start a QEMU to find out, and nobody shall
//! wait for that to learn of the domains.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures::StreamExt as _;
use kubevmm_api::common::Accelerator;
use kubevmm_api::hypervisor::{AcceleratorStatus, HostDevice};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;

use super::capabilities::{self, Documents};
use super::inventory::{ASK_AGAIN, RETRY};
use super::status::{HostFacts, accelerator};
use super::{devices, take_up};
use crate::Error;
use crate::host::Context;
use crate::kvm::{self, KvmProbe};
use crate::libvirt::{Connection, ErrorCode, Event, NodeDevice};

/// Calls about devices at a time: others have calls to make as well.
const AT_A_TIME: usize = 2;
/// Most devices that are read; hosts with many virtual functions have some thousands.
const MOST_READ: usize = 4096;

/// Reports what the host offers for as long as the process lives. libvirt is not asked before its domains have been told:
/// while it tries a QEMU, other calls may wait as well.
pub(super) async fn run(context: Context, mut domains_told: watch::Receiver<bool>) {
    let probed = kvm::probe(Path::new(kvm::DEVICE)).await;
    let mut events = context.libvirt_events.subscribe();
    let mut hypervisors = context.store.hypervisors.changes();
    let mut offers = Offers {
        context,
        probed,
        accelerator: None,
        architecture: None,
        read_for: None,
        stale: true,
        devices: BTreeMap::new(),
        unread: 0,
        to_look_at: BTreeSet::new(),
        ask_again: None,
    };
    loop {
        let may_ask = *domains_told.borrow_and_update();
        offers.refresh(may_ask).await;
        let wake = offers.ask_again;
        tokio::select! {
            event = events.recv() => {
                if take_up(event, &mut events, |event| offers.note(event)).is_none() {
                    return;
                }
            }
            _ = hypervisors.changed() => {}
            Ok(()) = domains_told.changed() => {}
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => offers.ask_again = None,
        }
    }
}

struct Offers {
    context: Context,
    probed: KvmProbe,
    /// The accelerator as it was told last.
    accelerator: Option<AcceleratorStatus>,
    /// The host's; `None`: what libvirt says of it must be read.
    architecture: Option<String>,
    /// The accelerator that the capabilities were read for; `None`: they must be read.
    read_for: Option<Accelerator>,
    /// The devices must be read anew.
    stale: bool,
    devices: BTreeMap<String, HostDevice>,
    /// Devices that were too many to be read.
    unread: usize,
    /// Devices of which an event has told.
    to_look_at: BTreeSet<String>,
    /// When to ask libvirt again that did not answer.
    ask_again: Option<Instant>,
}

impl Offers {
    /// Takes up one event of libvirt; nothing is asked yet.
    fn note(&mut self, event: Result<&Event, &RecvError>) {
        match event {
            Ok(Event::Connected { .. } | Event::Disconnected { .. }) => {
                self.architecture = None;
                self.read_for = None;
                self.stale = true;
                self.ask_again = None;
            }
            Err(_) | Ok(Event::Lost) => {
                self.architecture = None;
                self.stale = true;
            }
            Ok(Event::NodeDevice { name }) if devices::may_be_one(name) => drop(self.to_look_at.insert(name.clone())),
            Ok(_) => {}
        }
    }

    /// Brings the report up to date with what is known.
    async fn refresh(&mut self, may_ask: bool) {
        let policy = self.context.store.hypervisors.get_cluster(&self.context.node).map(|it| it.spec.accelerator);
        let accelerator = accelerator(policy.unwrap_or_default(), &self.probed);
        let kind = accelerator.kind;
        if self.accelerator.as_ref() != Some(&accelerator) {
            self.context.report.accelerator(accelerator.clone());
            self.accelerator = Some(accelerator);
        }
        // The return of libvirt is told.
        let Ok(connection) = self.context.libvirt.connection() else { return };
        if !may_ask || self.ask_again.is_some() {
            return;
        }
        if let Err(error) = self.refresh_from(&connection, kind).await {
            tracing::warn!(%error, "cannot read what this host offers to guests; trying again");
            // Without the first of it the host is not ready.
            self.ask_again = Some(Instant::now() + if self.architecture.is_some() { ASK_AGAIN } else { RETRY });
        }
    }

    async fn refresh_from(&mut self, connection: &Connection, kind: Accelerator) -> Result<(), Error> {
        let architecture = match &self.architecture {
            Some(architecture) => architecture.clone(),
            None => {
                let facts = read_facts(connection).await?;
                let architecture = self.architecture.insert(facts.architecture.clone()).clone();
                self.context.report.facts(facts);
                architecture
            }
        };
        if self.read_for != Some(kind) {
            let documents = documents(connection, &architecture, kind).await?;
            match capabilities::read(&documents, &architecture, kind) {
                Ok(offers) => self.context.report.offers(offers),
                Err(error) => tracing::warn!(%error, "libvirt's capabilities cannot be read: they are not reported"),
            }
            self.read_for = Some(kind);
        }
        if std::mem::take(&mut self.stale) {
            let read = self.read_devices(connection).await;
            self.stale = read.is_err();
            read?;
        } else if self.to_look_at.is_empty() {
            return Ok(());
        }
        while let Some(name) = self.to_look_at.pop_first() {
            match self.look_at(connection, &name).await {
                Ok(Some(device)) => drop(self.devices.insert(name, device)),
                Ok(None) => drop(self.devices.remove(&name)),
                Err(error) => {
                    self.to_look_at.insert(name);
                    return Err(error);
                }
            }
        }
        self.context.report.devices(self.devices.values().cloned().collect(), self.unread);
        Ok(())
    }

    async fn read_devices(&mut self, connection: &Connection) -> Result<(), Error> {
        self.to_look_at.clear();
        let mut listed = connection.list_guest_devices().await?;
        self.unread = listed.len().saturating_sub(MOST_READ);
        listed.sort_by(|a, b| a.name().cmp(b.name()));
        listed.truncate(MOST_READ);
        let reads = futures::stream::iter(listed).map(async |device| (device.name().to_owned(), read(device).await));
        let mut reads = std::pin::pin!(reads.buffer_unordered(AT_A_TIME));
        let mut devices = BTreeMap::new();
        while let Some((name, read)) = reads.next().await {
            devices.extend(settle(&self.devices, &name, read)?.map(|device| (name, device)));
        }
        self.devices = devices;
        Ok(())
    }

    async fn look_at(&self, connection: &Connection, name: &str) -> Result<Option<HostDevice>, Error> {
        let read = match connection.lookup_node_device(name).await {
            Ok(Some(device)) => read(device).await,
            Ok(None) => Ok(None),
            Err(error) => Err(error.into()),
        };
        settle(&self.devices, name, read)
    }
}

/// What becomes of an answer about a device: one that libvirt has no answer for stays as it is known, or is left out, for
/// it must not hide the others.
fn settle(
    known: &BTreeMap<String, HostDevice>,
    name: &str,
    read: Result<Option<HostDevice>, Error>,
) -> Result<Option<HostDevice>, Error> {
    match read {
        // Nobody was asked about the device.
        Err(Error::Libvirt(error)) if error.is_connection_lost() || error.code == ErrorCode::Busy => {
            Err(Error::Libvirt(error))
        }
        Err(error) => {
            tracing::warn!(device = name, %error, "libvirt does not tell of a device: what is known of it stays");
            Ok(known.get(name).cloned())
        }
        read => read,
    }
}

/// The device, if it is there and one for guests.
async fn read(device: NodeDevice) -> Result<Option<HostDevice>, Error> {
    match device.xml().await {
        Ok(xml) => Ok(devices::read(&xml)),
        // It went while it was read; its event says so too.
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn read_facts(connection: &Connection) -> Result<HostFacts, Error> {
    let (uri, driver, libvirt, hypervisor, node) = tokio::try_join!(
        connection.uri(),
        connection.hypervisor_type(),
        connection.lib_version(),
        connection.hypervisor_version(),
        connection.node_info()
    )?;
    Ok(HostFacts {
        uri,
        driver,
        libvirt_version: libvirt.to_string(),
        hypervisor_version: hypervisor.map(|version| version.to_string()),
        architecture: node.model,
        cpus: node.cpus,
        memory_bytes: node.memory_bytes,
    })
}

/// Asks libvirt. What a driver does not tell of domains is left out.
async fn documents(connection: &Connection, architecture: &str, kind: Accelerator) -> Result<Documents, Error> {
    let (machine, domain_type) = (capabilities::usual_machine(architecture), capabilities::domain_type(kind));
    let host = connection.capabilities().await?;
    let domain = connection.domain_capabilities(Some(architecture), machine, Some(domain_type)).await;
    let domain = known(domain, "what domains can have")?;
    let cpu = match domain.as_deref().and_then(capabilities::host_model) {
        Some(cpu) => {
            let expanded = connection.expanded_cpu(architecture, machine, domain_type, &cpu).await;
            known(expanded, "all features of the CPU of host-model")?
        }
        None => None,
    };
    Ok(Documents { host, domain, cpu })
}

/// What libvirt answered; `None` if it has no answer at all and will have none.
fn known<T>(answer: crate::libvirt::Result<T>, what: &str) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.may_pass() => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "libvirt does not say {what}");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::{Error as Failure, ErrorCode, Options};

    #[tokio::test]
    async fn a_driver_that_does_not_tell_all_still_tells_something() {
        let (connection, _events) = Connection::open("test:///default", Options::default()).await.unwrap();
        let architecture = connection.node_info().await.unwrap().model;
        let documents = documents(&connection, &architecture, Accelerator::TCG).await.unwrap();
        assert!(documents.host.contains("<capabilities>"));
        assert_eq!(documents.cpu, None, "the driver has no host-model");
        let offers = capabilities::read(&documents, &architecture, Accelerator::TCG).unwrap();
        assert!(!offers.numa.is_empty(), "{offers:?}");
    }

    #[test]
    fn a_host_that_does_not_answer_is_asked_again_and_one_that_cannot_is_not() {
        let failed = |code| {
            let (message, operation, object) = (String::new(), "virConnectGetDomainCapabilities", String::new());
            known::<()>(Err(Failure { code, domain: 0, message, operation, object }), "what domains can have")
        };
        assert!(failed(ErrorCode::Timeout).is_err() && failed(ErrorCode::ConnectionLost).is_err());
        for code in [ErrorCode::Unsupported, ErrorCode::ConfigUnsupported, ErrorCode::InvalidArgument] {
            assert!(matches!(failed(code), Ok(None)), "{code:?}");
        }
    }

    #[test]
    fn a_device_that_cannot_be_read_hides_no_other() {
        let known = HostDevice { name: "pci_1".into(), ..Default::default() };
        let devices = BTreeMap::from([("pci_1".to_owned(), known.clone())]);
        let settled = |name, code| {
            let (message, operation, object) = (String::new(), "virNodeDeviceGetXMLDesc", String::new());
            settle(&devices, name, Err(Failure { code, domain: 0, message, operation, object }.into()))
        };
        for code in [ErrorCode::Internal, ErrorCode::SystemError, ErrorCode::Timeout] {
            assert_eq!(settled("pci_1", code).unwrap(), Some(known.clone()), "{code:?}");
            assert_eq!(settled("pci_2", code).unwrap(), None, "{code:?}");
        }
        for code in [ErrorCode::ConnectionLost, ErrorCode::Busy] {
            assert!(settled("pci_1", code).is_err(), "{code:?}: nobody was asked");
        }
        assert_eq!(settle(&devices, "pci_1", Ok(None)).unwrap(), None, "it is gone");
    }
}
