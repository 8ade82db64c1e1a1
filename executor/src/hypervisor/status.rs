//! The Hypervisor's status as a pure function of what was found.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kubevmm_api::common::Accelerator;
use kubevmm_api::condition::Wanted;
use kubevmm_api::hypervisor::{
    AcceleratorPolicy, AcceleratorStatus, DeviceBus, HostDevice, HostDomain, HostImage, HostNetwork, HostPool,
    HostUsage,
};
use kubevmm_api::{HypervisorSpec, HypervisorStatus, Quantity};

use super::capabilities::Offers;
use super::devices::Place;
use super::usage;
use crate::kvm::KvmProbe;

/// Domains without a mark that are listed; about 150 bytes each.
const MOST_FOREIGN: usize = 500;
/// Devices that are listed; about 300 bytes each.
const MOST_DEVICES: usize = 512;

/// What the parts of the executor have found since its start.
#[derive(Default)]
pub struct Pieces {
    /// Of libvirt and the host.
    pub facts: Option<HostFacts>,
    /// How guests' CPUs run.
    pub accelerator: Option<AcceleratorStatus>,
    /// The storage pools.
    pub pools: Option<Vec<HostPool>>,
    /// The networks.
    pub networks: Option<Vec<HostNetwork>>,
    /// The images.
    pub images: Option<Vec<HostImage>>,
    /// What the host offers to guests.
    pub offers: Option<Offers>,
    /// Its devices, and the number of those that were not looked at.
    pub devices: Option<(Vec<HostDevice>, usize)>,
    /// The domains.
    pub domains: Option<Domains>,
    /// The condition Ready, as far as libvirt and its domains go.
    pub ready: Option<Wanted>,
}

/// The domains of the host.
pub struct Domains {
    /// The session in which they were read.
    pub session: String,
    /// All of them.
    pub domains: Vec<HostDomain>,
    /// What those have that run.
    pub used: HostUsage,
    /// Of it, what those have that have no placement pod.
    pub unmanaged: HostUsage,
    /// Which of those has which of the host's devices.
    pub held: BTreeMap<Place, String>,
}

/// What libvirt says of itself and of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The URI, as libvirt completed it.
    pub uri: String,
    /// Driver of libvirt.
    pub driver: String,
    /// Version of libvirt.
    pub libvirt_version: String,
    /// Version of QEMU.
    pub hypervisor_version: Option<String>,
    /// Architecture.
    pub architecture: String,
    /// CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// The status with the pieces that are known put over what is there.
pub(super) fn merged(
    spec: &HypervisorSpec,
    before: &HypervisorStatus,
    pieces: &Pieces,
    generation: Option<i64>,
    now: &Time,
) -> HypervisorStatus {
    let mut status = before.clone();
    if let Some(facts) = &pieces.facts {
        status.uri = Some(facts.uri.clone());
        status.driver = Some(facts.driver.clone());
        status.libvirt_version = Some(facts.libvirt_version.clone());
        status.hypervisor_version = facts.hypervisor_version.clone();
        status.architecture = Some(facts.architecture.clone());
        status.cpus = Some(facts.cpus.into());
        status.memory = Some(Quantity::from_bytes(facts.memory_bytes));
    }
    if let Some(accelerator) = &pieces.accelerator {
        status.accelerator = Some(accelerator.clone());
    }
    if let Some(pools) = &pieces.pools {
        status.pools = sorted(pools, |pool| pool.name.clone());
    }
    if let Some(networks) = &pieces.networks {
        status.networks = sorted(networks, |n| (n.kind, n.namespace.clone(), n.name.clone(), n.uid.clone()));
    }
    if let Some(images) = &pieces.images {
        status.images =
            sorted(images, |i| (i.kind, i.namespace.clone(), i.name.clone(), i.uid.clone(), i.pool_name.clone()));
    }
    if let Some(Offers { capabilities, numa }) = &pieces.offers {
        status.capabilities = Some(capabilities.clone());
        status.numa = numa.clone();
    }
    if let Some((devices, unread)) = &pieces.devices {
        status.devices = listed_devices(devices);
        // Until the domains have been read, what was found of them before stays.
        for device in &mut status.devices {
            let known = before.devices.iter().find(|known| known.name == device.name);
            device.used_by = known.and_then(|known| known.used_by.clone());
        }
        status.unlisted_device_count =
            written(devices.len() + unread - status.devices.len()).filter(|count| *count > 0);
    }
    if let Some(Domains { session, domains, used, unmanaged, held }) = &pieces.domains {
        let count = |which: fn(&HostDomain) -> bool| domains.iter().filter(|domain| which(domain)).count();
        let foreign = count(|domain| domain.mark.is_none());
        status.session = Some(session.clone());
        status.domains = listed(domains);
        status.domain_count = written(domains.len() - foreign);
        status.orphan_count = written(count(|domain| domain.orphan));
        status.foreign_count = written(foreign);
        status.unlisted_count = written(domains.len() - status.domains.len()).filter(|count| *count > 0);
        (status.used, status.unmanaged) = (Some(used.clone()), Some(unmanaged.clone()));
        for device in &mut status.devices {
            device.used_by = held.get(&(device.bus, device.address.clone())).cloned();
        }
    }
    status.allocatable = usage::allocatable(spec, &status);
    status.usage = usage::in_words(&status);
    // VMs may be placed on a host that is ready: what it is must be known, too. That is found out beside.
    let known = pieces.facts.is_some() && pieces.accelerator.is_some();
    if let Some(ready) = pieces.ready.as_ref().filter(|ready| known || ready.status != Some(true)) {
        status.conditions = vec![ready.over(&before.conditions, generation, now)];
    }
    status
}

/// Each domain with a mark, for decisions depend on them, and of the others as many as an object should hold: those that
/// are observed first.
fn listed(domains: &[HostDomain]) -> Vec<HostDomain> {
    let mut listed = sorted(domains, |domain| (domain.mark.is_none(), !domain.observed, domain.uuid.clone()));
    let marked = listed.partition_point(|domain| domain.mark.is_some());
    listed.truncate(marked + MOST_FOREIGN);
    sorted(&listed, |domain| domain.uuid.clone())
}

/// As many devices as an object should hold. Of virtual functions a host may have hundreds that are all alike: they are the
/// first to be left out.
fn listed_devices(devices: &[HostDevice]) -> Vec<HostDevice> {
    let is_function = |device: &HostDevice| device.bus == DeviceBus::PCI && device.parent.is_some();
    let mut listed = sorted(devices, |device| (is_function(device), device.name.clone()));
    listed.truncate(MOST_DEVICES);
    sorted(&listed, |device| device.name.clone())
}

fn written(count: usize) -> Option<i32> {
    i32::try_from(count).ok()
}

fn sorted<T: Clone, K: Ord>(list: &[T], key: impl Fn(&T) -> K) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort_by_key(key);
    list
}

/// How guests' CPUs run here: the administrator's word, else what the probe of KVM says.
pub(super) fn accelerator(policy: AcceleratorPolicy, probe: &KvmProbe) -> AcceleratorStatus {
    let said = |word: &str| format!("spec.accelerator of the Hypervisor is {word}");
    let (kind, evidence) = match (policy, probe) {
        (AcceleratorPolicy::KVM, _) => (Accelerator::KVM, said("KVM")),
        (AcceleratorPolicy::TCG, _) => (Accelerator::TCG, said("TCG")),
        (AcceleratorPolicy::Auto, KvmProbe::Usable) => (Accelerator::KVM, "guest code ran and halted".to_owned()),
        (AcceleratorPolicy::Auto, KvmProbe::Unusable { why }) => (Accelerator::TCG, why.clone()),
    };
    AcceleratorStatus { kind, evidence }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use kubevmm_api::condition;
    use kubevmm_api::hypervisor::{DomainMark, HostCapabilities, HostCpu};
    use kubevmm_api::vm::DomainState;

    fn domain(uuid: &str, orphan: bool) -> HostDomain {
        let mark = DomainMark {
            cluster_id: "c".into(),
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            epoch: 1,
        };
        HostDomain { mark: Some(mark), orphan, ..foreign(uuid) }
    }

    fn foreign(uuid: &str) -> HostDomain {
        let name = "shop.web".into();
        HostDomain { uuid: uuid.into(), name, state: DomainState::Running, mark: None, orphan: false, observed: false }
    }

    fn piece(session: &str, domains: Vec<HostDomain>) -> Domains {
        let usage = |vcpus| HostUsage { domains: 1, vcpus, memory: Quantity::from_bytes(1 << 30) };
        Domains { session: session.into(), domains, used: usage(3), unmanaged: usage(1), held: BTreeMap::new() }
    }

    fn facts() -> HostFacts {
        HostFacts {
            uri: "qemu:///system".into(),
            driver: "QEMU".into(),
            libvirt_version: "11.3.0".into(),
            hypervisor_version: None,
            architecture: "x86_64".into(),
            cpus: 4,
            memory_bytes: 4 << 30,
        }
    }

    fn tcg() -> AcceleratorStatus {
        accelerator(AcceleratorPolicy::TCG, &KvmProbe::Usable)
    }

    fn over_nothing(pieces: &Pieces) -> HypervisorStatus {
        merged(&HypervisorSpec::default(), &HypervisorStatus::default(), pieces, Some(1), &at(1))
    }

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn what_was_not_found_yet_stays_as_it_is() {
        let before = HypervisorStatus {
            session: Some("old".into()),
            domains: vec![domain("a", false)],
            libvirt_version: Some("11.3.0".into()),
            ..Default::default()
        };
        assert_eq!(merged(&HypervisorSpec::default(), &before, &Pieces::default(), Some(1), &at(1)), before);
        let pieces = Pieces { pools: Some(Vec::new()), ..Default::default() };
        assert_eq!(merged(&HypervisorSpec::default(), &before, &pieces, Some(1), &at(1)).domains.len(), 1);
    }

    #[test]
    fn domains_are_written_with_their_session_and_counted() {
        let domains = vec![domain("b", true), domain("a", false)];
        let pieces = Pieces { domains: Some(piece("new", domains)), ..Default::default() };
        let after = over_nothing(&pieces);
        assert_eq!(after.session.as_deref(), Some("new"));
        assert_eq!((after.domain_count, after.orphan_count), (Some(2), Some(1)));
        assert_eq!(after.domains[0].uuid, "a");
        assert_eq!((after.foreign_count, after.unlisted_count), (Some(0), None));
    }

    #[test]
    fn many_foreign_domains_are_counted_and_leave_none_of_ours_out() {
        let mut domains: Vec<_> = (0..1000).map(|n| foreign(&format!("{n:04}"))).collect();
        domains.push(domain("ours", false));
        domains[999].observed = true;
        let pieces = Pieces { domains: Some(piece("s", domains)), ..Default::default() };
        let after = over_nothing(&pieces);
        assert_eq!((after.domain_count, after.foreign_count), (Some(1), Some(1000)));
        assert_eq!((after.domains.len(), after.unlisted_count), (501, Some(500)));
        assert_eq!(after.domains.last().map(|domain| domain.uuid.as_str()), Some("ours"));
        assert!(after.domains.iter().any(|domain| domain.observed), "what somebody watches is not left out");
        assert!(serde_json::to_string(&after).unwrap().len() < 100_000, "an object of the API stays small");
    }

    #[test]
    fn an_object_of_the_api_stays_small_whatever_is_on_the_host() {
        let name = |what: &str, n: usize| format!("{what}-{n:04}-of-a-host-with-long-names");
        let marked = (0..1000).map(|n| {
            let mut domain = domain(&format!("0a000000-0000-4000-8000-{n:012}"), n % 2 == 0);
            domain.name = name("namespace.shop", n);
            let mark = domain.mark.as_mut().unwrap();
            mark.cluster_id = "067c8fcf-f639-41c1-83e5-74bd7d70ab89".into();
            mark.uid = "067c8fcf-f639-41c1-83e5-74bd7d70ab89".into();
            (mark.namespace, mark.name) = (name("namespace", n), name("shop", n));
            domain
        });
        let others = (0..1000)
            .map(|n| HostDomain { name: "x".repeat(200), ..foreign(&format!("0b000000-0000-4000-8000-{n:012}")) });
        let device = |n: usize| HostDevice {
            name: format!("pci_0000_{n:04}_00_0"),
            address: format!("0000:{n:04}:00.0"),
            vendor_id: Some("8086".into()),
            product_id: Some("1572".into()),
            description: Some("d".repeat(80)),
            iommu_group: Some(77),
            parent: Some("pci_0000_41_00_0".into()),
            ..Default::default()
        };
        let names = |what: &str, count: usize| (0..count).map(|n| name(what, n)).collect::<Vec<_>>();
        let cpu = HostCpu { models: names("EPYC", 100), features: names("avx", 300), ..Default::default() };
        let capabilities = HostCapabilities { cpu, machines: names("pc-q35", 200), ..Default::default() };
        let pieces = Pieces {
            domains: Some(piece("s", marked.chain(others).collect())),
            devices: Some(((0..2000).map(device).collect(), 5)),
            offers: Some(Offers { capabilities, numa: Vec::new() }),
            ..Default::default()
        };
        let after = over_nothing(&pieces);
        assert_eq!((after.domains.len(), after.unlisted_count), (1500, Some(500)));
        assert_eq!((after.devices.len(), after.unlisted_device_count), (512, Some(1493)));
        let size = serde_json::to_string(&after).unwrap().len();
        assert!(size < 1 << 20, "{size}");
    }

    #[test]
    fn of_many_devices_virtual_functions_are_left_out_first() {
        let function = |n| HostDevice {
            name: format!("pci_0000_41_{n:04}"),
            parent: Some("pci_0000_41_00_0".into()),
            ..Default::default()
        };
        let part = HostDevice {
            name: "mdev_1".into(),
            bus: DeviceBus::MDEV,
            parent: Some("pci_0000_42_00_0".into()),
            ..Default::default()
        };
        let key = HostDevice { name: "usb_1_4".into(), bus: DeviceBus::USB, ..Default::default() };
        let devices = (0..1000).map(function).chain([part, key]).collect();
        let pieces = Pieces { devices: Some((devices, 0)), ..Default::default() };
        let after = over_nothing(&pieces);
        let names: Vec<_> = after.devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!((names.len(), names[0], names[511]), (512, "mdev_1", "usb_1_4"));
        assert!(names.is_sorted());
        assert_eq!(after.unlisted_device_count, Some(490));
    }

    #[test]
    fn a_device_tells_which_foreign_domain_has_it() {
        let device = |address: &str| HostDevice { name: address.into(), address: address.into(), ..Default::default() };
        let found = Some((vec![device("0000:03:00.0"), device("0000:04:00.0")], 0));
        let mut domains = piece("s", vec![foreign("a")]);
        domains.held.insert((DeviceBus::PCI, "0000:04:00.0".into()), "other".into());
        let pieces = Pieces { devices: found.clone(), domains: Some(domains), ..Default::default() };
        let after = over_nothing(&pieces);
        let users = |status: &HypervisorStatus| status.devices.iter().map(|it| it.used_by.clone()).collect::<Vec<_>>();
        assert_eq!(users(&after), [None, Some("other".to_owned())]);

        let over = |pieces| merged(&HypervisorSpec::default(), &after, &pieces, Some(1), &at(2));
        let started_anew = over(Pieces { devices: found, ..Default::default() });
        assert_eq!(users(&started_anew), users(&after), "the domains are not known yet");
        let let_go = over(Pieces { domains: Some(piece("t", vec![foreign("a")])), ..Default::default() });
        assert_eq!(users(&let_go), [None, None]);
    }

    #[test]
    fn how_full_the_host_is_follows_from_what_was_found() {
        let pieces = Pieces { facts: Some(facts()), domains: Some(piece("s", Vec::new())), ..Default::default() };
        let words = over_nothing(&pieces).usage.unwrap();
        assert_eq!((words.cpu.as_str(), words.memory.as_str()), ("3/4", "1Gi/4Gi (25%)"));
        let spec = serde_yaml_ng::from_str("{overcommit: {cpu: 2}, systemReserved: {memory: 2Gi}}").unwrap();
        let after = merged(&spec, &HypervisorStatus::default(), &pieces, Some(1), &at(1));
        let words = after.usage.unwrap();
        assert_eq!((words.cpu.as_str(), words.memory.as_str()), ("3/8", "1Gi/2Gi (50%)"));
        assert_eq!(after.unmanaged.unwrap().vcpus, 1);
    }

    /// On a host that is ready VMs are placed, by what it is; its domains alone are told as soon as they are known.
    #[test]
    fn a_host_is_ready_once_it_is_known_what_it_is() {
        let wanted = |ready| Pieces { ready: Some(ready), ..Default::default() };
        let yes = || wanted(Wanted::yes(condition::READY, "Connected", ""));
        let with_domains = Pieces { domains: Some(piece("s", Vec::new())), ..yes() };
        let with_facts = Pieces { facts: Some(facts()), ..yes() };
        let with_accelerator = Pieces { accelerator: Some(tcg()), ..yes() };
        for pieces in [&with_domains, &with_facts, &with_accelerator] {
            assert_eq!(over_nothing(pieces).conditions, []);
        }
        assert_eq!(over_nothing(&with_domains).session.as_deref(), Some("s"));
        let complete = Pieces { accelerator: Some(tcg()), ..with_facts };
        let ready = over_nothing(&complete);
        assert!(condition::is_true(&ready.conditions, condition::READY));

        let over = |pieces| merged(&HypervisorSpec::default(), &ready, &pieces, Some(1), &at(2));
        assert_eq!(over(yes()).conditions, ready.conditions, "a new process has not found out yet");
        let lost = over(wanted(Wanted::no(condition::READY, "LibvirtUnavailable", "no socket")));
        assert_eq!(lost.conditions[0].status, "False", "bad news are told at once");
    }

    #[test]
    fn the_same_again_is_no_change() {
        let ready = Some(Wanted::yes(condition::READY, "Connected", ""));
        let pieces = Pieces { ready, facts: Some(facts()), accelerator: Some(tcg()), ..Default::default() };
        let first = over_nothing(&pieces);
        assert_eq!(first.conditions.len(), 1);
        assert_eq!(merged(&HypervisorSpec::default(), &first, &pieces, Some(1), &at(2)), first);
    }

    #[test]
    fn the_administrator_overrules_the_probe() {
        let unusable = KvmProbe::Unusable { why: "no /dev/kvm".into() };
        assert_eq!(accelerator(AcceleratorPolicy::Auto, &KvmProbe::Usable).kind, Accelerator::KVM);
        assert_eq!(accelerator(AcceleratorPolicy::Auto, &unusable).evidence, "no /dev/kvm");
        assert_eq!(accelerator(AcceleratorPolicy::KVM, &unusable).kind, Accelerator::KVM);
        assert_eq!(accelerator(AcceleratorPolicy::TCG, &KvmProbe::Usable).kind, Accelerator::TCG);
    }
}
