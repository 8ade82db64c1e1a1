//! How full the host is: what VMs can be promised, and what running domains have. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kubevmm_api::hypervisor::{HostDomain, HostResources, HostUsage, UsageInWords};
use kubevmm_api::{HypervisorSpec, HypervisorStatus, Quantity, overhead};

use super::devices::Place;

/// What a domain has been given of CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// The most memory that its guest can have, in bytes.
    pub memory_bytes: u64,
}

/// A domain of the host, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What is reported of it.
    pub domain: HostDomain,
    /// What it has been given of CPU and memory.
    pub size: Size,
    /// The host's devices that it has while it runs.
    pub devices: BTreeSet<Place>,
}

/// What those of the domains have that run.
pub(super) fn used<'a>(domains: impl Iterator<Item = &'a Found>) -> HostUsage {
    let mut memory = 0_u64;
    let mut usage = HostUsage { domains: 0, vcpus: 0, memory: Quantity::from_bytes(0) };
    for Found { size, .. } in domains.filter(|found| found.domain.state.is_active()) {
        usage.domains = usage.domains.saturating_add(1);
        usage.vcpus = usage.vcpus.saturating_add(size.vcpus.into());
        let overhead = overhead::bytes(size.memory_bytes, size.vcpus);
        memory = memory.saturating_add(size.memory_bytes).saturating_add(overhead);
    }
    usage.memory = Quantity::from_bytes(memory);
    usage
}

/// Who has which of the host's devices, by the names of the domains.
pub(super) fn held<'a>(domains: impl Iterator<Item = &'a Found>) -> BTreeMap<Place, String> {
    let running = domains.filter(|found| found.domain.state.is_active());
    running.flat_map(|found| found.devices.iter().map(|place| (place.clone(), found.domain.name.clone()))).collect()
}

/// What VMs can be promised; `None` until the host's size is known.
pub(super) fn allocatable(spec: &HypervisorSpec, status: &HypervisorStatus) -> Option<HostResources> {
    let cpus = u64::try_from(status.cpus?).ok()?;
    let memory = status.memory.as_ref()?.bytes().ok()?;
    let reserved = spec.system_reserved.as_ref();
    let reserved_cpu = reserved.and_then(|it| it.cpu.as_ref()?.millis().ok()).unwrap_or(0);
    let reserved_memory = reserved.and_then(|it| it.memory.as_ref()?.bytes().ok()).unwrap_or(0);
    let millis = cpus.saturating_mul(1000).saturating_sub(reserved_cpu);
    let overcommit = spec.overcommit.as_ref().and_then(|overcommit| overcommit.cpu);
    let vcpus = overcommit.map(|times| i64::try_from(millis.saturating_mul(times.into()) / 1000).unwrap_or(i64::MAX));
    Some(HostResources {
        vcpus,
        cpu: of_millis(millis),
        memory: Quantity::from_bytes(memory.saturating_sub(huge_pages(status)).saturating_sub(reserved_memory)),
    })
}

/// Memory that is set aside in huge pages, in bytes.
fn huge_pages(status: &HypervisorStatus) -> u64 {
    let pages = status.numa.iter().flat_map(|cell| &cell.huge_pages);
    let bytes = pages.filter_map(|pages| pages.size.bytes().ok()?.checked_mul(u64::try_from(pages.total).ok()?));
    bytes.fold(0, u64::saturating_add)
}

fn of_millis(millis: u64) -> Quantity {
    Quantity(if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") })
}

/// How full the host is, in words; `None` until all is known.
pub(super) fn in_words(status: &HypervisorStatus) -> Option<UsageInWords> {
    let (used, allocatable) = (status.used.as_ref()?, status.allocatable.as_ref()?);
    let most = allocatable.vcpus.or(status.cpus)?;
    let (taken, all) = (used.memory.bytes().ok()?, allocatable.memory.bytes().ok()?);
    // Rounded up: a host that is full must not look as if it were not, nor one in use as if it were empty.
    let percent = (u128::from(taken) * 100).div_ceil(u128::from(all.max(1)));
    Some(UsageInWords {
        cpu: format!("{}/{most}", used.vcpus),
        memory: format!("{}/{} ({percent}%)", Quantity::approximately(taken), Quantity::approximately(all)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevmm_api::vm::DomainState;

    const GIB: u64 = 1 << 30;

    fn found(state: DomainState, vcpus: u32, memory_bytes: u64) -> Found {
        let domain =
            HostDomain { uuid: "u".into(), name: "d".into(), state, mark: None, orphan: false, observed: false };
        Found { domain, size: Size { vcpus, memory_bytes }, devices: BTreeSet::new() }
    }

    fn spec(yaml: &str) -> HypervisorSpec {
        serde_yaml_ng::from_str(yaml).unwrap()
    }

    fn status(yaml: &str) -> HypervisorStatus {
        serde_yaml_ng::from_str(yaml).unwrap()
    }

    #[test]
    fn what_runs_is_counted_with_what_qemu_needs() {
        let domains = [
            found(DomainState::Running, 2, 2 * GIB),
            found(DomainState::Paused, 1, GIB),
            found(DomainState::Shutoff, 8, 64 * GIB),
        ];
        let usage = used(domains.iter());
        assert_eq!((usage.domains, usage.vcpus), (2, 3));
        let expected = 3 * GIB + overhead::bytes(2 * GIB, 2) + overhead::bytes(GIB, 1);
        assert_eq!(usage.memory, Quantity::from_bytes(expected));
    }

    #[test]
    fn what_can_be_promised_is_less_than_the_host_has() {
        let host = status(
            "{cpus: 16, memory: 64Gi, numa: [{id: 0, cpus: 0-7, memory: 32Gi, hugePages: [{size: 2Mi, total: 512}]}, \
             {id: 1, cpus: 8-15, memory: 32Gi, hugePages: [{size: 1Gi, total: 4}]}]}",
        );
        let all = allocatable(&spec("{}"), &host).unwrap();
        assert_eq!((all.vcpus, all.cpu.0.as_str(), all.memory.0.as_str()), (None, "16", "59Gi"));
        let reserved = spec("{overcommit: {cpu: 5}, systemReserved: {cpu: 500m, memory: 2Gi}}");
        let some = allocatable(&reserved, &host).unwrap();
        assert_eq!((some.vcpus, some.cpu.0.as_str(), some.memory.0.as_str()), (Some(77), "15500m", "57Gi"));
        let too_much = spec("{overcommit: {cpu: 1}, systemReserved: {cpu: '99', memory: 99Gi}}");
        let none = allocatable(&too_much, &host).unwrap();
        assert_eq!((none.vcpus, none.cpu.0.as_str(), none.memory.0.as_str()), (Some(0), "0", "0"));
        assert_eq!(allocatable(&spec("{}"), &status("{cpus: 16}")), None, "before the host is known");
    }

    #[test]
    fn fullness_in_words() {
        let mut host = status(
            "{cpus: 16, memory: 64Gi, used: {domains: 3, vcpus: 12, memory: 9728Mi}, \
             allocatable: {cpu: '16', memory: 62Gi}}",
        );
        let words = in_words(&host).unwrap();
        assert_eq!((words.cpu.as_str(), words.memory.as_str()), ("12/16", "9.5Gi/62Gi (16%)"));
        host.allocatable.as_mut().unwrap().vcpus = Some(80);
        assert_eq!(in_words(&host).unwrap().cpu, "12/80");
        host.allocatable.as_mut().unwrap().memory = Quantity("0".into());
        assert!(in_words(&host).unwrap().memory.starts_with("9.5Gi/0 ("), "a host of which all is reserved");
        assert_eq!(in_words(&status("{cpus: 16}")), None);
    }
}
