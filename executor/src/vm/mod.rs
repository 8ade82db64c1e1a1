//! VirtualMachines: one task owns one VM and is the only one to act on its domain.
//!
//! A task has a queue of everything that concerns its VM: the object as the watch brings it, libvirt's events, a new
//! session, answers of its own jobs, and time. It takes up all that has piled up, reads what libvirt has where that may
//! have changed, and then decides ([`decide`], a pure function) and acts ([`apply`]) until there is nothing to do; then
//! it writes the status ([`status`]) if it differs. Nothing in the queue is a command: each decision is made from what
//! is and what should be, so a task that is killed at any instruction goes on where it was.
//!
//! ```text
//!                     placement confirmed          defined, Lease renewed, VM read again
//!  Scheduling ───────────────────────▶ Waiting ─────────────────────────▶ Starting ──▶ Running ⇄ Paused
//!      ▲                                ▲  │ disks, networks, seed,                        │  │
//!      │ no pod, not confirmed          └──┘ or the name is taken                          │  │ not wanted, Restart,
//!      │                                                                                  │  │ release, deleted
//!      │             should run: at once, or after a pause (BackingOff)                   │  ▼
//!   (off) ◀───────────────────────────────────────────────────────────────────────────────┘ Stopping
//!    │  ▲                    the guest shut down, crashed, was destroyed, ...                 │ agent or ACPI,
//!    │  └──────────────────────────────────────────────────────────────────────────────────────┘ then destroy
//!    ├── should not run ──▶ Stopped
//!    ├── release: Stop  ──▶ undefine ──▶ Released (the task ends when nodeName moves on)
//!    └── deleted        ──▶ undefine, remove the seed ──▶ Gone (the task ends when the object is gone)
//!
//!  A domain that was there before (spec.existingDomain):
//!
//!  Observed ──── Manage ────▶ its mark is set, what runs stays ────▶ Running or (off), as above
//!     ▲                                                                 │
//!     └──────────── the mark is taken off, what runs stays ◀── Observe ─┘
//!
//!  From anywhere: Unreachable while libvirt is away, and HeldElsewhere while the domain's epoch is higher than the
//!  placement's: nothing is done in either. Failing: a stop or an undefine failed and is tried again.
//! ```
//!
//! Work that takes long (the download of an image, an agent that does not answer) is a job that reports to the queue.

mod addresses;
mod apply;
pub(crate) mod backoff;
mod cluster;
mod decide;
mod domains;
mod drift;
mod existing;
#[cfg(test)]
mod fakes;
mod imported;
mod memory;
mod news;
mod observe;
mod prepare;
mod status;
#[cfg(test)]
mod stories;
mod task;
mod user_data;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kubevmm_api::VirtualMachine;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tracing::Instrument;
use uuid::Uuid;

use crate::host::{Context, Networks, Seeds, Storage};
use crate::lease::Session;
use crate::libvirt::{Event, StoragePoolEvent};
use crate::store::VmEvent;

use cluster::{KubeCluster, name_of};
use domains::LibvirtDomains;
use observe::Observer;
use prepare::Makers;
use task::{Hands, Input, Queue, Released, Task};
pub use user_data::Secrets;

/// What a VM needs of its host.
pub struct HostParts {
    /// Disks.
    pub storage: Arc<dyn Storage>,
    /// Networks.
    pub networks: Arc<dyn Networks>,
    /// Seeds of cloud-init.
    pub seeds: Arc<dyn Seeds>,
    /// Where the Secrets of placement pods are.
    pub secrets: Secrets,
}

/// Runs the tasks of this node's VMs for as long as the process lives.
pub async fn run(context: Context, session: Session, parts: HostParts, mut vms: mpsc::UnboundedReceiver<VmEvent>) {
    let mut libvirt = context.libvirt_events.subscribe();
    let mut sessions = session.subscribe();
    let mut changes = context.changes.subscribe();
    let store = &context.store;
    let (mut disks, mut classes) = (store.disks.changes(), store.classes.changes());
    let (mut networks, mut cluster_networks) = (store.networks.changes(), store.cluster_networks.changes());
    let (mut pools, mut images) = (store.pools.changes(), store.images.changes());
    let mut cluster_images = store.cluster_images.changes();
    let mut tasks = Tasks::new(Hands {
        node: Arc::clone(&context.node),
        cluster_id: Arc::clone(&context.cluster),
        domains: Arc::new(LibvirtDomains(context.libvirt.clone())),
        cluster: Arc::new(KubeCluster { context: context.clone(), session }),
        makers: Makers { storage: parts.storage, networks: parts.networks, seeds: parts.seeds, secrets: parts.secrets },
        released: Released::default(),
    });
    loop {
        tokio::select! {
            event = vms.recv() => match event {
                Some(event) => tasks.take_vm(event),
                None => return,
            },
            event = libvirt.recv() => match event.as_deref() {
                Ok(event) => tasks.take_libvirt(event),
                Err(RecvError::Lagged(_)) => tasks.all(|| Input::Reread),
                Err(RecvError::Closed) => return,
            },
            _ = sessions.changed() => tasks.all(|| Input::Session),
            _ = changes.changed() => tasks.all(|| Input::Changed),
            _ = disks.changed() => tasks.all(|| Input::Changed),
            _ = classes.changed() => tasks.all(|| Input::Changed),
            _ = networks.changed() => tasks.all(|| Input::Changed),
            _ = cluster_networks.changed() => tasks.all(|| Input::Changed),
            _ = pools.changed() => tasks.all(|| Input::Changed),
            _ = images.changed() => tasks.all(|| Input::Changed),
            _ = cluster_images.changed() => tasks.all(|| Input::Changed),
        }
    }
}

/// Owns one VM: watches its domain or drives it, as the spec says from time to time.
async fn own(hands: Hands, mut vm: Arc<VirtualMachine>, mut queue: Queue) {
    /// Between two changes of hands: one that follows at once shows that the two do not see the same.
    const PAUSE: Duration = Duration::from_secs(1);
    loop {
        let since = tokio::time::Instant::now();
        if vm.spec.observed().is_some() {
            match Observer::new(&hands, vm, queue).run().await {
                observe::End::Over => return,
                observe::End::Managed(managed, inputs) => (vm, queue) = (managed, inputs),
            }
        }
        match Task::new(hands.clone(), vm, queue).run().await {
            task::End::Over => return,
            task::End::Observed(observed, inputs) => (vm, queue) = (observed, inputs),
        }
        if since.elapsed() < PAUSE {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The tasks, by the uids of their VMs.
struct Tasks {
    hands: Hands,
    tasks: HashMap<String, Handle>,
    /// During a list: the VMs that it has brought so far.
    listed: Option<HashSet<String>>,
}

struct Handle {
    /// Name and UUID of the domain, by which libvirt's events are passed on: somebody else's may have either.
    domain: String,
    uuid: Uuid,
    inbox: mpsc::UnboundedSender<Input>,
}

impl Tasks {
    fn new(hands: Hands) -> Self {
        Self { hands, tasks: HashMap::new(), listed: None }
    }

    fn take_vm(&mut self, event: VmEvent) {
        match event {
            VmEvent::ListBegins => self.listed = Some(HashSet::new()),
            VmEvent::ListEnds => {
                let listed = self.listed.take().unwrap_or_default();
                for (uid, task) in &self.tasks {
                    if !listed.contains(uid) {
                        drop(task.inbox.send(Input::Left));
                    }
                }
            }
            VmEvent::Seen(vm) => {
                let uid = vm.metadata.uid.clone().unwrap_or_default();
                let listed = self.listed.is_some();
                if let Some(seen) = &mut self.listed {
                    seen.insert(uid.clone());
                }
                self.seen(&uid, vm, listed);
            }
            VmEvent::Left(vm) => {
                if let Some(task) = vm.metadata.uid.as_ref().and_then(|uid| self.tasks.get(uid)) {
                    drop(task.inbox.send(Input::Left));
                }
            }
        }
    }

    fn seen(&mut self, uid: &str, vm: Arc<VirtualMachine>, listed: bool) {
        if let Some(task) = self.tasks.get(uid)
            && task.inbox.send(Input::Object { vm: Arc::clone(&vm), listed }).is_ok()
        {
            return;
        }
        // A task that has ended is replaced: its VM has come back.
        self.tasks.retain(|_, task| !task.inbox.is_closed());
        let (inbox, queue) = mpsc::unbounded_channel();
        let (namespace, name) = name_of(&vm);
        let span = tracing::info_span!("vm", namespace, name, uid);
        let identity = self.hands.identity(&vm);
        tokio::spawn(own(self.hands.clone(), vm, Queue::new(queue)).instrument(span));
        self.tasks.insert(uid.to_owned(), Handle { domain: identity.name, uuid: identity.uuid, inbox });
    }

    fn take_libvirt(&self, event: &Event) {
        match event {
            Event::Connected { .. } | Event::Disconnected { .. } | Event::Lost => self.all(|| Input::Reread),
            Event::Domain { domain, event } => {
                let named = |task: &&Handle| task.domain == domain.name || task.uuid == domain.uuid;
                for task in self.tasks.values().filter(named) {
                    drop(task.inbox.send(Input::Domain(event.clone())));
                }
            }
            // Which disks of an observed domain are volumes.
            Event::StoragePool { event: StoragePoolEvent::Lifecycle(_), .. } => self.all(|| Input::Pools),
            Event::StoragePool { .. } | Event::Network { .. } | Event::NodeDevice { .. } => {}
        }
    }

    fn all(&self, input: impl Fn() -> Input) {
        for task in self.tasks.values() {
            drop(task.inbox.send(input()));
        }
    }
}
