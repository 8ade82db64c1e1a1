//! The Hypervisor's status as a pure function of what was found.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kubevmm_api::common::Accelerator;
use kubevmm_api::condition::Wanted;
use kubevmm_api::hypervisor::{AcceleratorPolicy, AcceleratorStatus, HostDomain, HostImage, HostNetwork, HostPool};
use kubevmm_api::{HypervisorStatus, Quantity};

use crate::kvm::KvmProbe;

/// Domains without a mark that are listed; about 150 bytes each.
const MOST_FOREIGN: usize = 500;

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
    /// The domains with the session in which they were read.
    pub domains: Option<(String, Vec<HostDomain>)>,
    /// The condition Ready.
    pub ready: Option<Wanted>,
}

/// What libvirt says of itself and of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The URI, as libvirt completed it.
    pub uri: String,
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
    before: &HypervisorStatus,
    pieces: &Pieces,
    generation: Option<i64>,
    now: &Time,
) -> HypervisorStatus {
    let mut status = before.clone();
    if let Some(facts) = &pieces.facts {
        status.uri = Some(facts.uri.clone());
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
    if let Some((session, domains)) = &pieces.domains {
        let count = |which: fn(&HostDomain) -> bool| domains.iter().filter(|domain| which(domain)).count();
        let foreign = count(|domain| domain.mark.is_none());
        status.session = Some(session.clone());
        status.domains = listed(domains);
        status.domain_count = written(domains.len() - foreign);
        status.orphan_count = written(count(|domain| domain.orphan));
        status.foreign_count = written(foreign);
        status.unlisted_count = written(domains.len() - status.domains.len()).filter(|count| *count > 0);
    }
    if let Some(ready) = &pieces.ready {
        status.conditions = vec![ready.over(&before.conditions, generation, now)];
    }
    status
}

/// Each domain with a mark, for decisions depend on them, and of the others as many as an object should hold.
fn listed(domains: &[HostDomain]) -> Vec<HostDomain> {
    let mut foreign = 0;
    let mut listed = sorted(domains, |domain| domain.uuid.clone());
    listed.retain(|domain| {
        foreign += usize::from(domain.mark.is_none());
        domain.mark.is_some() || foreign <= MOST_FOREIGN
    });
    listed
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
    use kubevmm_api::hypervisor::DomainMark;
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
        HostDomain { uuid: uuid.into(), name, state: DomainState::Running, mark: None, orphan: false }
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
        assert_eq!(merged(&before, &Pieces::default(), Some(1), &at(1)), before);
        let pieces = Pieces { pools: Some(Vec::new()), ..Default::default() };
        assert_eq!(merged(&before, &pieces, Some(1), &at(1)).domains.len(), 1);
    }

    #[test]
    fn domains_are_written_with_their_session_and_counted() {
        let domains = vec![domain("b", true), domain("a", false)];
        let pieces = Pieces { domains: Some(("new".into(), domains)), ..Default::default() };
        let after = merged(&HypervisorStatus::default(), &pieces, Some(1), &at(1));
        assert_eq!(after.session.as_deref(), Some("new"));
        assert_eq!((after.domain_count, after.orphan_count), (Some(2), Some(1)));
        assert_eq!(after.domains[0].uuid, "a");
        assert_eq!((after.foreign_count, after.unlisted_count), (Some(0), None));
    }

    #[test]
    fn many_foreign_domains_are_counted_and_leave_none_of_ours_out() {
        let mut domains: Vec<_> = (0..1000).map(|n| foreign(&format!("{n:04}"))).collect();
        domains.push(domain("ours", false));
        let pieces = Pieces { domains: Some(("s".into(), domains)), ..Default::default() };
        let after = merged(&HypervisorStatus::default(), &pieces, Some(1), &at(1));
        assert_eq!((after.domain_count, after.foreign_count), (Some(1), Some(1000)));
        assert_eq!((after.domains.len(), after.unlisted_count), (501, Some(500)));
        assert_eq!(after.domains.last().map(|domain| domain.uuid.as_str()), Some("ours"));
        assert!(serde_json::to_string(&after).unwrap().len() < 100_000, "an object of the API stays small");
    }

    #[test]
    fn the_same_again_is_no_change() {
        let ready = Wanted::yes(condition::READY, "Connected", "");
        let pieces = Pieces { ready: Some(ready), ..Default::default() };
        let first = merged(&HypervisorStatus::default(), &pieces, Some(1), &at(1));
        assert_eq!(merged(&first, &pieces, Some(1), &at(2)), first);
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
