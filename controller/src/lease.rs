//! The controller's own Lease: only its holder acts.
//!
//! Renewed by PUT with the resourceVersion that was read last. A conflict means another writer, or an etcd that was
//! restored from a backup: either way what this process has cached is not to be trusted, and it ends.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use kubevmm_api::SYSTEM_NAMESPACE;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::{Error, api_status};

/// Name of the controller's Lease.
pub const LEASE_NAME: &str = "kubevmm-controller";

/// How often the Lease of another holder is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The Lease, held.
pub struct HeldLease {
    proof: Proof,
    duration: Duration,
}

/// Shows that the Lease is still this process's, by renewing it.
#[derive(Clone)]
pub struct Proof {
    api: Api<Lease>,
    /// As it was written last. One renewal at a time: two would make each other a conflict.
    lease: Arc<Mutex<Lease>>,
}

/// Waits until the Lease is this process's. `holder` is a fresh id of this process.
pub async fn acquire(client: Client, holder: &str, duration: Duration) -> Result<HeldLease, Error> {
    let api: Api<Lease> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let mut other: Option<(Option<String>, Instant)> = None;
    loop {
        match attempt(&api, holder, duration, &mut other).await {
            Ok(Some(lease)) => {
                tracing::info!(holder, "holds the Lease: acting");
                return Ok(HeldLease { proof: Proof { api, lease: Arc::new(Mutex::new(lease)) }, duration });
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the Lease cannot be taken"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn attempt(
    api: &Api<Lease>,
    holder: &str,
    duration: Duration,
    other: &mut Option<(Option<String>, Instant)>,
) -> Result<Option<Lease>, Error> {
    let object = || format!("Lease {SYSTEM_NAMESPACE}/{LEASE_NAME}");
    let found = api.get_opt(LEASE_NAME).await.map_err(|e| Error::api("read", object(), e))?;
    let written = match found {
        None => api.create(&PostParams::default(), &fresh(holder, duration)).await,
        Some(lease) if !may_take(&lease, other, Instant::now()) => return Ok(None),
        Some(lease) => {
            let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
            let mut taken = fresh(holder, duration);
            taken.metadata.resource_version = lease.resource_version();
            if let Some(spec) = &mut taken.spec {
                spec.lease_transitions = Some(transitions.saturating_add(1));
            }
            api.replace(LEASE_NAME, &PostParams::default(), &taken).await
        }
    };
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if api_status(&error).is_some_and(|status| status.code == 409) => Ok(None),
        Err(error) => Err(Error::api("take", object(), error)),
    }
}

/// Whether the Lease is free: released, or unchanged for its whole duration by this process's clock.
fn may_take(lease: &Lease, other: &mut Option<(Option<String>, Instant)>, now: Instant) -> bool {
    let spec = lease.spec.as_ref();
    if spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default().is_empty() {
        return true;
    }
    let version = lease.resource_version();
    match other {
        Some((seen, since)) if *seen == version => {
            let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(15);
            now.duration_since(*since) >= Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        }
        _ => {
            *other = Some((version, now));
            false
        }
    }
}

fn fresh(holder: &str, duration: Duration) -> Lease {
    let now = MicroTime(Timestamp::now());
    Lease {
        metadata: ObjectMeta {
            name: Some(LEASE_NAME.into()),
            namespace: Some(SYSTEM_NAMESPACE.into()),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..Default::default()
        }),
    }
}

impl HeldLease {
    /// Renews the Lease until `stop` resolves. Returns an error as soon as it may be another's.
    pub async fn keep(self, stop: impl Future<Output = ()>) -> Result<Self, Error> {
        let mut renewed = Instant::now();
        let mut pause = self.duration / 3;
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(self),
                () = tokio::time::sleep(pause) => {}
            }
            let deadline = renewed + self.duration * 2 / 3;
            let started = Instant::now();
            match tokio::time::timeout_at(deadline, self.proof.renew()).await {
                Ok(Ok(())) => {
                    renewed = started;
                    pause = self.duration / 3;
                }
                Ok(Err(error @ Error::LeaseLost { .. })) => return Err(error),
                Ok(Err(error)) if Instant::now() >= deadline => return Err(lost(error.to_string())),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the Lease could not be renewed");
                    pause = Duration::from_millis(500).min(deadline.saturating_duration_since(Instant::now()));
                }
                Err(_) => return Err(lost("not renewed in time".into())),
            }
        }
    }

    /// What shows others in this process that the Lease is held.
    pub fn proof(&self) -> Proof {
        self.proof.clone()
    }

    /// Lets the next controller take over at once.
    pub async fn release(self) -> Result<(), Error> {
        let mut lease = self.proof.lease.lock().await.clone();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        let released = self.proof.api.replace(LEASE_NAME, &PostParams::default(), &lease).await;
        released.map(|_| ()).map_err(|e| Error::api("release", format!("Lease {SYSTEM_NAMESPACE}/{LEASE_NAME}"), e))
    }
}

impl Proof {
    /// Renews the Lease now. [`Error::LeaseLost`] when another has written it, or etcd is not the one that it was.
    pub async fn renew(&self) -> Result<(), Error> {
        let mut held = self.lease.lock().await;
        let mut lease = held.clone();
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        *held = self.api.replace(LEASE_NAME, &PostParams::default(), &lease).await.map_err(refused)?;
        Ok(())
    }
}

/// What a renewal that failed means.
fn refused(error: kube::Error) -> Error {
    if api_status(&error).is_some_and(|status| matches!(status.code, 404 | 409)) {
        return lost(format!("changed by another: {error}"));
    }
    Error::api("renew", format!("Lease {SYSTEM_NAMESPACE}/{LEASE_NAME}"), error)
}

fn lost(why: String) -> Error {
    Error::LeaseLost { namespace: SYSTEM_NAMESPACE.into(), name: LEASE_NAME.into(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_means_that_the_lease_is_lost() {
        let failed = |code: u16| {
            let status = kube::core::Status::failure("m", "r").with_code(code);
            refused(kube::Error::Api(Box::new(status)))
        };
        for code in [404, 409] {
            assert!(matches!(failed(code), Error::LeaseLost { .. }), "{code}");
        }
        assert!(matches!(failed(500), Error::Api { .. }), "tried again");
    }

    #[test]
    fn another_holder_is_waited_for_by_our_own_clock() {
        let now = Instant::now();
        let mut lease = fresh("other", Duration::from_secs(15));
        lease.metadata.resource_version = Some("1".into());
        let mut other = None;
        assert!(!may_take(&lease, &mut other, now));
        assert!(!may_take(&lease, &mut other, now + Duration::from_secs(14)));
        assert!(may_take(&lease, &mut other, now + Duration::from_secs(15)));
        lease.metadata.resource_version = Some("2".into());
        assert!(!may_take(&lease, &mut other, now + Duration::from_secs(16)), "it was renewed");
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        assert!(may_take(&lease, &mut None, now), "it was released");
    }
}
