//! The status of this host's Hypervisor object: one actor collects what the parts of the executor find, and writes it
//! when it differs from what is there. What a person wants to know of the change becomes Events.
//!
//! Each part sets its own piece as often as it likes. A piece that has not been set since the start keeps what the
//! executor before this one wrote.

mod capabilities;
mod devices;
mod inventory;
mod news;
mod offers;
mod status;
mod usage;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kubevmm_api::common::Accelerator;
use kubevmm_api::condition::Wanted;
use kubevmm_api::hypervisor::{AcceleratorStatus, HostDevice, HostImage, HostNetwork, HostPool};
use kubevmm_api::{Hypervisor, HypervisorStatus, MANAGER_EXECUTOR};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

pub use capabilities::Offers;
pub use inventory::{forward_events, run as run_inventory};
pub use status::{Domains, HostFacts, Pieces};

use crate::events::EventRecorder;
use crate::libvirt::Event;
use crate::store::Cache;

/// Changes within this time are one write.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// The pause after a write that failed.
const RETRY: Duration = Duration::from_secs(2);
/// How long a write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The way to the Hypervisor's status. Clones share it.
#[derive(Clone)]
pub struct HostReport {
    messages: mpsc::UnboundedSender<Message>,
    machine: Arc<RwLock<Machine>>,
}

/// What a domain's definition depends on.
#[derive(Default)]
struct Machine {
    accelerator: Option<Accelerator>,
    architecture: Option<String>,
}

enum Message {
    Set(Box<dyn FnOnce(&mut Pieces) + Send>),
    Written(oneshot::Sender<()>),
}

impl HostReport {
    /// Starts the actor for the Hypervisor `node`.
    pub fn start(client: kube::Client, node: &str, hypervisors: Cache<Hypervisor>, events: EventRecorder) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let pieces = Pieces::default();
        let writer = Writer { api: Api::all(client), node: node.to_owned(), hypervisors, events, pieces };
        tokio::spawn(writer.run(receiver));
        Self { messages: sender, machine: Arc::default() }
    }

    /// The storage pools, all of them. Sizes are the caller's to hold still while they change by less than 1%.
    pub fn pools(&self, pools: Vec<HostPool>) {
        self.set(|pieces| pieces.pools = Some(pools));
    }

    /// The networks, all of them.
    pub fn networks(&self, networks: Vec<HostNetwork>) {
        self.set(|pieces| pieces.networks = Some(networks));
    }

    /// The images, all of them. What counts as there after a restart is what has been [`written`](Self::written).
    pub fn images(&self, images: Vec<HostImage>) {
        self.set(|pieces| pieces.images = Some(images));
    }

    /// The domains, all of them.
    pub fn domains(&self, domains: Domains) {
        self.set(|pieces| pieces.domains = Some(domains));
    }

    /// What the host offers to guests.
    pub fn offers(&self, offers: Offers) {
        self.set(|pieces| pieces.offers = Some(offers));
    }

    /// The host's devices for guests, all that were looked at, and the number of those that were not.
    pub fn devices(&self, devices: Vec<HostDevice>, unread: usize) {
        self.set(move |pieces| pieces.devices = Some((devices, unread)));
    }

    /// What libvirt says of the host.
    pub fn facts(&self, facts: HostFacts) {
        self.machine.write().unwrap_or_else(PoisonError::into_inner).architecture = Some(facts.architecture.clone());
        self.set(|pieces| pieces.facts = Some(facts));
    }

    /// How guests' CPUs run.
    pub fn accelerator(&self, accelerator: AcceleratorStatus) {
        self.machine.write().unwrap_or_else(PoisonError::into_inner).accelerator = Some(accelerator.kind);
        self.set(|pieces| pieces.accelerator = Some(accelerator));
    }

    /// The condition Ready; `True` is not written before [`facts`](Self::facts) and
    /// [`accelerator`](Self::accelerator) are known.
    pub fn ready(&self, ready: Wanted) {
        self.set(|pieces| pieces.ready = Some(ready));
    }

    /// How guests' CPUs run here, and libvirt's name of the architecture; `None` until both have been found out.
    pub fn machine(&self) -> Option<(Accelerator, String)> {
        let machine = self.machine.read().unwrap_or_else(PoisonError::into_inner);
        machine.accelerator.zip(machine.architecture.clone())
    }

    /// Waits until all that was set before this call is in the API server: as long as it takes.
    pub async fn written(&self) {
        let (done, written) = oneshot::channel();
        drop(self.messages.send(Message::Written(done)));
        // The actor ends with the process only.
        drop(written.await);
    }

    fn set(&self, change: impl FnOnce(&mut Pieces) + Send + 'static) {
        drop(self.messages.send(Message::Set(Box::new(change))));
    }
}

/// Hands an event of libvirt to `note`, and all that have piled up behind it, for what they tell is one state. `None` when
/// none will come any more.
fn take_up(
    first: Result<Arc<Event>, RecvError>,
    events: &mut broadcast::Receiver<Arc<Event>>,
    mut note: impl FnMut(Result<&Event, &RecvError>),
) -> Option<()> {
    note(first.as_deref());
    loop {
        match events.try_recv() {
            Ok(event) => note(Ok(&event)),
            Err(TryRecvError::Lagged(lost)) => note(Err(&RecvError::Lagged(lost))),
            Err(TryRecvError::Empty) => return Some(()),
            Err(TryRecvError::Closed) => return None,
        }
    }
}

struct Writer {
    api: Api<Hypervisor>,
    node: String,
    hypervisors: Cache<Hypervisor>,
    events: EventRecorder,
    pieces: Pieces,
}

impl Writer {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        self.hypervisors.ready().await;
        let mut changes = self.hypervisors.changes();
        // The answer of the last write: newer than the watch, until the watch moves.
        let mut base = self.watched();
        let mut waiting = Vec::new();
        let mut retry = None;
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::Set(change)) => change(&mut self.pieces),
                    Some(Message::Written(done)) => waiting.push(done),
                    None => return,
                },
                _ = changes.changed() => base = self.watched(),
                () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
            while let Ok(message) = messages.try_recv() {
                match message {
                    Message::Set(change) => change(&mut self.pieces),
                    Message::Written(done) => waiting.push(done),
                }
            }
            if changes.has_changed().unwrap_or(false) {
                changes.mark_unchanged();
                base = self.watched();
            }
            if retry.is_some_and(|at| at > Instant::now()) {
                // What comes meanwhile does not make the API server well.
                continue;
            }
            retry = match self.write(&mut base).await {
                Ok(()) => {
                    waiting.drain(..).for_each(|done| _ = done.send(()));
                    None
                }
                Err(error) => {
                    tracing::warn!(hypervisor = self.node, %error, "cannot write the Hypervisor's status; trying again");
                    Some(Instant::now() + RETRY)
                }
            };
        }
    }

    fn watched(&self) -> Option<Hypervisor> {
        self.hypervisors.get_cluster(&self.node).map(|object| Hypervisor::clone(&object))
    }

    async fn write(&self, base: &mut Option<Hypervisor>) -> Result<(), crate::Error> {
        let Some(object) = base.as_ref() else { return Err(crate::Error::NoHypervisor { node: self.node.clone() }) };
        let before = object.status.clone().unwrap_or_default();
        let now = Time(Timestamp::now());
        let after = status::merged(&object.spec, &before, &self.pieces, object.metadata.generation, &now);
        if after == before {
            return Ok(());
        }
        let written = self.patch(&after).await?;
        for news in news::news(&written, &before, &after) {
            let send = if news.warning { EventRecorder::warning } else { EventRecorder::normal };
            send(&self.events, &news.about, news.action, &news.reason, news.note);
        }
        *base = Some(written);
        Ok(())
    }

    async fn patch(&self, status: &HypervisorStatus) -> Result<Hypervisor, crate::Error> {
        let patch = serde_json::json!({
            "apiVersion": format!("{}/{}", kubevmm_api::GROUP, kubevmm_api::VERSION),
            "kind": "Hypervisor",
            "metadata": { "name": self.node },
            "status": status,
        });
        let params = PatchParams::apply(MANAGER_EXECUTOR).force();
        let patch = Patch::Apply(&patch);
        crate::api::limited(WRITE_TIMEOUT, self.api.patch_status(&self.node, &params, &patch)).await
    }
}
