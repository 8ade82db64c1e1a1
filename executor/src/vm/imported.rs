//! What is done to a domain that was there before its VM, or that somebody else has changed.

use kubevmm_analyser::mark::Mark;
use kubevmm_analyser::spec::{Connections, host_facts};
use tokio::time::Instant;

use super::apply::api_unavailable;
use super::decide::{Existing, Seen, Step, may_take_autostart};
use super::drift::TAKEN_OVER;
use super::existing::{self, refer};
use super::prepare::{effective, lowered, mark};
use super::task::Task;
use crate::host::NotYet;

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
        refer(&mut lifted, &wanted);
        self.check_orphan().await?;
        self.prove_placement().await.map_err(api_unavailable)?;
        if self.is_outdated(&Step::TakeOver) {
            return Ok(());
        }
        self.own.effective = Some(lifted.spec);
        self.own.connections = Some((lifted.disks, lifted.links));
        self.own.autostart = Some(observed.autostart);
        self.persist().await?;
        let mark = Mark { generation: TAKEN_OVER, ..mark(&self.vm, &self.identity) };
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
            self.memory.retries.fail(Instant::now());
            self.note_trouble("ApiUnavailable", &error);
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
        self.note_done("GiveBackFailed", done);
    }

    /// The VM must be looked at first, or what was decided is not so any more.
    fn is_outdated(&self, decided: &Step) -> bool {
        self.is_left() || self.next_step() != *decided
    }

    /// Marks what of the domain does not bear the mark.
    pub(super) async fn mark(&mut self) {
        let mark = self.mark_of_definition();
        let done = self.hands.domains.mark(&self.identity, &mark, may_take_autostart(&self.vm)).await;
        self.note_done("MarkFailed", done);
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
            (Some(spec), Some(connections), Some((accelerator, arch))) => {
                lowered(spec, &host_facts(accelerator, &arch), &connections, &self.identity, self.mark_of_definition())
            }
            _ => {
                self.memory.reverted = Some(self.guest.drift.definition.clone());
                return;
            }
        };
        let done = match made {
            Ok(domain) => self.hands.domains.define(&self.identity, &domain.to_xml()).await,
            Err(not_yet) => {
                self.memory.retries.fail(Instant::now());
                self.note_trouble(not_yet.reason, &not_yet.message);
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
        self.note_done("RevertFailed", done);
    }
}
