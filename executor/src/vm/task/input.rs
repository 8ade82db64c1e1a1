//! What reaches a task, and how it is taken up: only noted; the loop decides afterwards.

use std::sync::Arc;

use kubevmm_api::VirtualMachine;
use kubevmm_api::vm::{InterfaceStatus, Release};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Task;
use crate::host::Retry;
use crate::libvirt::{self, DomainEvent, GuestRequest, Lifecycle};
use crate::vm::addresses;
use crate::vm::decide::Seen;
use crate::vm::memory::End;

/// What reaches a task.
#[derive(Debug)]
pub(in crate::vm) enum Input {
    /// The VM, new or changed. `listed`: it comes from a list, which is older than what this task knows either because
    /// this task has written since, or because the API server's memory went back in time.
    Object { vm: Arc<VirtualMachine>, listed: bool },
    /// The VM has left the watch of this node's: look before anything is done.
    Left,
    /// libvirt's event about a domain of this VM's name.
    Domain(DomainEvent),
    /// libvirt is back, or gone, or events were lost: read everything anew.
    Reread,
    /// Something has changed that a start may wait for.
    Changed,
    /// A storage pool of the host has changed.
    Pools,
    /// A new session.
    Session,
    /// What became of a request to shut down.
    Asked(GuestRequest, libvirt::Result<()>),
    /// What is known of the addresses of the run with this number.
    Addresses(u64, Vec<InterfaceStatus>),
}

/// The queue of one VM's task: what reaches it from outside, and the answers of its own jobs.
pub(in crate::vm) struct Queue {
    inbox: mpsc::UnboundedReceiver<Input>,
    answers: (mpsc::UnboundedSender<Input>, mpsc::UnboundedReceiver<Input>),
}

impl Queue {
    pub(in crate::vm) fn new(inbox: mpsc::UnboundedReceiver<Input>) -> Self {
        Self { inbox, answers: mpsc::unbounded_channel() }
    }

    /// Where a job of the task puts its answer.
    pub(in crate::vm) fn answers(&self) -> mpsc::UnboundedSender<Input> {
        self.answers.0.clone()
    }

    /// The next thing from outside. `None`: nobody needs the task any more.
    pub(in crate::vm) async fn recv(&mut self) -> Option<Input> {
        self.inbox.recv().await
    }

    /// All that has piled up, once there is something or it is time; nothing when it is only time. `None`: nobody needs
    /// the task any more.
    pub(in crate::vm) async fn wait(&mut self, until: Option<Instant>) -> Option<Vec<Input>> {
        let mut piled_up = Vec::new();
        tokio::select! {
            input = self.inbox.recv() => piled_up.push(input?),
            Some(input) = self.answers.1.recv() => piled_up.push(input),
            () = async { tokio::time::sleep_until(until.unwrap_or_else(Instant::now)).await }, if until.is_some() => {}
        }
        // What has piled up is one state.
        piled_up.extend(std::iter::from_fn(|| self.inbox.try_recv().ok()));
        piled_up.extend(std::iter::from_fn(|| self.answers.1.try_recv().ok()));
        Some(piled_up)
    }
}

impl Task {
    /// Takes up one input; nothing is done yet.
    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Object { vm, listed } => {
                if listed && vm.metadata.uid == self.vm.metadata.uid && is_older(&vm, &self.vm) {
                    self.note_left();
                } else {
                    self.adopt(vm, false);
                }
            }
            Input::Left => self.left = Some(Instant::now()),
            Input::Domain(event) => self.take_event(&event),
            Input::Reread => {
                self.seen = None;
                self.details_stale = true;
            }
            Input::Pools => {}
            Input::Changed => {
                let waits = self.memory.waiting.as_ref();
                if waits.is_some_and(|waiting| waiting.not_yet.retry != Retry::Backoff) {
                    self.memory.waiting = None;
                }
            }
            Input::Session => {
                self.memory.waiting = None;
                if self.hands.cluster.session().is_none() {
                    // The API server's memory may have gone back in time: what is known is not newer than what it says.
                    self.note_left();
                }
            }
            Input::Asked(how, result) => self.take_answer(how, result),
            Input::Addresses(run, found) => self.take_addresses(run, found),
        }
    }

    fn take_event(&mut self, event: &DomainEvent) {
        match event {
            DomainEvent::Lifecycle(kind) => {
                if matches!(self.seen, Some(Seen::Existing(_))) {
                    // What stood in the way of taking it over may have been mended.
                    self.memory.waiting = None;
                }
                self.seen = None;
                let end = &mut self.memory.end;
                match kind {
                    Lifecycle::Started(_) => *end = End::default(),
                    Lifecycle::Shutdown(detail) => end.shutdown = Some(*detail),
                    Lifecycle::Stopped(detail) => end.stopped = Some(*detail),
                    Lifecycle::Crashed(_) => end.crashed = true,
                    _ => {}
                }
            }
            DomainEvent::Agent { connected, .. } => {
                self.guest.details.agent_connected = *connected;
                if *connected {
                    self.addresses.restart(Instant::now());
                }
            }
            DomainEvent::MetadataChange { .. } => {
                self.memory.waiting.take_if(|_| matches!(self.seen, Some(Seen::Existing(_))));
                self.seen = None;
            }
            DomainEvent::DeviceAdded { .. } | DomainEvent::DeviceRemoved { .. } => {
                self.details_stale = true;
                self.addresses.restart(Instant::now());
            }
            _ => {}
        }
    }

    fn take_addresses(&mut self, run: u64, found: Vec<InterfaceStatus>) {
        self.asking = false;
        if run != self.run {
            return;
        }
        addresses::note(&mut self.guest.interfaces, found);
        let known = addresses::all_known(&self.guest.interfaces);
        self.addresses.answered(known, self.guest.details.agent_connected, Instant::now());
    }

    /// Takes the VM as it was read, unless it is older than what is known.
    pub(in crate::vm) fn adopt(&mut self, vm: Arc<VirtualMachine>, fresh: bool) {
        if vm.metadata.uid != self.vm.metadata.uid || (!fresh && is_older(&vm, &self.vm)) {
            return;
        }
        if vm.metadata.generation != self.vm.metadata.generation {
            self.memory.starts.reset();
            self.memory.trouble = None;
        }
        let now = vm.status.as_ref().and_then(|status| status.placement.as_ref());
        self.memory.migrated.take_if(|migrated| migrated.is_before(now));
        // What somebody has done to the domain is looked at before anything follows from another spec.
        self.details_stale |= vm.spec != self.vm.spec || release_of(&vm) != release_of(&self.vm);
        let placement = |vm: &VirtualMachine| vm.status.as_ref().and_then(|status| status.placement.clone());
        if vm.spec != self.vm.spec || placement(&vm) != placement(&self.vm) {
            self.memory.waiting = None;
            self.memory.needs.reset();
        }
        self.left = None;
        self.vm = vm;
    }

    fn take_answer(&mut self, how: GuestRequest, result: libvirt::Result<()>) {
        match result {
            Ok(()) => {}
            Err(error) if self.memory.stopping.is_none() => tracing::debug!(%error, "a stop that is over"),
            Err(error) if how == GuestRequest::Agent => {
                tracing::info!(%error, "the agent does not shut the guest down: trying ACPI");
                self.ask_guest(GuestRequest::Acpi);
            }
            Err(error) => tracing::warn!(%error, "cannot ask the guest to shut down"),
        }
    }
}

fn release_of(vm: &VirtualMachine) -> Release {
    vm.status.as_ref().and_then(|status| Some(status.placement.as_ref()?.release)).unwrap_or_default()
}

/// Whether `vm` is older than `known`. The API server's versions grow; one that cannot be read counts as new.
pub(in crate::vm) fn is_older(vm: &VirtualMachine, known: &VirtualMachine) -> bool {
    let version = |vm: &VirtualMachine| vm.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
    matches!((version(vm), version(known)), (Some(new), Some(old)) if new < old)
}
