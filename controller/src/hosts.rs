//! What is known of the hosts: which of them are alive, have reported, and what they report.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kubevmm_api::Hypervisor;
use kubevmm_api::condition;
use kubevmm_api::hypervisor::{DomainMark, HostDomain, HypervisorStatus};
use tokio::time::Instant;

use crate::error::Error;
use crate::object::enumerate;

/// The taint by which a person says that a Node is off and stays off.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Duration of an executor's Lease that does not say its own.
const LEASE_DURATION: Duration = Duration::from_secs(40);

/// The Leases of the executors, as this process has seen them change. Clocks of other machines are never compared.
#[derive(Debug, Default)]
pub struct Liveness {
    seen: HashMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    version: Option<String>,
    source: Source,
    holder: Option<String>,
    changed: Instant,
    duration: Duration,
    renewed: bool,
    live: bool,
}

/// Where a Lease was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In a list or a watch, which may lag behind.
    Watch,
    /// Read by its name: the newest there is.
    Read,
}

/// Whether the resourceVersion `now` is older than `before`. Versions of one kind grow.
fn is_lower(now: Option<&str>, before: Option<&str>) -> bool {
    let number = |version: Option<&str>| version.and_then(|version| version.parse::<u64>().ok());
    matches!((number(now), number(before)), (Some(now), Some(before)) if now < before)
}

/// What a Lease says of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseState {
    /// Holder of the Lease while it is live: the session of the executor.
    pub session: Option<String>,
    /// The Lease has been renewed since this process first saw it.
    pub renewed: bool,
    /// Version of the Lease that has run out: the executor has been there, and is silent.
    pub expired: Option<String>,
}

impl Liveness {
    /// Takes in a Lease; returns whether it says something new of the host (a mere renewal does not). A version that is
    /// lower than an earlier one is an error: etcd was restored, and what was seen of it since is void.
    pub fn observe(&mut self, lease: &Lease, source: Source, now: Instant) -> Result<bool, Error> {
        let Some(name) = lease.metadata.name.clone() else { return Ok(false) };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        let version = lease.metadata.resource_version.clone();
        let duration = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(LEASE_DURATION, Duration::from_secs);
        let Some(seen) = self.seen.get_mut(&name) else {
            let seen = Seen { version, source, holder, changed: now, duration, renewed: false, live: true };
            self.seen.insert(name, seen);
            return Ok(true);
        };
        if seen.version == version {
            return Ok(false);
        }
        if is_lower(version.as_deref(), seen.version.as_deref()) {
            if (source, seen.source) == (Source::Watch, Source::Read) {
                // The watch comes after what was read meanwhile.
                return Ok(false);
            }
            return Err(Error::Rewound {
                lease: name,
                before: seen.version.clone().unwrap_or_default(),
                now: version.unwrap_or_default(),
            });
        }
        let news = !seen.live || !seen.renewed || seen.holder != holder;
        *seen = Seen { version, source, holder, changed: now, duration, renewed: true, live: true };
        Ok(news)
    }

    /// The Lease is gone.
    pub fn forget(&mut self, name: &str) -> bool {
        self.seen.remove(name).is_some()
    }

    /// Forgets the Leases that are not among `names`.
    pub fn retain(&mut self, names: &[String]) {
        self.seen.retain(|name, _| names.contains(name));
    }

    /// The Leases that have run out by `now` and are still called live, sorted.
    pub fn due(&self, now: Instant) -> Vec<String> {
        let due = self.seen.iter().filter(|(_, seen)| seen.live && now >= seen.changed + seen.duration);
        let mut names: Vec<String> = due.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// The Lease `name` has run out, unless it has changed since it was found due at `now`.
    pub fn expire(&mut self, name: &str, now: Instant) -> bool {
        match self.seen.get_mut(name) {
            Some(seen) if seen.live && now >= seen.changed + seen.duration => {
                seen.live = false;
                true
            }
            _ => false,
        }
    }

    /// When the next Lease runs out.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.seen.values().filter(|seen| seen.live).map(|seen| seen.changed + seen.duration).min()
    }

    /// What the Lease `name` says.
    pub fn state(&self, name: &str) -> LeaseState {
        match self.seen.get(name) {
            Some(seen) if seen.live => {
                LeaseState { session: seen.holder.clone(), renewed: seen.renewed, expired: None }
            }
            Some(seen) => LeaseState { expired: seen.version.clone(), ..LeaseState::default() },
            None => LeaseState::default(),
        }
    }

    /// Names of the Leases that somebody has held.
    pub fn held(&self) -> impl Iterator<Item = &str> {
        self.seen.iter().filter(|(_, seen)| seen.holder.is_some()).map(|(name, _)| name.as_str())
    }
}

/// A host.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Name of the Node and of the Hypervisor.
    pub name: String,
    /// Its Hypervisor object.
    pub hypervisor: Option<Arc<Hypervisor>>,
    /// Its executor's Lease.
    pub lease: LeaseState,
    /// Its Node bears the taint out-of-service.
    pub out_of_service: bool,
}

impl Host {
    /// The executor holds its Lease.
    pub fn is_live(&self) -> bool {
        self.lease.session.is_some()
    }

    /// A person has said that the host is off, and its executor is silent.
    pub fn is_gone_for_good(&self) -> bool {
        self.out_of_service && !self.is_live()
    }

    /// The session of the executor, when it has told its domains in this session and is known to be up to date.
    pub fn reported_session(&self) -> Option<&str> {
        let session = self.lease.session.as_deref()?;
        (self.lease.renewed && self.status()?.session.as_deref() == Some(session)).then_some(session)
    }

    /// The executor is alive and has yet to tell which domains its host has. (One that has never reached a libvirt takes
    /// no Lease, and so holds up nobody.)
    pub fn owes_report(&self) -> bool {
        self.is_live() && self.reported_session().is_none()
    }

    /// Whether the executor calls the host ready; otherwise why it is not.
    pub fn readiness(&self) -> Result<(), String> {
        let ready = self.status().and_then(|status| condition::find(&status.conditions, condition::READY));
        match ready {
            Some(ready) if ready.status != "True" && !ready.message.is_empty() => Err(ready.message.clone()),
            Some(ready) if ready.status != "True" => Err(ready.reason.clone()),
            _ if !self.is_live() => Err("its executor does not answer".into()),
            Some(_) => Ok(()),
            None => Err("its executor has not reported yet".into()),
        }
    }

    /// The Hypervisor's status.
    pub fn status(&self) -> Option<&HypervisorStatus> {
        self.hypervisor.as_deref()?.status.as_ref()
    }
}

/// Whether a Node bears the taint out-of-service.
pub fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// All hosts, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Hosts(pub BTreeMap<String, Host>);

impl Hosts {
    /// The host of a Node.
    pub fn get(&self, name: &str) -> Option<&Host> {
        self.0.get(name)
    }

    /// Whether the executor of `name` holds its Lease.
    pub fn is_live(&self, name: &str) -> bool {
        self.get(name).is_some_and(Host::is_live)
    }

    /// Whether a person has said that the host `name` is off, and its executor is silent.
    pub fn is_gone_for_good(&self, name: &str) -> bool {
        self.get(name).is_some_and(Host::is_gone_for_good)
    }

    /// Hosts that are alive and have not told their domains: until they do, nothing is placed or started.
    pub fn owing_reports(&self) -> Vec<&str> {
        self.0.values().filter(|host| host.owes_report()).map(|host| host.name.as_str()).collect()
    }

    /// What the hosts tell in one of the lists of their status. What is left on a host that is gone for good is not
    /// counted.
    pub fn told<'a, T: 'a>(
        &'a self,
        list: impl Fn(&'a HypervisorStatus) -> &'a [T],
    ) -> impl Iterator<Item = (&'a str, &'a T)> {
        self.0.values().filter(|host| !host.is_gone_for_good()).flat_map(move |host| {
            let items = host.status().map(&list).unwrap_or_default();
            items.iter().map(|item| (host.name.as_str(), item))
        })
    }

    /// Every domain with our mark that a host tells of.
    pub fn marked_domains(&self) -> impl Iterator<Item = (&str, &HostDomain, &DomainMark)> {
        let domains = self.told(|status| &status.domains);
        domains.filter_map(|(host, domain)| Some((host, domain, domain.mark.as_ref()?)))
    }

    /// The domains of the VM `uid` of this cluster.
    pub fn holding<'a>(
        &'a self,
        cluster_id: &'a str,
        uid: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a HostDomain, &'a DomainMark)> {
        self.marked_domains().filter(move |(_, domain, _)| domain.mark_of(cluster_id, uid).is_some())
    }
}

/// What is wrong on which host, for people: each host with its message, or else its reason, or else `otherwise`.
pub fn complaints<'a>(
    of: impl Iterator<Item = (&'a str, &'a Option<String>, &'a Option<String>)>,
    otherwise: &str,
) -> String {
    let each: Vec<String> = of
        .map(|(host, message, reason)| {
            let why = message.as_deref().or(reason.as_deref()).unwrap_or(otherwise);
            format!("{host}: {why}")
        })
        .collect();
    enumerate(&each)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use kube::api::ObjectMeta;

    fn lease(version: &str, holder: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some("a".into()),
                resource_version: Some(version.into()),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(40),
                ..Default::default()
            }),
        }
    }

    #[test]
    fn a_lease_lives_as_long_as_it_is_seen_to_change() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::default();
        assert!(liveness.observe(&lease("1", "s1"), Source::Watch, start).unwrap(), "a new host is news");
        assert!(!liveness.state("a").renewed, "the first sight may be an old one");
        assert!(!liveness.observe(&lease("1", "s1"), Source::Watch, after(5)).unwrap(), "the same Lease, listed again");
        assert!(liveness.observe(&lease("2", "s1"), Source::Watch, after(10)).unwrap(), "the first renewal is news");
        assert!(!liveness.observe(&lease("3", "s1"), Source::Watch, after(20)).unwrap(), "a later one is not");
        assert_eq!(liveness.next_expiry(), Some(after(60)));
        assert_eq!(liveness.due(after(59)), Vec::<String>::new());
        assert_eq!(liveness.due(after(60)), ["a"]);
        assert!(!liveness.expire("a", after(59)), "it was renewed meanwhile");
        assert!(liveness.expire("a", after(60)));
        assert_eq!((liveness.due(after(61)), liveness.expire("a", after(61))), (vec![], false), "told once");
        assert_eq!(liveness.state("a"), LeaseState { expired: Some("3".into()), ..Default::default() });
        assert!(liveness.observe(&lease("4", "s1"), Source::Watch, after(90)).unwrap(), "it came back");
        assert!(liveness.observe(&lease("5", "s2"), Source::Watch, after(91)).unwrap(), "a new session is news");
        assert_eq!(liveness.state("a").session.as_deref(), Some("s2"));
    }

    #[test]
    fn a_complaint_is_the_hosts_message_or_its_reason() {
        let some = |text: &str| Some(text.to_owned());
        let said = [("a", &some("/x is not mounted"), &some("PoolNotMounted")), ("b", &None, &some("NameTaken"))];
        let said = said.into_iter().chain([("c", &None, &None)]);
        assert_eq!(complaints(said, "not ready"), "a: /x is not mounted, b: NameTaken, c: not ready");
        assert_eq!(complaints(std::iter::empty(), "not ready"), "");
    }

    #[test]
    fn a_version_that_goes_back_tells_of_a_restored_etcd() {
        let now = Instant::now();
        let mut liveness = Liveness::default();
        let mut see = |version: &str, source| liveness.observe(&lease(version, "s1"), source, now);
        assert!(see("99", Source::Watch).is_ok());
        assert!(see("100", Source::Watch).is_ok(), "numbers, not text");
        assert!(see("120", Source::Read).is_ok());
        assert!(matches!(see("110", Source::Watch), Ok(false)), "the watch lags behind the read");
        assert!(matches!(see("119", Source::Read), Err(Error::Rewound { .. })), "a read does not");
        assert!(see("121", Source::Watch).is_ok());
        assert!(matches!(see("105", Source::Watch), Err(Error::Rewound { .. })));
    }
}
