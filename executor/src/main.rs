//! `kubevmm-executor`: drives the libvirt of one host. One runs on every node, as a DaemonSet.
//!
//! # Rights
//! What it does at the API server, and nothing else:
//!
//! | API group | resource | verbs |
//! |---|---|---|
//! | `kubevmm.io` | virtualmachines, virtualmachinedisks | get, list, watch |
//! | `kubevmm.io` | virtualmachines/status, virtualmachinedisks/status | patch |
//! | `kubevmm.io` | virtualmachineclasses, virtualmachinestoragepools, virtualmachinenetworks, clustervirtualmachinenetworks, virtualmachineimages, clustervirtualmachineimages | list, watch |
//! | `kubevmm.io` | hypervisors | list, watch (its own, by field selector) |
//! | `kubevmm.io` | hypervisors/status | patch (its own) |
//! | core | nodes | list, watch (its own, by field selector) |
//! | core | namespaces `kube-system` | get |
//! | `coordination.k8s.io` | leases in `kubevmm-system` | get, create, update (its own, named as the node) |
//! | `events.k8s.io` | events | create, patch |

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kubevmm_executor::disk::Disks;
use kubevmm_executor::events::EventRecorder;
use kubevmm_executor::host::{Changes, Context};
use kubevmm_executor::hypervisor::{self, HostReport};
use kubevmm_executor::image::Images;
use kubevmm_executor::lease::Session;
use kubevmm_executor::lock::{HostLock, try_lock, wait_for_lock};
use kubevmm_executor::network::HostNetworks;
use kubevmm_executor::pool::Pools;
use kubevmm_executor::seed_pool::SeedPool;
use kubevmm_executor::store::Store;
use kubevmm_executor::{Error, health, libvirt, vm};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;

/// libvirt's events that a slow listener may lag behind before it reads everything anew.
const EVENTS: usize = 1024;
/// The pause before the API server is asked again, at the start.
const RETRY: Duration = Duration::from_secs(2);

/// Drives the libvirt of one host for KubeVMM: makes the VMs that are placed on its node real, and reports what it
/// finds. Guests keep running when it ends.
#[derive(Parser)]
#[command(version, about)]
struct Options {
    /// Name of the Kubernetes Node that this host is.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// libvirt to drive, such as qemu+ssh://host/system. When left out, the one whose socket is in the directory of
    /// --libvirt-run-dir.
    #[arg(long)]
    libvirt_uri: Option<String>,
    /// Directory of libvirt's sockets on the host: libvirt-sock (libvirtd, virtproxyd) is taken if it is there, or else
    /// virtqemud-sock.
    #[arg(long, default_value = "/run/libvirt")]
    libvirt_run_dir: PathBuf,
    /// The kubelet's directory of pods, for Secrets that the placement pods bring.
    #[arg(long, default_value = "/var/lib/kubelet/pods")]
    kubelet_pods_dir: PathBuf,
    /// File on the host that keeps a second executor out.
    #[arg(long, default_value = "/host/run/kubevmm-executor.lock")]
    lock_file: PathBuf,
    /// Seconds after which the controller counts this executor as lost, when its Lease is not renewed; it is renewed
    /// four times as often.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(4..=3600))]
    lease_duration_seconds: u32,
    /// Form of the log on standard error. Its level is set by RUST_LOG.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Port of /healthz and /readyz; 0 for none.
    #[arg(long, default_value_t = 0)]
    health_port: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    log_to_stderr(options.log_format);
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = run(options) => ended,
            signal = asked_to_end() => signal,
        }
    });
    // Calls that hang in libvirt must not hold up the end. Guests, and the Lease, stay as they are.
    runtime.shutdown_background();
    ended
}

fn log_to_stderr(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,kube_client=off"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn asked_to_end() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to end: guests keep running");
    Ok(())
}

async fn run(options: Options) -> anyhow::Result<()> {
    let client = kube::Client::try_default()
        .await
        .context("cannot find the API server: run in a cluster with a service account, or set KUBECONFIG")?;
    let duration = Duration::from_secs(options.lease_duration_seconds.into());
    let session = Session::start(client.clone(), &options.node_name, duration);
    if options.health_port != 0 {
        let listener = TcpListener::bind(("0.0.0.0", options.health_port)).await;
        let listener = listener.with_context(|| format!("cannot listen on port {}", options.health_port))?;
        tokio::spawn(health::serve(listener, session.clone()));
    }
    let _lock = lock(options.lock_file).await?;

    let cluster = cluster_id(&client).await;
    let (store, vms) = Store::start(&client, &options.node_name);
    store.ready().await;
    let address = options.libvirt_uri.map_or(libvirt::Address::RunDir(options.libvirt_run_dir), libvirt::Address::Uri);
    tracing::info!(node = options.node_name, libvirt = %address, "the executor has started");
    let (libvirt, events) = libvirt::Hypervisor::start(address, libvirt::Options::default());
    let recorder = EventRecorder::start(client.clone(), &options.node_name);
    let hypervisors = store.hypervisors.clone();
    let context = Context {
        node: options.node_name.as_str().into(),
        cluster: cluster.into(),
        report: HostReport::start(client.clone(), &options.node_name, hypervisors, recorder.clone()),
        events: recorder,
        client,
        libvirt,
        libvirt_events: broadcast::Sender::new(EVENTS),
        store,
        changes: Changes::default(),
    };
    let pools = Pools::new(context.clone());
    let images = Images::new(context.clone()).context("cannot make the HTTP client for images")?;
    let disks = Disks::new(context.clone(), pools.clone(), images.clone());
    let networks = HostNetworks::new(context.clone());
    let parts = vm::HostParts {
        storage: Arc::new(disks.clone()),
        networks: Arc::new(networks.clone()),
        seeds: Arc::new(SeedPool::new(context.clone())),
        pods_dir: options.kubelet_pods_dir,
    };
    let listeners = [
        tokio::spawn(hypervisor::run_inventory(context.clone(), session.clone())),
        tokio::spawn(pools.run(images.clone())),
        tokio::spawn(images.run()),
        tokio::spawn(disks.run()),
        tokio::spawn(networks.run()),
        tokio::spawn(vm::run(context.clone(), session.clone(), parts, vms)),
        tokio::spawn(hypervisor::forward_events(events, context.libvirt_events.clone())),
    ];
    // None of them ends by itself; when one has panicked, a new process is better than half of one.
    tokio::select! {
        (ended, _, _) = futures::future::select_all(listeners) => {
            ended.context("a part of the executor has failed")?;
            anyhow::bail!("a part of the executor has ended")
        }
        () = session.lost() => Err(Error::LeaseLost { name: options.node_name }.into()),
    }
}

/// Takes the lock of this host; waits for an executor that is still about to end.
async fn lock(path: PathBuf) -> anyhow::Result<HostLock> {
    match try_lock(&path) {
        Err(error @ Error::HostLocked { .. }) => tracing::warn!("{error}; waiting for it"),
        locked => return Ok(locked?),
    }
    Ok(tokio::task::spawn_blocking(move || wait_for_lock(&path)).await??)
}

/// The identity of the cluster; asked for until the API server answers.
async fn cluster_id(client: &kube::Client) -> String {
    let api = Api::<Namespace>::all(client.clone());
    loop {
        let error = match api.get("kube-system").await {
            Ok(namespace) => match namespace.metadata.uid {
                Some(uid) => return uid,
                None => Error::NoClusterId,
            },
            Err(error) => error.into(),
        };
        tracing::warn!(%error, "cannot read the identity of the cluster; trying again");
        tokio::time::sleep(RETRY).await;
    }
}
