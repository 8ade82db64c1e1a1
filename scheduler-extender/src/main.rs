//! kubevmm-scheduler-extender: see the library.
//!
//! # Rights
//!
//! What the ServiceAccount needs for it, beside what kube-scheduler needs, which runs in the same pod:
//!
//! | group | resource | verbs | scope |
//! |---|---|---|---|
//! | kubevmm.io | hypervisors | list watch | cluster |
//! | (core) | pods | list watch | cluster: placement pods |
//! | coordination.k8s.io | leases | list watch | namespaces kubevmm-system and kube-node-lease |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use kubevmm_api::fit;
use kubevmm_scheduler_extender::cache::Cache;
use kubevmm_scheduler_extender::server::{self, Extender};
use kubevmm_scheduler_extender::{tls, watch};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Tells kube-scheduler which hosts can take a virtual machine, and how well each suits.
#[derive(Debug, Parser)]
#[command(name = "kubevmm-scheduler-extender", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer kube-scheduler
    Serve(Serve),
    /// Make a CA's certificate (ca.crt) and a certificate for the loopback that it has signed (tls.crt, tls.key)
    Certificate {
        /// Directory for the files
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Where kube-scheduler asks, over HTTPS
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDRESS")]
    address: SocketAddr,
    /// Where the kubelet probes, over HTTP: /livez and /readyz
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS")]
    health_address: SocketAddr,
    /// Directory that `certificate` has filled
    #[arg(long, value_name = "DIR")]
    tls_dir: PathBuf,
    /// Which hosts suit better: the emptier or the fuller
    #[arg(long, value_enum, default_value_t = Policy::Spread)]
    policy: Policy,
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// The emptier ones
    Spread,
    /// The fuller ones
    Pack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Certificate { dir } => Ok(tls::make(&dir)?),
        Command::Serve(options) => serve(options).await,
    }
}

async fn serve(options: Serve) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let policy = match options.policy {
        Policy::Spread => fit::Policy::Spread,
        Policy::Pack => fit::Policy::Pack,
    };
    let tls = tls::server(&options.tls_dir)?;
    let listener = server::listen(options.address).await?;
    let health = server::listen(options.health_address).await?;
    let client = kube::Client::try_default()
        .await
        .context("no way to the API server: run in a pod with a ServiceAccount, or set KUBECONFIG")?;
    let cache = Arc::new(Cache::default());
    let extender = Arc::new(Extender { cache: Arc::clone(&cache), policy });
    tracing::info!(address = %options.address, "answering kube-scheduler");
    tokio::select! {
        error = watch::watch(&client, &cache) => Err(error.into()),
        () = server::serve(listener, tls, extender) => Ok(()),
        () = server::serve_health(health, Arc::clone(&cache)) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
