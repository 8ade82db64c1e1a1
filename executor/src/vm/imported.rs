//! What is done to a domain that was there before its VM, or that somebody else has changed.

use kubevmm_analyser::mark::Mark;
use kubevmm_analyser::spec::{Connections, status_of_disk};
use kubevmm_api::effective::EffectiveSpec;
use kubevmm_api::vm::{DiskStatus, LastStop, StopReason};
use tokio::time::Instant;

use super::apply::api_unavailable;
use super::cluster::name_of;
use super::decide::{Existing, Seen, Step, may_take_autostart};
use super::drift::{Drift, TAKEN_OVER};
use super::existing::{self, Lifted, refer};
use super::memory::Trouble;
use super::prepare::{Prepared, effective, lowered, machine, mark};
use super::task::{Task, now};
use crate::host::NotYet;
use crate::libvirt;

/// A spec that says less than the domain has would take it away at the next start.
fn check_complete(lifted: &EffectiveSpec, wanted: &EffectiveSpec) -> Result<(), NotYet> {
    let mut missing: Vec<String> = Vec::new();
    let disks = lifted.disks.iter().filter(|disk| !wanted.disks.iter().any(|it| it.name == disk.name));
    missing.extend(disks.map(|disk| format!("spec.disks[{}]", disk.name)));
    let nics = lifted.networks.iter().filter(|nic| !wanted.networks.iter().any(|it| it.name == nic.name));
    missing.extend(nics.map(|nic| format!("spec.networks[{}]", nic.name)));
    if wanted.domain.is_empty() && !lifted.domain.is_empty() {
        missing.push("spec.domain".into());
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the domain has what the spec does not say: {}: `virtctl import --manage` writes it; once it is managed, take away \
         what you do not want",
        missing.join(", ")
    );
    Err(NotYet::on_change("SpecIncomplete", message))
}

impl Task {
    /// Marks a domain that was there before its VM. What runs, and what is defined, stays as it is.
    pub(super) async fn take_over(&mut self) -> Result<(), NotYet> {
        let hands = self.hands.clone();
        let wanted = effective(&*hands.cluster, &self.vm)?;
        let Some(observed) = hands.domains.observe(self.identity.uuid).await? else {
            self.seen = None;
            return Ok(());
        };
        let mut lifted = existing::lift(&*hands.cluster, &self.vm, &observed)?;
        check_complete(&lifted.spec, &wanted)?;
        self.check_orphan().await?;
        self.check_places(&wanted, &lifted).await?;
        refer(&mut lifted, &wanted);
        self.prove_placement().await.map_err(api_unavailable)?;
        if self.is_outdated(&Step::TakeOver) {
            return Ok(());
        }
        let known = self.status().domain.filter(|domain| domain.generation.is_some());
        if known.is_none() {
            self.own.effective = Some(lifted.spec);
            self.own.connections = Some((lifted.disks, lifted.links));
            self.own.autostart = Some(observed.autostart);
            if !observed.state.is_active() {
                // It stays off: what once started it was answered.
                let request_id = self.status().last_power_request.map(|last| last.id);
                self.own.last_stop = Some(LastStop { reason: StopReason::Unknown, time: now(), request_id });
            }
        }
        self.persist().await?;
        // Another VM may want it, too.
        let before = self.seen.take();
        self.reread().await;
        if self.seen != before || self.is_outdated(&Step::TakeOver) {
            return Ok(());
        }
        // One whose mark was lost is what it was made of, and what somebody has changed.
        let generation = known.and_then(|domain| domain.generation).unwrap_or(TAKEN_OVER);
        let mark = Mark { generation, ..mark(&self.vm, &self.identity) };
        let marked = hands.domains.mark(&self.identity, &mark, may_take_autostart(&self.vm)).await;
        self.seen = None;
        self.details_stale = true;
        marked?;
        self.memory.waiting = None;
        self.memory.needs.reset();
        self.last_waited_for = None;
        let note = format!("the domain {} is managed from now on; nothing of it was changed", self.identity.name);
        self.event(false, "TakeOver", "TakenOver", note);
        Ok(())
    }

    /// A mark of another VM counts as long as there is that VM.
    async fn check_orphan(&self) -> Result<(), NotYet> {
        let Some(Seen::Existing(Existing { mark: Some(mark), name, .. })) = &self.seen else { return Ok(()) };
        if mark.cluster != self.identity.cluster {
            return Ok(());
        }
        let owner = self.hands.cluster.vm(&mark.namespace, &mark.name).await.map_err(api_unavailable)?;
        if owner.is_none_or(|owner| owner.metadata.uid.as_deref() != Some(mark.uid.as_str())) {
            return Ok(());
        }
        let message = format!(
            "the domain {name} belongs to the VirtualMachine {}/{}, which is still there: delete this VirtualMachine, or \
             that one first",
            mark.namespace, mark.name
        );
        Err(NotYet::backoff("NameTaken", message))
    }

    /// Takes the mark off a domain that is only to be watched.
    pub(super) async fn give_back(&mut self) {
        let autostart = self.status().domain.is_some_and(|domain| domain.autostart);
        if let Err(error) = self.prove_placement().await {
            self.note_unrepaired("ApiUnavailable", &error);
            return;
        }
        if self.is_outdated(&Step::GiveBack) {
            return;
        }
        let done = self.hands.domains.give_back(&self.identity, autostart).await;
        if done.is_ok() {
            let name = &self.identity.name;
            let note = format!("the domain {name} is only watched from now on; nothing of it was changed");
            self.event(false, "GiveBack", "GivenBack", note);
        }
        self.note_repair("GiveBackFailed", done);
    }

    fn note_repair(&mut self, reason: &'static str, done: libvirt::Result<()>) {
        self.seen = None;
        match done {
            Ok(()) => {
                self.memory.repairs.reset();
                self.memory.repair_trouble = None;
            }
            Err(error) if error.is_not_found() || error.is_connection_lost() => {}
            Err(error) => self.note_unrepaired(reason, &error),
        }
    }

    fn note_unrepaired(&mut self, reason: &'static str, error: &dyn std::fmt::Display) {
        tracing::warn!(reason, %error, "an action failed; trying again");
        self.memory.repairs.fail(Instant::now());
        self.memory.repair_trouble = Some(Trouble { reason, message: error.to_string() });
    }

    /// Whether the definition that is there has a disk in a place where neither this VM had it nor is to have it: what was
    /// written there would be left behind.
    pub(super) async fn check_disks(&mut self, prepared: &Prepared) -> Result<(), NotYet> {
        let Some(Seen::Ours(found)) = &self.seen else { return Ok(()) };
        let generation = found.generation;
        let details = self.hands.domains.details(&self.identity).await?;
        let host = machine(&*self.hands.cluster)?;
        let moved = Drift::left_behind(&prepared.xml, &self.status(), &host, generation, &details);
        if moved.is_empty() {
            return Ok(());
        }
        let message = format!(
            "somebody has moved a disk on its host, as a snapshot does, and what was written since is there: {}. Bring it \
             back into the old place (virsh blockcommit while it runs, qemu-img commit while it is off) and set the old \
             source with virsh edit; or make a VirtualMachineDisk with spec.source.existing of the new place, and name it \
             in spec.disks; or undefine the domain, if nothing of it is wanted",
            moved.join(", ")
        );
        Err(NotYet::backoff("DiskMoved", message))
    }

    /// Whether each disk of the spec is the one that the domain has under this name: the next start takes it.
    async fn check_places(&self, wanted: &EffectiveSpec, lifted: &Lifted) -> Result<(), NotYet> {
        let (namespace, _) = name_of(&self.vm);
        for disk in &wanted.disks {
            let there = lifted.disks.iter().find(|it| it.name == disk.name && it.volume.is_some());
            let Some(there) = there else {
                let message = format!(
                    "spec.disks[{}]: the domain has no such disk in a storage pool of the host: `virtctl import --manage` \
                     writes what it has; once it is managed, add to it",
                    disk.name
                );
                return Err(NotYet::on_change("SpecIncomplete", message));
            };
            let ours = self.hands.makers.storage.find_disk(namespace, &disk.disk_name).await?;
            let ours = status_of_disk(&ours);
            let is_same_place = match there.kind.as_deref() {
                Some("volume") => there.volume.as_ref().is_some_and(|volume| {
                    ours.source.as_deref().is_some_and(|path| path.ends_with(&format!("/{}", volume.name)))
                }),
                _ => ours.source == there.source,
            };
            if !is_same_place || ours.format != there.format {
                let place = |disk: &DiskStatus| {
                    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "nothing".into());
                    format!("{} ({})", text(&disk.source), text(&disk.format))
                };
                let message = format!(
                    "spec.disks[{}]: the VirtualMachineDisk {} is {}, the domain has {}: a start would leave behind what is \
                     written there; name a VirtualMachineDisk of that volume (`virtctl import --manage` makes it)",
                    disk.name,
                    disk.disk_name,
                    place(&ours),
                    place(there)
                );
                return Err(NotYet::backoff("DiskMoved", message));
            }
        }
        Ok(())
    }

    /// The VM must be looked at first, or what was decided is not so any more.
    fn is_outdated(&self, decided: &Step) -> bool {
        self.is_left() || self.next_step() != *decided
    }

    /// Marks what of the domain does not bear the mark.
    pub(super) async fn mark(&mut self) {
        let mark = self.mark_of_definition();
        let done = self.hands.domains.mark(&self.identity, &mark, may_take_autostart(&self.vm)).await;
        self.note_repair("MarkFailed", done);
    }

    /// The mark of the definition that is there.
    fn mark_of_definition(&self) -> Mark {
        let mark = mark(&self.vm, &self.identity);
        match &self.seen {
            Some(Seen::Ours(found)) => Mark { epoch: found.epoch, generation: found.generation, ..mark },
            _ => mark,
        }
    }

    /// Makes the definition as it was made of the spec.
    pub(super) async fn revert(&mut self) {
        let status = self.status();
        let made = match (&status.effective, Connections::of_status(&status), self.hands.cluster.machine()) {
            (Some(spec), Some(connections), Some(host)) => {
                lowered(spec, &host, &connections, &self.identity, self.mark_of_definition())
            }
            _ => {
                let why = "what the domain was made from is not known: the next start defines it from the spec";
                self.note_unrepaired("RevertFailed", &why);
                return;
            }
        };
        let done = match made {
            Ok(domain) => self.hands.domains.define(&self.identity, &domain.to_xml()).await,
            Err(not_yet) => {
                self.note_unrepaired(not_yet.reason, &not_yet.message);
                return;
            }
        };
        if done.is_ok() {
            let paths = self.guest.drift.definition.join(", ");
            self.event(true, "Revert", "Reverted", format!("somebody had changed the domain on its host: {paths}"));
            if let Ok(details) = self.hands.domains.details(&self.identity).await {
                self.memory.reverted = Some(self.drift(&details).definition);
            }
        }
        self.details_stale = true;
        self.note_repair("RevertFailed", done);
    }
}
