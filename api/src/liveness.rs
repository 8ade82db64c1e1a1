//! Which executors are alive, by the Leases that they renew.
//!
//! A Lease lives as long as this process sees it change: clocks of other machines are never compared. The process says
//! which clock it goes by (`std::time::Instant`, or one that its tests can stop).

use std::collections::{HashMap, HashSet};
use std::ops::Add;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

/// Duration of an executor's Lease that does not say its own.
const LEASE_DURATION: Duration = Duration::from_secs(40);

/// The Leases of the executors, as this process has seen them change. Clocks of other machines are never compared.
#[derive(Debug)]
pub struct Liveness<Instant> {
    seen: HashMap<String, Seen<Instant>>,
}

#[derive(Debug)]
struct Seen<Instant> {
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

impl<Instant> Default for Liveness<Instant> {
    fn default() -> Self {
        Self { seen: HashMap::new() }
    }
}

/// etcd was restored from a backup: what has been seen since it was made is void.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the Lease {lease} of an executor went back from version {before} to {now}, so etcd was restored from a backup"
)]
pub struct Rewound {
    /// Name of the Lease.
    pub lease: String,
    /// Its version before.
    pub before: String,
    /// Its version now.
    pub now: String,
}

impl<Instant: Copy + Ord + Add<Duration, Output = Instant>> Liveness<Instant> {
    /// Takes in a Lease; returns whether it says something new of the host (a mere renewal does not). A version that is
    /// lower than an earlier one is an error: etcd was restored, and what was seen of it since is void.
    pub fn observe(&mut self, lease: &Lease, source: Source, now: Instant) -> Result<bool, Rewound> {
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
            return Err(Rewound {
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
    pub fn retain(&mut self, names: &HashSet<String>) {
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

    /// When the Lease `name` runs out; `None` when nobody holds it, or it has been called due.
    pub fn live_until(&self, name: &str) -> Option<Instant> {
        let seen = self.seen.get(name).filter(|seen| seen.live && seen.holder.is_some())?;
        Some(seen.changed + seen.duration)
    }

    /// Names of the Leases that somebody has held.
    pub fn held(&self) -> impl Iterator<Item = &str> {
        self.seen.iter().filter(|(_, seen)| seen.holder.is_some()).map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use kube::core::ObjectMeta;

    use super::*;

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
        assert_eq!(liveness.live_until("a"), Some(after(131)), "also before it is called due");
        liveness.observe(&lease("6", ""), Source::Watch, after(92)).unwrap();
        assert_eq!(liveness.live_until("a"), None, "nobody holds it");
        assert_eq!(liveness.live_until("b"), None);
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
        assert!(matches!(see("119", Source::Read), Err(Rewound { .. })), "a read does not");
        assert!(see("121", Source::Watch).is_ok());
        assert!(matches!(see("105", Source::Watch), Err(Rewound { .. })));
    }
}
