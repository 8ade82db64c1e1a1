//! Observed VMs: a domain that is somebody else's. It is watched, and nothing is asked of libvirt that changes it: all
//! that this module holds of libvirt is [`Reading`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kubevmm_analyser::read::DomainInfo;
use kubevmm_api::VirtualMachine;
use kubevmm_api::condition::{ADDRESSES_KNOWN, AGENT_CONNECTED, READY, SYNCED, Wanted};
use kubevmm_api::vm::{DomainState, DomainStatus, InterfaceStatus, VirtualMachineStatus};
use tokio::time::Instant;

use super::addresses::{self, Schedule};
use super::backoff::Backoff;
use super::cluster::{Cluster, name_of};
use super::domains::{Identity, Observed, Reading};
use super::existing::{self, Lifted};
use super::status::{addresses_of_running, agent_of_running, own_part};
use super::task::{CHECK, Hands, Input, Queue, is_older, now};
use crate::api::{is_conflict, is_not_found};
use crate::host::{NotYet, Retry};
use crate::libvirt::{DomainEvent, Lifecycle};

/// The pause before libvirt or the API server is asked again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The longest one, while libvirt answers with an error.
const LOOK_AGAIN_AT_LAST: Duration = Duration::from_secs(300);

/// What libvirt says of the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Unreachable(String),
    Missing,
    There(Box<Observed>),
}

impl Seen {
    fn active(&self) -> Option<&Observed> {
        match self {
            Self::There(observed) if observed.state.is_active() => Some(observed),
            _ => None,
        }
    }
}

/// The task of one observed VM.
pub(super) struct Observer {
    node: Arc<str>,
    domains: Arc<dyn Reading>,
    cluster: Arc<dyn Cluster>,
    vm: Arc<VirtualMachine>,
    identity: Identity,
    queue: Queue,
    seen: Option<Seen>,
    /// What is seen bears the mark of this VM.
    marked: bool,
    /// What is seen in the words of a spec.
    lifted: Option<Result<Lifted, NotYet>>,
    looks: Backoff,
    /// The API server must be asked whether the VM is still there.
    left: Option<Instant>,
    was_active: Option<bool>,
    /// libvirt's number of the run that is seen.
    id: Option<Option<u32>>,
    interfaces: Vec<InterfaceStatus>,
    addresses: Schedule,
    asking: bool,
    /// The number of the run that is seen, to tell late answers.
    run: u64,
    writes: Backoff,
    /// When the domain was last read.
    read_at: Option<Instant>,
    /// What is seen is to be lifted then.
    lift_at: Option<Instant>,
}

impl Observer {
    pub(super) fn new(hands: &Hands, vm: Arc<VirtualMachine>, queue: Queue) -> Self {
        Self {
            node: Arc::clone(&hands.node),
            domains: hands.domains.clone(),
            cluster: Arc::clone(&hands.cluster),
            identity: hands.identity(&vm),
            vm,
            queue,
            seen: None,
            marked: false,
            lifted: None,
            looks: Backoff::new(LOOK_AGAIN, LOOK_AGAIN_AT_LAST),
            left: None,
            was_active: None,
            id: None,
            interfaces: Vec::new(),
            addresses: Schedule::default(),
            asking: false,
            run: 0,
            writes: Backoff::new(Duration::from_secs(1), Duration::from_secs(5)),
            read_at: None,
            lift_at: None,
        }
    }

    /// Watches until the VM is not this host's any more, or not one to be only watched.
    pub(super) async fn run(mut self) -> End {
        loop {
            if self.left.is_some_and(|at| at <= Instant::now()) && !self.is_still_there().await {
                return End::Over;
            }
            self.look().await;
            let is_marked = self.marked && matches!(self.seen, Some(Seen::There(_)));
            if self.left.is_none() && (self.vm.spec.observed().is_none() || is_marked) {
                return End::Managed(self.vm, self.queue);
            }
            self.lift();
            self.ask_addresses();
            self.write_status().await;
            if !self.wait().await {
                return End::Over;
            }
        }
    }

    async fn look(&mut self) {
        if self.check_at().is_some_and(|at| at <= Instant::now()) {
            self.seen = None;
        }
        let unanswered = matches!(self.seen, Some(Seen::Unreachable(_)));
        if (self.seen.is_some() && !unanswered) || self.looks.wait(Instant::now()).is_some() {
            return;
        }
        let seen = match self.domains.observe(self.identity.uuid).await {
            Ok(Some(observed)) => Seen::There(Box::new(observed)),
            Ok(None) => Seen::Missing,
            // It went between two calls.
            Err(error) if error.is_not_found() => Seen::Missing,
            Err(error) => Seen::Unreachable(error.to_string()),
        };
        if matches!(seen, Seen::Unreachable(_)) {
            self.looks.fail(Instant::now());
        } else {
            self.looks.reset();
            self.read_at = Some(Instant::now());
            self.note_run(&seen);
        }
        self.marked = matches!(&seen, Seen::There(observed) if observed.is_marked(&self.identity));
        if matches!(seen, Seen::There(_)) {
            self.lifted = None;
        }
        self.seen = Some(seen);
    }

    /// Says what is seen in the words of a spec, once the host knows what it is.
    fn lift(&mut self) {
        self.lift_at = None;
        let (Some(Seen::There(observed)), None) = (&self.seen, &self.lifted) else { return };
        match existing::lift(&*self.cluster, &self.vm, observed) {
            Err(NotYet { retry: Retry::After(pause), .. }) => self.lift_at = Some(Instant::now() + pause),
            lifted => self.lifted = Some(lifted),
        }
    }

    /// When the domain is to be read again, if nothing happens before.
    fn check_at(&self) -> Option<Instant> {
        matches!(self.seen, Some(Seen::There(_))).then(|| self.read_at.unwrap_or_else(Instant::now) + CHECK)
    }

    /// What follows from what is seen, for the addresses and the Events.
    fn note_run(&mut self, seen: &Seen) {
        let active = seen.active().is_some();
        if let Some(before) = self.was_active.replace(active)
            && before != active
        {
            let (reason, note) =
                if active { ("Started", "the domain runs") } else { ("Stopped", "the domain does not run any more") };
            self.cluster.event(&self.vm, false, "Observe", reason, note.to_owned());
        }
        let interfaces = match seen {
            Seen::There(observed) => interfaces(&observed.info),
            _ => Vec::new(),
        };
        let id = seen.active().map(|observed| observed.info.id);
        let same = self.interfaces.iter().map(nic).eq(interfaces.iter().map(nic));
        if !same || !active || self.id != id {
            self.run += 1;
            self.interfaces = interfaces;
            self.id = id;
            self.addresses.stop();
        }
        if active && !addresses::all_known(&self.interfaces) {
            self.addresses.restart(Instant::now());
        }
    }

    fn addresses_due(&self) -> Option<Instant> {
        let active = self.seen.as_ref().is_some_and(|seen| seen.active().is_some());
        self.addresses.due().filter(|_| active && !self.asking)
    }

    fn ask_addresses(&mut self) {
        if self.addresses_due().is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.asking = true;
        let (domains, identity) = (Arc::clone(&self.domains), self.identity.clone());
        let bare =
            self.interfaces.iter().map(|nic| InterfaceStatus { addresses: Vec::new(), source: None, ..nic.clone() });
        let (bare, agent, run, answers) = (bare.collect(), self.agent_connected(), self.run, self.queue.answers());
        tokio::spawn(async move {
            let found = addresses::ask(&*domains, &identity, bare, agent).await;
            drop(answers.send(Input::Addresses(run, found)));
        });
    }

    fn agent_connected(&self) -> bool {
        self.seen.as_ref().and_then(Seen::active).is_some_and(|observed| observed.agent_connected)
    }

    async fn is_still_there(&mut self) -> bool {
        let (namespace, name) = name_of(&self.vm);
        match self.cluster.vm(namespace, name).await {
            Ok(Some(vm)) if vm.metadata.uid == self.vm.metadata.uid => {
                let here = vm.status.as_ref().and_then(|status| status.node_name.as_deref()) == Some(&*self.node);
                self.vm = Arc::new(vm);
                self.left = None;
                here
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "cannot look whether the VM is still on this host");
                self.left = Some(Instant::now() + LOOK_AGAIN);
                true
            }
        }
    }

    async fn write_status(&mut self) {
        if self.writes.wait(Instant::now()).is_some() || self.left.is_some() || self.lift_at.is_some() {
            return;
        }
        let Some(seen) = &self.seen else { return };
        let status = render(&self.vm, &self.identity, seen, self.lifted.as_ref(), &self.interfaces, &now());
        if self.vm.status.as_ref().is_some_and(|there| own_part(there) == status) {
            return;
        }
        match self.cluster.write_status(&self.vm, &status).await {
            Ok(vm) => {
                self.writes.reset();
                self.vm = Arc::new(vm);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot write the status; trying again");
                self.writes.fail(Instant::now());
                if is_not_found(&error) || is_conflict(&error) {
                    self.left = Some(Instant::now());
                }
            }
        }
    }

    /// Waits for the next thing to do. `false`: nobody needs this task any more.
    async fn wait(&mut self) -> bool {
        let now = Instant::now();
        let wake = [
            self.looks.wait(now),
            self.left,
            self.addresses_due(),
            self.check_at(),
            self.lift_at,
            self.writes.wait(now),
        ]
        .into_iter()
        .flatten()
        .min();
        let Some(inputs) = self.queue.wait(wake).await else { return false };
        inputs.into_iter().for_each(|input| self.take(input));
        true
    }

    fn look_anew(&mut self) {
        self.seen = None;
        self.looks.reset();
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Object { vm, .. } if is_older(&vm, &self.vm) => {}
            Input::Object { vm, .. } => self.vm = vm,
            Input::Left => self.left = Some(Instant::now()),
            Input::Domain(event) if changes(&event) => {
                self.look_anew();
                if asks_for_addresses(&event) {
                    self.addresses.restart(Instant::now());
                }
            }
            Input::Reread | Input::Pools => self.look_anew(),
            Input::Addresses(run, found) => {
                self.asking = false;
                if run != self.run {
                    return;
                }
                addresses::note(&mut self.interfaces, found);
                let known = addresses::all_known(&self.interfaces);
                self.addresses.answered(known, self.agent_connected(), Instant::now());
            }
            // What could not be lifted may be so now.
            Input::Changed => drop(self.lifted.take_if(|lifted| lifted.is_err())),
            Input::Domain(_) | Input::Session | Input::Asked(..) => {}
        }
    }
}

/// Why a VM is not watched any more.
pub(super) enum End {
    /// It is not this host's.
    Over,
    /// It is to be managed, or is still marked as one that is.
    Managed(Arc<VirtualMachine>, Queue),
}

/// Whether an event may change what the status says.
fn changes(event: &DomainEvent) -> bool {
    matches!(
        event,
        DomainEvent::Lifecycle(_)
            | DomainEvent::Agent { .. }
            | DomainEvent::DeviceAdded { .. }
            | DomainEvent::DeviceRemoved { .. }
            | DomainEvent::BlockJob { .. }
            | DomainEvent::TrayChange { .. }
            | DomainEvent::MetadataChange { .. }
    )
}

/// Whether an event may bring other addresses, or a source that knows better.
fn asks_for_addresses(event: &DomainEvent) -> bool {
    matches!(
        event,
        DomainEvent::Lifecycle(Lifecycle::Started(_))
            | DomainEvent::Agent { connected: true, .. }
            | DomainEvent::DeviceAdded { .. }
            | DomainEvent::DeviceRemoved { .. }
    )
}

fn nic(interface: &InterfaceStatus) -> (&str, &str) {
    (&interface.name, &interface.mac_address)
}

/// The NICs that a status can name; those without a MAC address (a host device without one) are left out.
fn interfaces(info: &DomainInfo) -> Vec<InterfaceStatus> {
    let nics = info.nics.iter().enumerate();
    let named = nics.filter_map(|(index, nic)| {
        let name = nic.alias.clone().unwrap_or_else(|| format!("net{index}"));
        Some(InterfaceStatus { name, mac_address: nic.mac.clone()?, ..Default::default() })
    });
    distinct(named, |interface| interface.name.clone())
}

/// The interfaces under the names that a spec has for them, and what they are connected to; the others come last.
fn linked(interfaces: &[InterfaceStatus], lifted: Option<&Lifted>) -> Vec<InterfaceStatus> {
    let Some(lifted) = lifted else { return interfaces.to_vec() };
    let is = |nic: &InterfaceStatus, mac: &str| nic.mac_address.eq_ignore_ascii_case(mac);
    let known = lifted.spec.networks.iter().zip(&lifted.links).map(|(network, (name, link))| InterfaceStatus {
        name: name.clone(),
        mac_address: network.mac_address.clone(),
        connected_to: Some(link.clone()),
        ..interfaces.iter().find(|nic| is(nic, &network.mac_address)).cloned().unwrap_or_default()
    });
    let others = interfaces.iter().filter(|nic| !lifted.spec.networks.iter().any(|it| is(nic, &it.mac_address)));
    // libvirt counts all of them, a spec those that it can say.
    let others = others.map(|nic| match lifted.spec.networks.iter().any(|known| known.name == nic.name) {
        true => InterfaceStatus { name: format!("{}-{}", nic.name, nic.mac_address.replace(':', "")), ..nic.clone() },
        false => nic.clone(),
    });
    distinct(known.chain(others), |nic| nic.name.clone())
}

/// The first of each name: a list of the API has no key twice.
fn distinct<T>(items: impl Iterator<Item = T>, name: impl Fn(&T) -> String) -> Vec<T> {
    let mut names = BTreeSet::new();
    items.filter(|item| names.insert(name(item))).collect()
}

/// The executor's part of the status.
fn render(
    vm: &VirtualMachine,
    identity: &Identity,
    seen: &Seen,
    lifted: Option<&Result<Lifted, NotYet>>,
    interfaces: &[InterfaceStatus],
    now: &Time,
) -> VirtualMachineStatus {
    let there = vm.status.clone().unwrap_or_default();
    let uuid = identity.uuid;
    let (printable, ready, agent, addresses) = match seen {
        Seen::Unreachable(why) => {
            let unknown = |kind| Wanted::unknown(kind, "LibvirtUnavailable", why.clone());
            ("Unknown", unknown(READY), unknown(AGENT_CONNECTED), unknown(ADDRESSES_KNOWN))
        }
        Seen::Missing => {
            let message = format!(
                "the host has no domain with the UUID {uuid} any more: define it again, or delete this VirtualMachine"
            );
            (
                "Missing",
                Wanted::no(READY, "DomainMissing", message),
                not_running(AGENT_CONNECTED),
                not_running(ADDRESSES_KNOWN),
            )
        }
        Seen::There(observed) => {
            let (printable, ready) = state(observed.state);
            match seen.active() {
                None => (printable, ready, not_running(AGENT_CONNECTED), not_running(ADDRESSES_KNOWN)),
                Some(_) => {
                    (printable, ready, agent_of_running(observed.agent_connected), addresses_of_running(interfaces))
                }
            }
        }
    };
    let reachable = !matches!(seen, Seen::Unreachable(_));
    let observed = match seen {
        Seen::There(observed) => Some(observed),
        _ => None,
    };
    let domain = observed.map(|observed| DomainStatus {
        name: observed.info.name.clone(),
        uuid: uuid.to_string(),
        epoch: 0,
        state: observed.state,
        generation: None,
        start_time: None,
        autostart: observed.autostart,
        transient: !observed.defined,
    });
    let lifted = lifted.filter(|_| observed.is_some());
    let spec = lifted.and_then(|lifted| lifted.as_ref().ok());
    let not_lifted = lifted.and_then(|lifted| lifted.as_ref().err());
    let synced = not_lifted.map(|why| Wanted::unknown(SYNCED, why.reason, why.message.clone()));
    let generation = vm.metadata.generation;
    let conditions = [Some(ready), synced, Some(agent), Some(addresses)].into_iter().flatten();
    let conditions = conditions.map(|wanted| wanted.over(&there.conditions, generation, now));
    VirtualMachineStatus {
        observed_generation: generation,
        printable_status: Some(printable.to_owned()),
        // What was there is not known to have gone while libvirt is away.
        domain: if reachable { domain } else { there.domain },
        interfaces: if reachable { linked(interfaces, spec) } else { there.interfaces },
        disks: match spec {
            _ if !reachable => there.disks,
            Some(lifted) => distinct(lifted.disks.iter().cloned(), |disk| disk.name.clone()),
            None => Vec::new(),
        },
        effective: if reachable { spec.map(|lifted| lifted.spec.clone()) } else { there.effective },
        conditions: conditions.collect(),
        // What was answered stays answered, also when the VM is managed again.
        last_power_request: there.last_power_request,
        last_stop: there.last_stop,
        released_epoch: there.released_epoch,
        ..Default::default()
    }
}

fn not_running(kind: &'static str) -> Wanted {
    Wanted::no(kind, "NotRunning", "")
}

/// The state of a domain that is not this project's.
pub(super) fn state(state: DomainState) -> (&'static str, Wanted) {
    match state {
        DomainState::Running => ("Running", Wanted::yes(READY, "Running", "the domain runs")),
        DomainState::Paused | DomainState::Suspended => ("Paused", Wanted::no(READY, "Paused", "the domain is paused")),
        DomainState::ShuttingDown => ("Stopping", Wanted::no(READY, "Stopping", "the guest shuts down")),
        DomainState::Shutoff => ("Stopped", Wanted::no(READY, "Stopped", "the domain is off")),
        DomainState::Crashed => ("Stopped", Wanted::no(READY, "Crashed", "the guest or QEMU has crashed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::fakes::{Fake, conditions, vm};
    use kubevmm_analyser::read::read_domain;
    use std::collections::BTreeMap;
    use tokio::sync::mpsc;

    const XML: &str = "<domain type='kvm' id='3'><name>Old Mail Server</name>\
        <uuid>0a000000-0000-4000-8000-000000000001</uuid><devices>\
        <disk type='file' device='disk'><source file='/srv/mail.qcow2'/><target dev='vda' bus='virtio'/></disk>\
        <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>\
        <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface>\
        <interface type='hostdev'><source/></interface></devices></domain>";

    fn observed(state: DomainState) -> Observed {
        Observed {
            state,
            info: read_domain(XML).unwrap(),
            agent_connected: false,
            autostart: false,
            defined: true,
            definition: XML.into(),
            volumes: BTreeMap::new(),
        }
    }

    fn fake(observed: Option<Observed>) -> Fake {
        let fake = Fake::default();
        fake.with(|world| {
            world.vm = Some(vm(
                "{management: Observe, existingDomain: {nodeName: n1, uuid: 0a000000-0000-4000-8000-000000000001}}",
                0,
            ));
            world.observed = observed;
        });
        fake
    }

    fn observe(fake: &Fake) -> mpsc::UnboundedSender<Input> {
        let (inbox, queue) = mpsc::unbounded_channel();
        let vm = fake.with(|world| world.vm.clone().unwrap());
        tokio::spawn(Observer::new(&fake.hands(), Arc::new(vm), Queue::new(queue)).run());
        inbox
    }

    async fn until(fake: &Fake, printable: &str) -> VirtualMachineStatus {
        while fake.status().printable_status.as_deref() != Some(printable) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fake.status()
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_domain_is_stands_in_the_status() {
        let fake = fake(Some(observed(DomainState::Running)));
        let _inbox = observe(&fake);
        let status = until(&fake, "Running").await;
        let domain = status.domain.as_ref().unwrap();
        assert_eq!((domain.name.as_str(), domain.epoch), ("Old Mail Server", 0));
        let disks: Vec<_> = status.disks.iter().map(|disk| (disk.name.as_str(), disk.source.as_deref())).collect();
        assert_eq!(disks, [("vda", Some("/srv/mail.qcow2")), ("sda", None)]);
        assert_eq!((status.interfaces[0].name.as_str(), status.interfaces.len()), ("net0", 1));
        assert_eq!(conditions(&status)["Ready"], "True/Running");
        assert_eq!(conditions(&status)["AddressesKnown"], "False/WaitingForAddresses");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_followed_and_nothing_is_done_to_the_host() {
        let fake = fake(Some(observed(DomainState::Running)));
        let inbox = observe(&fake);
        until(&fake, "Running").await;
        fake.with(|world| world.observed = Some(observed(DomainState::Shutoff)));
        inbox.send(Input::Reread).unwrap();
        let off = until(&fake, "Stopped").await;
        assert_eq!(conditions(&off)["Ready"], "False/Stopped");
        fake.with(|world| world.observed = None);
        inbox.send(Input::Reread).unwrap();
        let missing = until(&fake, "Missing").await;
        assert_eq!(conditions(&missing)["Ready"], "False/DomainMissing");
        assert_eq!((missing.domain, missing.disks.len()), (None, 0));
        assert_eq!(fake.done(), ["status", "status", "status"], "one write for each change");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_told_before_the_host_knows_what_it_is() {
        let fake = fake(Some(observed(DomainState::Running)));
        fake.with(|world| world.machine_is_unknown = true);
        let _inbox = observe(&fake);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(fake.done().is_empty(), "what was told before stays");
        fake.with(|world| world.machine_is_unknown = false);
        let status = until(&fake, "Running").await;
        assert_eq!((fake.done().as_slice(), status.effective.is_some()), (["status"].as_slice(), true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_vm_ends_the_watching_and_leaves_the_domain() {
        let fake = fake(Some(observed(DomainState::Running)));
        let inbox = observe(&fake);
        until(&fake, "Running").await;
        fake.with(|world| world.vm = None);
        inbox.send(Input::Left).unwrap();
        inbox.closed().await;
        assert_eq!(fake.done(), ["status", "get"]);
        assert!(fake.with(|world| world.observed.is_some()));
    }
}
