//! `kubevmm-executor`: drives the libvirt of one host. One runs on every node, as a DaemonSet; on a host that is no
//! cluster node, as a service (`--external`).
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
//!
//! An external host acts by a node credential. Beside the above, but for the Lease in `kubevmm-system`, it has what the
//! Node authoriser gives to its node, and uses of it:
//!
//! | API group | resource | verbs |
//! |---|---|---|
//! | core | nodes | get, create (its own) |
//! | core | nodes/status | patch (its own) |
//! | core | pods | list, watch, delete (bound to it, by field selector) |
//! | core | pods/status | patch (bound to it) |
//! | core | secrets | get (of pods that are bound to it) |
//! | `coordination.k8s.io` | leases in `kube-node-lease` | get, create, update (its own) |
//! | `certificates.k8s.io` | certificatesigningrequests | create, get, list, watch |

use std::collections::BTreeMap;
use std::future::pending;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, ValueEnum};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kubevmm_executor::disk::Disks;
use kubevmm_executor::events::EventRecorder;
use kubevmm_executor::host::{Changes, Context};
use kubevmm_executor::hypervisor::{self, HostReport};
use kubevmm_executor::image::Images;
use kubevmm_executor::lease::{LeaseOf, Session};
use kubevmm_executor::lock::{HostLock, try_lock, wait_for_lock};
use kubevmm_executor::network::HostNetworks;
use kubevmm_executor::node::credential::{self, Credential};
use kubevmm_executor::node::status::Host;
use kubevmm_executor::node::{self, machine};
use kubevmm_executor::pool::Pools;
use kubevmm_executor::seed_pool::SeedPool;
use kubevmm_executor::store::Store;
use kubevmm_executor::{Error, health, libvirt, vm};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use vm::Secrets;

/// libvirt's events that a slow listener may lag behind before it reads everything anew.
const EVENTS: usize = 1024;
/// The lock file, as a pod sees it.
const LOCK_FILE: &str = "/host/run/kubevmm-executor.lock";
/// The lock file, on the host itself.
const EXTERNAL_LOCK_FILE: &str = "/run/kubevmm-executor.lock";
/// The pause before the API server is asked again, at the start.
const RETRY: Duration = Duration::from_secs(2);

/// Drives the libvirt of one host for KubeVMM: makes the VMs that are placed on its node real, and reports what it
/// finds. Guests keep running when it ends.
#[derive(Parser)]
#[command(version, about)]
struct Options {
    /// Name of the Kubernetes Node that this host is. Of an external host: by default the host's name.
    #[arg(long, env = "NODE_NAME", required_unless_present = "external")]
    node_name: Option<String>,
    #[command(flatten)]
    external: ExternalOptions,
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
    /// File on the host that keeps a second executor out. By default /host/run/kubevmm-executor.lock, and of an external
    /// host /run/kubevmm-executor.lock.
    #[arg(long)]
    lock_file: Option<PathBuf>,
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

/// A host without a kubelet.
#[derive(Args)]
#[command(next_help_heading = "External host")]
struct ExternalOptions {
    /// This host is no cluster node: it registers itself as one, with a taint, and answers for its VMs' pods
    #[arg(long)]
    external: bool,
    /// The kubeconfig file of the node credential; written when there is none, and renewed
    #[arg(
        long,
        env = "KUBEVMM_KUBECONFIG",
        default_value = "/var/lib/kubevmm-executor/kubeconfig",
        requires = "external"
    )]
    kubeconfig: PathBuf,
    /// A kubeconfig file with a bootstrap token, to ask for the node credential
    #[arg(
        long,
        env = "KUBEVMM_BOOTSTRAP_KUBECONFIG",
        default_value = "/etc/kubevmm/bootstrap.kubeconfig",
        requires = "external"
    )]
    bootstrap_kubeconfig: PathBuf,
    /// The address by which others reach this host; by default the one by which it reaches the API server
    #[arg(long, env = "KUBEVMM_NODE_ADDRESS", requires = "external")]
    node_address: Option<IpAddr>,
    /// A label of the Node when it is made, such as zone=a; may be given several times
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = label, requires = "external")]
    node_labels: Vec<(String, String)>,
    /// How many placement pods the Node takes
    #[arg(long, default_value_t = 1000, requires = "external")]
    max_pods: u32,
}

fn label(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(key, _)| !key.is_empty());
    parts.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "KEY=VALUE is needed".to_owned())
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

/// What this executor acts by at the API server.
struct Identity {
    node: String,
    client: kube::Client,
    lease: LeaseOf,
    secrets: Secrets,
    external: Option<External>,
}

/// A host without a kubelet.
struct External {
    host: Host,
    credential: Credential,
}

impl Identity {
    async fn of(options: &Options) -> anyhow::Result<Self> {
        if options.external.external {
            return Self::external(options).await;
        }
        let node = options.node_name.clone().unwrap_or_default();
        let client = kube::Client::try_default()
            .await
            .context("cannot find the API server: run in a cluster with a service account, or set KUBECONFIG")?;
        let secrets = Secrets::PodsDir(options.kubelet_pods_dir.clone());
        Ok(Self { lease: LeaseOf::pod(&node), node, client, secrets, external: None })
    }

    async fn external(options: &Options) -> anyhow::Result<Self> {
        let node = node::named(options.node_name.clone().unwrap_or_else(machine::host_name))?;
        let external = &options.external;
        let (kubeconfig, bootstrap) = (external.kubeconfig.clone(), external.bootstrap_kubeconfig.clone());
        let credential = Credential { node: node.clone(), kubeconfig, bootstrap };
        let config = credential.config().await?;
        let address = match external.node_address {
            Some(address) => address,
            None => node::own_address(&config.cluster_url).await?,
        };
        let client = credential::client(&credential.kubeconfig, config)?;
        let host = Host {
            name: node.clone(),
            address,
            labels: external.node_labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            max_pods: external.max_pods,
            info: machine::info(&server_version(&client).await),
        };
        let registered = node::register(&client, &host).await?;
        let lease = LeaseOf::external(&node, node::owner(&registered));
        let external = Some(External { host, credential });
        Ok(Self { node, lease, secrets: Secrets::Api(client.clone()), client, external })
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let at = if options.external.external { EXTERNAL_LOCK_FILE } else { LOCK_FILE };
    // Before all else on an external host: two executors must not ask for a credential at once.
    let early_lock = if options.external.external { Some(lock(options.lock_file(at)).await?) } else { None };
    let Identity { node, client, lease, secrets, external } = Identity::of(&options).await?;
    let duration = Duration::from_secs(options.lease_duration_seconds.into());
    let session = Session::start(client.clone(), lease, duration);
    if options.health_port != 0 {
        let listener = TcpListener::bind(("0.0.0.0", options.health_port)).await;
        let listener = listener.with_context(|| format!("cannot listen on port {}", options.health_port))?;
        tokio::spawn(health::serve(listener, session.clone()));
    }
    let _lock = match early_lock {
        Some(lock) => lock,
        None => lock(options.lock_file(at)).await?,
    };

    let (store, vms) = Store::start(&client, &node);
    let (cluster, ()) = tokio::join!(cluster_id(&client), store.ready());
    let address = options.libvirt_uri.map_or(libvirt::Address::RunDir(options.libvirt_run_dir), libvirt::Address::Uri);
    tracing::info!(node, libvirt = %address, "the executor has started");
    let (libvirt, events) = libvirt::Hypervisor::start(address, libvirt::Options::default());
    let recorder = EventRecorder::start(client.clone(), &node);
    let hypervisors = store.hypervisors.clone();
    let context = Context {
        node: node.as_str().into(),
        cluster: cluster.into(),
        report: HostReport::start(client.clone(), &node, hypervisors, recorder.clone()),
        events: recorder,
        client: client.clone(),
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
        secrets,
    };
    let mut listeners = vec![
        tokio::spawn(hypervisor::run_inventory(context.clone(), session.clone())),
        tokio::spawn(pools.run(images.clone())),
        tokio::spawn(images.run()),
        tokio::spawn(disks.run()),
        tokio::spawn(networks.run()),
        tokio::spawn(vm::run(context.clone(), session.clone(), parts, vms)),
        tokio::spawn(hypervisor::forward_events(events, context.libvirt_events.clone())),
    ];
    if let Some(external) = &external {
        listeners.push(tokio::spawn(node::pods::run(context.clone(), external.host.clone())));
    }
    let node_ended = async {
        match &external {
            Some(external) => node::run(context.clone(), external.host.clone(), session.clone()).await,
            None => pending().await,
        }
    };
    let renewed = async {
        match &external {
            Some(external) => external.credential.renewed(&client).await,
            None => pending().await,
        }
    };
    // None of them ends by itself; when one has panicked, a new process is better than half of one.
    tokio::select! {
        (ended, _, _) = futures::future::select_all(listeners) => {
            ended.context("a part of the executor has failed")?;
            anyhow::bail!("a part of the executor has ended")
        }
        ended = node_ended => Ok(ended?),
        renewed = renewed => {
            renewed?;
            tracing::info!("the node credential was renewed: beginning anew with it, guests keep running");
            Ok(())
        }
        () = session.lost() => Err(Error::LeaseLost { name: node }.into()),
    }
}

impl Options {
    fn lock_file(&self, otherwise: &str) -> PathBuf {
        self.lock_file.clone().unwrap_or_else(|| otherwise.into())
    }
}

/// The API server's version, such as v1.36.3; asked for until it answers.
async fn server_version(client: &kube::Client) -> String {
    loop {
        match client.apiserver_version().await {
            Ok(version) => return version.git_version,
            Err(error) => tracing::warn!(%error, "cannot reach the API server; trying again"),
        }
        tokio::time::sleep(RETRY).await;
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
