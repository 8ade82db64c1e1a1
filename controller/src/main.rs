//! kubevmm-controller: the cluster-wide reconcilers of KubeVMM.
//!
//! # Rights
//!
//! What the ServiceAccount `kubevmm-controller` needs, and nothing else:
//!
//! | group | resource | verbs | scope |
//! |---|---|---|---|
//! | kubevmm.io | virtualmachines, virtualmachineimages, clustervirtualmachineimages, virtualmachinestoragepools, virtualmachinenetworks, clustervirtualmachinenetworks, virtualmachineclasses | get list watch patch | cluster |
//! | kubevmm.io | virtualmachinedisks | get list watch create patch | cluster |
//! | kubevmm.io | hypervisors | get list watch create | cluster |
//! | kubevmm.io | virtualmachines/status, virtualmachinedisks/status, virtualmachineimages/status, clustervirtualmachineimages/status, virtualmachinestoragepools/status, virtualmachinenetworks/status, clustervirtualmachinenetworks/status, hypervisors/status | patch | cluster |
//! | kubevmm.io | virtualmachines/finalizers | update | cluster: ownerReferences with blockOwnerDeletion |
//! | (core) | pods | get list watch create patch delete | cluster |
//! | (core) | pods/resize | patch | namespace kubevmm-system |
//! | (core) | nodes | get list watch | cluster |
//! | (core) | namespaces, only kube-system | get | cluster |
//! | admissionregistration.k8s.io | validatingwebhookconfigurations, only kubevmm-eviction | get list watch patch | cluster |
//! | policy | poddisruptionbudgets | list watch create | cluster |
//! | policy | poddisruptionbudgets, only kubevmm-virtual-machines | patch delete | cluster |
//! | events.k8s.io | events | create patch | cluster |
//! | coordination.k8s.io | leases | get list watch create | namespace kubevmm-system |
//! | coordination.k8s.io | leases, only kubevmm-controller | update | namespace kubevmm-system |
//! | coordination.k8s.io | leases | get list watch | namespace kube-node-lease: those of external hosts |

use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use kubevmm_controller::{Options, run};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Decides which host runs which virtual machine. One instance of it acts at a time.
#[derive(Debug, Parser)]
#[command(name = "kubevmm-controller", version)]
struct Arguments {
    /// Image of the placement pods
    #[arg(long, env = "KUBEVMM_PAUSE_IMAGE", value_name = "IMAGE")]
    pause_image: String,
    /// CPU that is requested for each virtual CPU of a VM which does not say it, nor its class: 1 for no overcommit
    #[arg(
        long,
        env = "KUBEVMM_CPU_REQUEST_PER_VCPU",
        default_value = "100m",
        value_name = "QUANTITY",
        value_parser = millis
    )]
    cpu_request_per_vcpu: u64,
    /// How long the controller's Lease lasts without being renewed
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(3..=600))]
    lease_duration_seconds: u64,
    /// Name of this pod, for Events and the Lease
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// Name of this pod's node, which the controller leaves after its VMs
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Port of the webhook that the API server asks before a placement pod is evicted; 0 for none
    #[arg(long, default_value_t = 9443, value_name = "PORT")]
    webhook_port: u16,
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Reads CPU such as 100m or 1, in thousandths.
fn millis(text: &str) -> Result<u64, String> {
    match kubevmm_api::Quantity(text.into()).millis().map_err(|error| error.to_string())? {
        millis @ 1..=1000 => Ok(millis),
        _ => Err("must be between 1m and 1: a virtual CPU takes no more than one of the host".into()),
    }
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
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end");
    };
    let client = kube::Client::try_default()
        .await
        .context("no way to the API server: run in a pod with a ServiceAccount, or set KUBECONFIG")?;
    let options = Options {
        pause_image: arguments.pause_image,
        millis_per_vcpu: arguments.cpu_request_per_vcpu,
        lease_duration: Duration::from_secs(arguments.lease_duration_seconds),
        pod_name: arguments.pod_name,
        node_name: arguments.node_name,
        webhook_port: arguments.webhook_port,
    };
    run(client, options, stop).await.context("the controller ends")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_given_as_a_quantity() {
        assert_eq!((millis("100m"), millis("1"), millis("0.25")), (Ok(100), Ok(1000), Ok(250)));
        assert!(millis("0").is_err() && millis("2").is_err() && millis("x").is_err());
    }
}
