//! Doing what was decided: each action is idempotent and can be killed at any instruction.

use std::fmt::Display;
use std::sync::Arc;

use kubevmm_api::power::pending;
use kubevmm_api::vm::LastPowerRequest;
use tokio::time::Instant;

use super::cluster::name_of;
use super::decide::{Phase, Step};
use super::memory::{Stopping, Waiting};
use super::prepare::prepare;
use super::task::{Task, now};
use crate::Error;
use crate::host::{NotYet, Retry};
use crate::libvirt::{self, ErrorCode, GuestRequest};

impl Task {
    /// Does one action. What libvirt has is read anew afterwards, where it may have changed.
    pub(super) async fn act(&mut self, step: Step) {
        match step {
            Step::Rest(..) | Step::Leave => {}
            Step::Answer(result) => {
                let status = self.status();
                if let Some(request) = pending(&self.vm.spec, &status) {
                    let answer = LastPowerRequest { id: request.id.clone(), action: request.action, result };
                    self.own.last_power_request = Some(answer);
                }
            }
            Step::Start => {
                if let Err(not_yet) = self.start().await {
                    self.note_waiting(not_yet);
                }
            }
            Step::AskGuest => self.shut_down(),
            Step::Destroy => self.destroy().await,
            Step::Undefine => {
                let done = self.hands.domains.undefine(&self.identity).await;
                // A halted VM was reported as released with its domain, which it gives up now: no report follows.
                let is_last = done.is_ok() && self.epoch().is_some_and(|epoch| self.is_released(epoch));
                self.note_done("UndefineFailed", done);
                if is_last {
                    self.remove_seed().await;
                }
            }
            Step::TakeOver => {
                if let Err(not_yet) = self.take_over().await {
                    self.note_waiting(not_yet);
                }
            }
            Step::GiveBack => self.give_back().await,
            Step::Mark => self.mark().await,
            Step::Revert => self.revert().await,
            Step::ReportReleased => self.report_released().await,
            Step::ReportHalted => self.report_halted(),
            Step::ReportGone => {
                if self.remove_seed().await {
                    self.own.host_released = true;
                }
            }
        }
    }

    /// Makes everything real, defines the domain, proves that this host may start it, and starts it.
    async fn start(&mut self) -> Result<(), NotYet> {
        self.phase = Phase::Starting;
        let generation = self.vm.metadata.generation;
        let hands = self.hands.clone();
        let prepared = prepare(&*hands.cluster, &hands.makers, &self.vm, &self.identity).await?;
        self.check_disks(&prepared).await?;
        let defined = hands.domains.define(&self.identity, &prepared.xml).await;
        self.seen = None;
        if let Err(error) = defined {
            self.note_failed_start(&error);
            return Ok(());
        }
        self.reread().await;
        // What runs must be known to be of this spec even if this process ends right after the start.
        self.own.connections = Some(prepared.connections.to_status(&prepared.effective));
        self.own.effective = Some(prepared.effective);
        self.details_stale = true;
        self.persist().await?;
        self.prove_placement().await.map_err(api_unavailable)?;
        if self.vm.metadata.generation != generation || !self.may_start() {
            return Ok(());
        }
        let started = hands.domains.create(&self.identity).await;
        self.seen = None;
        if let Err(error) = started {
            self.note_failed_start(&error);
            return Ok(());
        }
        self.own.start_time = Some(now());
        self.memory.acted_for = pending(&self.vm.spec, &self.status()).map(|request| request.id.clone());
        self.memory.waiting = None;
        self.memory.needs.reset();
        self.memory.trouble = None;
        self.last_waited_for = None;
        tracing::info!("the domain has started");
        self.event(false, "Start", "Started", format!("the domain {} has started", self.identity.name));
        Ok(())
    }

    pub(super) async fn reread(&mut self) {
        self.seen = self.hands.domains.look(&self.identity).await.ok();
    }

    /// Renews the Lease, then reads the VM as the API server has it: an API server whose memory has gone back in time
    /// cannot make this host start a VM that has moved away since.
    pub(super) async fn prove_placement(&mut self) -> Result<(), Error> {
        self.hands.cluster.renew().await?;
        let (namespace, name) = name_of(&self.vm);
        match self.hands.cluster.vm(namespace, name).await? {
            Some(vm) if vm.metadata.uid == self.vm.metadata.uid => self.adopt(Arc::new(vm), true),
            _ => self.note_left(),
        }
        Ok(())
    }

    fn note_failed_start(&mut self, error: &libvirt::Error) {
        if error.is_connection_lost() {
            return;
        }
        self.memory.starts.fail(Instant::now());
        self.note_trouble("StartFailed", error);
        self.event(true, "Start", "StartFailed", error.to_string());
    }

    fn note_waiting(&mut self, not_yet: NotYet) {
        let now = Instant::now();
        let until = match not_yet.retry {
            Retry::After(pause) => Some(now + pause),
            Retry::OnChange => None,
            Retry::Backoff => {
                self.memory.needs.fail(now);
                self.memory.needs.wait(now)
            }
        };
        if self.last_waited_for.replace(not_yet.reason) != Some(not_yet.reason) {
            tracing::info!(reason = not_yet.reason, message = not_yet.message, "the start waits");
            self.event(!is_under_way(not_yet.reason), "Start", not_yet.reason, not_yet.message.clone());
        }
        self.memory.waiting = Some(Waiting { not_yet, until });
    }

    fn shut_down(&mut self) {
        let now = Instant::now();
        let first = self.memory.stopping.is_none();
        let since = self.memory.stopping.map_or(now, |stopping| stopping.since);
        self.memory.stopping = Some(Stopping { since, asked: now });
        let agent = first && self.guest.details.agent_connected;
        self.ask_guest(if agent { GuestRequest::Agent } else { GuestRequest::Acpi });
        if first {
            self.event(false, "Stop", "Stopping", "the guest has been asked to shut down".into());
        }
    }

    async fn destroy(&mut self) {
        let now = Instant::now();
        self.memory.stopping.get_or_insert(Stopping { since: now, asked: now });
        let done = self.hands.domains.destroy(&self.identity).await;
        self.note_done("StopFailed", done);
    }

    fn epoch(&self) -> Option<i64> {
        self.vm.status.as_ref().and_then(|status| Some(status.placement.as_ref()?.epoch))
    }

    fn is_released(&self, epoch: i64) -> bool {
        self.vm.status.as_ref().is_some_and(|status| status.released_epoch == Some(epoch))
    }

    fn report_halted(&mut self) {
        if let Some(epoch) = self.epoch() {
            self.note_released(epoch);
            let message = format!("the VM is off, and waits until node {} takes VMs again", self.hands.node);
            self.event(false, "Release", "Stopped", message);
        }
    }

    async fn report_released(&mut self) {
        let Some(epoch) = self.epoch() else { return };
        if self.remove_seed().await {
            self.note_released(epoch);
            self.event(false, "Release", "Released", format!("nothing of the VM is left on node {}", self.hands.node));
        }
    }

    async fn remove_seed(&mut self) -> bool {
        match self.hands.makers.seeds.remove(&self.identity.uid).await {
            Ok(()) => true,
            Err(not_yet) => {
                self.memory.retries.fail(Instant::now());
                self.note_trouble(not_yet.reason, &not_yet.message);
                false
            }
        }
    }

    /// Notes what became of a stop or an undefine. A domain that is off or gone already is what was wanted.
    pub(super) fn note_done(&mut self, reason: &'static str, done: libvirt::Result<()>) {
        self.seen = None;
        match done {
            Ok(()) => {
                self.memory.retries.reset();
                self.memory.trouble = None;
            }
            Err(error) if error.code == ErrorCode::NoDomain || error.is_connection_lost() => {}
            Err(error) => {
                self.memory.retries.fail(Instant::now());
                self.note_trouble(reason, &error);
            }
        }
    }
}

/// Whether the reason says that something is being done about it.
fn is_under_way(reason: &str) -> bool {
    reason.ends_with("ing")
}

pub(super) fn api_unavailable(why: impl Display) -> NotYet {
    NotYet::backoff("ApiUnavailable", format!("a start needs the API server: {why}"))
}
