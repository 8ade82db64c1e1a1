//! The controller of KubeVMM: decides which host runs which VM, and keeps what belongs to no single host.
//!
//! One watch per kind feeds a mirror ([`world`]); each change queues the objects that it may matter to ([`dispatch`],
//! [`queue`]); a worker takes one object at a time and looks at it as a whole: `decide` (pure) tells the steps from what
//! is and what should be, `apply` takes them. Every write is made against the version that was looked at, so a stale
//! mirror costs a retry and never a wrong decision.

pub mod budget;
pub mod class;
pub mod context;
pub mod disk;
pub mod dispatch;
pub mod error;
pub mod events;
pub mod hosts;
pub mod hypervisor;
pub mod image;
pub mod key;
pub mod lease;
pub mod lifecycle;
pub mod network;
pub mod object;
pub mod pause;
pub mod pool;
pub mod queue;
pub mod vm;
pub mod webhook;
pub mod world;
pub mod write;

#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::dispatch::dispatch;
use crate::error::Error;
use crate::events::Events;
use crate::key::Key;
use crate::queue::Queue;
use crate::webhook::answer::OwnPod;
use crate::world::{OnChange, World};

/// Objects that are worked on at the same time.
const WORKERS: usize = 16;

/// Settings of the controller.
#[derive(Debug, Clone)]
pub struct Options {
    /// Image of the placement pods.
    pub pause_image: String,
    /// CPU that is requested for each virtual CPU of a VM that does not say it, in thousandths.
    pub millis_per_vcpu: u64,
    /// Duration of the controller's Lease.
    pub lease_duration: Duration,
    /// Name of the controller's pod.
    pub pod_name: Option<String>,
    /// Name of that pod's node.
    pub node_name: Option<String>,
    /// Port of the webhook of evictions; 0 for none.
    pub webhook_port: u16,
}

/// Waits for the Lease, then acts until `stop` resolves. Ends with an error when the Lease is lost.
pub async fn run(client: Client, options: Options, stop: impl Future<Output = ()> + Send) -> Result<(), Error> {
    tokio::pin!(stop);
    let holder = format!("{}_{}", options.pod_name.as_deref().unwrap_or("controller"), uuid::Uuid::new_v4());
    let lease = tokio::select! {
        lease = lease::acquire(client.clone(), &holder, options.lease_duration) => lease?,
        () = &mut stop => return Ok(()),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(act(client, options, lease.proof()));
    let held = tokio::select! {
        held = lease.keep(&mut stop) => held,
        Some(ended) = tasks.join_next() => Err(ended.unwrap_or(Error::WatchEnded("a task of the controller"))),
    };
    // Nothing acts any more when another may.
    tasks.shutdown().await;
    held?.release().await
}

/// Watches and reconciles, for ever.
async fn act(client: Client, options: Options, lease: lease::Proof) -> Error {
    let cluster_id = cluster_id(&client).await;
    let queue: Arc<Queue<Key>> = Arc::default();
    let (sender, mut changes) = tokio::sync::mpsc::unbounded_channel();
    // The receiver lives as long as this function, and so do the watches: a send cannot fail.
    let on_change: OnChange = Arc::new(move |change| drop(sender.send(change)));
    let (world, watches) = World::new(&client, &on_change);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { select_all(watches).await.0 });
    {
        let (world, queue) = (Arc::clone(&world), Arc::clone(&queue));
        tasks.spawn(async move {
            while let Some(change) = changes.recv().await {
                dispatch(&world, &queue, &change);
            }
            Error::WatchEnded("every kind")
        });
    }
    let context = Arc::new(Context {
        events: Events::start(client.clone(), options.pod_name.clone()),
        client,
        lease,
        world,
        queue,
        notices: events::Notices::default(),
        pod_pauses: vm::pauses::Pauses::default(),
        disk_pauses: vm::pauses::Pauses::default(),
        cluster_id,
        answers_evictions: options.webhook_port != 0,
        pause_image: options.pause_image,
        millis_per_vcpu: options.millis_per_vcpu,
    });
    // One waits for all: a store wakes only the last of those who wait for it.
    let early = tokio::select! {
        ready = context.world.wait_until_ready() => ready.err(),
        Some(ended) = tasks.join_next() => Some(ended.unwrap_or(Error::WatchEnded("a task of the controller"))),
    };
    if let Some(error) = early {
        return error;
    }
    for _ in 0..WORKERS {
        tasks.spawn(work(Arc::clone(&context)));
    }
    if options.webhook_port != 0 {
        let own = options.pod_name.zip(options.node_name).map(|(pod, node)| OwnPod { pod, node });
        tasks.spawn(webhook::run(context, own, options.webhook_port));
    }
    match tasks.join_next().await {
        Some(Ok(error)) => error,
        _ => Error::WatchEnded("a task of the controller"),
    }
}

/// Takes one object after the other, of a world that is known.
async fn work(context: Arc<Context>) -> Error {
    loop {
        let key = context.queue.next().await;
        let result = reconcile(&context, &key).await;
        if let Err(error @ Error::LeaseLost { .. }) = result {
            return error;
        }
        match &result {
            Ok(Some(pause)) => context.queue.add_after(key.clone(), *pause),
            Ok(None) => {}
            Err(error) if error.is_outdated() => tracing::debug!(?key, %error, "changed meanwhile"),
            Err(error) => tracing::warn!(?key, %error, "failed"),
        }
        context.queue.done(&key, result.is_err());
    }
}

#[tracing::instrument(level = "debug", skip(context))]
async fn reconcile(context: &Context, key: &Key) -> Result<Option<Duration>, Error> {
    match key {
        Key::Vm(namespace, name) => vm::reconcile(context, namespace, name).await,
        Key::Disk(namespace, name) => disk::reconcile(context, namespace, name).await,
        Key::Hypervisor(name) => hypervisor::reconcile(context, name).await,
        Key::Image(namespace, name) => image::reconcile(context, namespace.as_deref(), name).await,
        Key::Pool(name) => pool::reconcile(context, name).await,
        Key::Network(namespace, name) => network::reconcile(context, namespace.as_deref(), name).await,
        Key::Class(name) => class::reconcile(context, name).await,
        Key::Budget(namespace) => budget::reconcile(context, namespace).await.map(|()| None),
    }
}

/// The UID of the namespace kube-system: the identity of the cluster.
async fn cluster_id(client: &Client) -> String {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut failures = 0;
    loop {
        match namespaces.get("kube-system").await {
            Ok(namespace) => {
                if let Some(uid) = namespace.metadata.uid {
                    return uid;
                }
            }
            Err(error) => tracing::warn!(%error, "the namespace kube-system cannot be read; tried again"),
        }
        tokio::time::sleep(queue::pause_after(failures)).await;
        failures += 1;
    }
}
