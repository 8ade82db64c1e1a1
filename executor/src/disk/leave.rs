//! Disks on their way out: a volume goes with its disk, unless somebody needs it.
//!
//! What one deletion looks at, all of them do: the other disks of the cluster, the domains and the volumes of this host.
//! So the deletions of a round share it, each time for a moment only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kubevmm_api::condition::{HOST_RELEASED, Wanted};
use kubevmm_api::{VirtualMachine, VirtualMachineDisk, names, volume};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::decide::{self, Farewell};
use super::users::{Bases, User, Users, Volume};
use super::{Disks, WRITE_TIMEOUT, key};
use crate::host::NotYet;
use crate::libvirt::StorageVol;
use crate::pool::{UsablePool, find_volume};
use crate::vm::backoff::Backoff;

/// How soon a volume that could not be deleted is tried again for the first time.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// How often at least.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How long what was read serves other deletions.
const FRESH: Duration = Duration::from_secs(1);

/// What several deletions look at: read by the first one, and anew by one that comes much later.
struct Look<T>(Mutex<Option<Seen<T>>>);

struct Seen<T> {
    at: Instant,
    answer: Result<Arc<T>, NotYet>,
}

impl<T> Default for Look<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Look<T> {
    async fn get(&self, read: impl Future<Output = Result<T, NotYet>>) -> Result<Arc<T>, NotYet> {
        let mut seen = self.0.lock().await;
        if let Some(seen) = seen.as_ref().filter(|seen| seen.at.elapsed() < FRESH) {
            return seen.answer.clone();
        }
        let answer = read.await.map(Arc::new);
        *seen = Some(Seen { at: Instant::now(), answer: answer.clone() });
        answer
    }
}

/// The deletions that are tried at one time. It begins after they were seen to be due, so what it reads is no older.
#[derive(Default)]
struct Round {
    disks: Look<Vec<VirtualMachineDisk>>,
    users: Look<Users>,
    bases: Look<Bases>,
    /// The libvirt pools of those volumes that their host had already.
    pools: BTreeSet<String>,
}

impl Disks {
    /// Deletes the volumes of deleted disks, for ever.
    pub async fn run(self) {
        let mut disks = self.context.store.disks.changes();
        let mut changes = self.context.changes.subscribe();
        let mut at_once = false;
        loop {
            let objects = self.context.store.disks.list();
            let leaving: Vec<_> = objects.iter().filter(|disk| decide::farewell(disk) != Farewell::Nothing).collect();
            let round = Round {
                pools: leaving.iter().filter_map(|disk| self.existing_pool(disk)).collect(),
                ..Round::default()
            };
            let again = join_all(leaving.iter().map(|disk| self.leave(disk, &round, at_once))).await;
            let again = again.into_iter().flatten().min();
            at_once = false;
            tokio::select! {
                Ok(()) = disks.changed() => {}
                Ok(()) = changes.changed(), if again.is_some() => at_once = true,
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
                else => return,
            }
        }
    }

    /// The libvirt pool of a volume that its host had already.
    fn existing_pool(&self, disk: &VirtualMachineDisk) -> Option<String> {
        disk.spec.source.existing.as_ref()?;
        Some(self.context.store.pools.get_cluster(disk.status.as_ref()?.pool_name.as_deref()?)?.libvirt_name())
    }

    /// Lets go of a deleted disk; the time of the next attempt, when there must be one.
    async fn leave(&self, disk: &VirtualMachineDisk, round: &Round, at_once: bool) -> Option<Instant> {
        let farewell = decide::farewell(disk);
        let key = key(&disk.namespace().unwrap_or_default(), &disk.name_any());
        let mut turn = self.turns.take(&key).await;
        let backoff = turn.get_or_insert_with(|| Backoff::new(FIRST_RETRY, LONGEST_RETRY));
        if farewell == Farewell::Delete
            && !at_once
            && let Some(until) = backoff.wait(Instant::now())
        {
            return Some(until);
        }
        let outcome = match farewell {
            Farewell::Delete => self.delete(disk, round).await,
            Farewell::Nothing | Farewell::Release => Ok("its volume stays in its pool".to_owned()),
        };
        let condition = match &outcome {
            Ok(what) => Wanted::yes(HOST_RELEASED, "Released", what.clone()),
            Err(not_yet) => Wanted::no(HOST_RELEASED, not_yet.reason, not_yet.message.clone()),
        };
        let volume_name = disk.status.as_ref().and_then(|status| status.volume_name.clone()).unwrap_or_default();
        let written = self.write(disk, &volume_name, None, condition).await;
        if outcome.is_ok() && written.is_ok() {
            self.turns.end(&key, turn);
            return None;
        }
        let now = Instant::now();
        backoff.fail(now);
        backoff.wait(now)
    }

    /// Deletes the volume of a disk, or says why it stays for good.
    async fn delete(&self, disk: &VirtualMachineDisk, round: &Round) -> Result<String, NotYet> {
        let pool_name = disk.status.as_ref().and_then(|status| status.pool_name.clone()).unwrap_or_default();
        let Some(pool) = self.pools.present(&pool_name).await? else {
            let message =
                format!("the libvirt pool of {pool_name} is not active: start it, so that the volume can be deleted");
            return Err(NotYet::backoff("PoolInactive", message));
        };
        let name = decide::volume_name(disk);
        if disk.spec.source.existing.is_some() && names::is_image_volume(&name) {
            return Ok(format!("volume {name} stays: it is the copy of an image"));
        }
        if let Some(stays) = self.named_elsewhere(disk, round).await? {
            return Ok(stays);
        }
        if let Some(volume) = find_volume(&pool.pool, &name).await? {
            self.check_unused(disk, &pool, &volume, round).await?;
            self.check_still_leaving(disk).await?;
            volume.delete().await?;
            tracing::info!(disk = disk.name_any(), volume = volume.name(), "volume deleted");
        }
        Ok("its volume is deleted".to_owned())
    }

    /// Why the volume of a deleted disk stays: another object has it.
    async fn named_elsewhere(&self, disk: &VirtualMachineDisk, round: &Round) -> Result<Option<String>, NotYet> {
        // The watch shows this host's disks only.
        let disks = round.disks.get(async {
            let all: Api<VirtualMachineDisk> = Api::all(self.context.client.clone());
            let listed = crate::api::limited(WRITE_TIMEOUT, all.list(&ListParams::default())).await;
            listed
                .map(|listed| listed.items)
                .map_err(|error| NotYet::backoff("ApiUnavailable", format!("cannot read the other disks: {error}")))
        });
        let disks = disks.await?;
        let rivals = volume::rivals(disk, &disks, |pool| self.context.store.pools.get_cluster(pool));
        Ok(rivals.first().map(|rival| {
            let meta = &rival.metadata;
            let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
            format!(
                "its volume stays in its pool: the VirtualMachineDisk {}/{} names it too",
                namespace.unwrap_or_default(),
                name.unwrap_or_default()
            )
        }))
    }

    /// Fails while a domain of this host uses the volume, or, of a volume that was there before, another volume is based
    /// on it. (What a snapshot has left upon a volume of ours is nobody's to wait for.)
    async fn check_unused(
        &self,
        disk: &VirtualMachineDisk,
        pool: &UsablePool,
        volume: &StorageVol,
        round: &Round,
    ) -> Result<(), NotYet> {
        let connection = self.context.libvirt.connection()?;
        let users = round.users.get(Users::read(&connection)).await?;
        let volume = users.volume(pool.pool.name(), volume.name(), volume.path().await?);
        if let Some(user) = users.of(&volume).find(|user| !self.is_made_anew(user, &volume)) {
            return Err(NotYet::backoff("InUse", used_by(user, &volume)));
        }
        if disk.spec.source.existing.is_none() {
            return Ok(());
        }
        let bases = round.bases.get(Bases::read(&connection, &round.pools)).await?;
        let Some(base) = bases.of(&volume) else { return Ok(()) };
        let (name, pool) = &base.overlay;
        let message = format!(
            "volume {name} of the libvirt pool {pool} is based on {}: delete that one first, or leave this one there with \
             spec.reclaimPolicy: Retain",
            volume.name
        );
        Err(NotYet::backoff("InUse", message))
    }

    /// Whether the domain is made anew from the spec of its VM, which is of this host, before it starts.
    fn is_made_anew(&self, user: &User, volume: &Volume) -> bool {
        let Some(mark) = user.mark.as_ref().filter(|mark| mark.cluster == *self.context.cluster) else { return false };
        let vm = self.context.store.vms.get(&mark.namespace, &mark.name);
        vm.filter(|vm| vm.metadata.uid.as_ref() == Some(&mark.uid)).is_some_and(|vm| is_made_anew(user, &vm, volume))
    }

    /// The last look before the data goes: the watch may lag behind an owner who wants to keep it.
    async fn check_still_leaving(&self, disk: &VirtualMachineDisk) -> Result<(), NotYet> {
        let name = disk.name_any();
        let api = self.api(&disk.namespace().unwrap_or_default());
        let now = crate::api::limited(WRITE_TIMEOUT, api.get_opt(&name))
            .await
            .map_err(|error| NotYet::backoff("ApiUnavailable", format!("cannot read disk {name}: {error}")))?;
        let same = now.filter(|now| now.metadata.uid == disk.metadata.uid);
        if same.as_ref().map(decide::farewell) == Some(Farewell::Delete) {
            return Ok(());
        }
        Err(NotYet::backoff("InUse", "the disk has changed meanwhile: it is looked at again"))
    }
}

/// Whether the domain is off and its VM, which is of this host, has given the disk of the volume back: then it is made anew,
/// without the disk, before it starts.
fn is_made_anew(user: &User, vm: &VirtualMachine, volume: &Volume) -> bool {
    let mut domain = vm.spec.domain.iter().flat_map(|domain| domain.values());
    !user.active && vm.spec.observed().is_none() && !domain.any(|value| volume.is_in(value))
}

fn used_by(user: &User, volume: &Volume) -> String {
    let undefine = if user.active { "stop and undefine" } else { "undefine" };
    format!(
        "the domain {} of this host uses volume {} ({}): detach it there (virsh detach-disk), {undefine} the domain, or \
         leave the volume there with spec.reclaimPolicy: Retain",
        user.name, volume.name, volume.path
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_domain_that_is_made_anew_before_it_starts_does_not_keep_a_volume() {
        let volume = Volume { path: "/srv/web.img".into(), name: "web.img".into(), pools: BTreeSet::new() };
        let made_anew = |active: bool, spec: &str| {
            let vm = format!(
                "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachine, metadata: {{name: web}}, spec: {spec}}}"
            );
            let user = User::read("shop.web", "<domain/>", active.then_some("<domain/>")).unwrap();
            is_made_anew(&user, &serde_yaml_ng::from_str(&vm).unwrap(), &volume)
        };
        let existing = "existingDomain: {nodeName: a, uuid: b3a1c7d2-0000-4000-8000-000000000001}";
        assert!(made_anew(false, "{}"));
        assert!(made_anew(false, &format!("{{{existing}}}")), "it is managed");
        assert!(!made_anew(true, "{}"), "it runs");
        assert!(!made_anew(false, &format!("{{management: Observe, {existing}}}")), "it is not ours to make");
        assert!(
            !made_anew(false, "{domain: {devices: {disk: [{source: {file: /srv/web.img}}]}}}"),
            "it would name it again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn many_deletions_share_a_look_for_a_moment() {
        let look = Look::default();
        let reads = Mutex::new(0);
        let read = || async {
            let mut reads = reads.lock().await;
            *reads += 1;
            Ok(*reads)
        };
        let seen = join_all((0..500).map(|_| look.get(read()))).await;
        assert!(seen.into_iter().all(|seen| *seen.unwrap() == 1), "one of them has read");
        tokio::time::advance(FRESH).await;
        assert_eq!(*look.get(read()).await.unwrap(), 2, "too old to delete by");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_failed_is_no_answer_and_is_not_repeated_by_each() {
        let look = Look::<u32>::default();
        let failed = || async { Err(NotYet::backoff("LibvirtError", "away")) };
        assert!(look.get(failed()).await.is_err());
        assert!(look.get(async { Ok(1) }).await.is_err());
        tokio::time::advance(FRESH).await;
        assert_eq!(*look.get(async { Ok(1) }).await.unwrap(), 1);
    }
}
