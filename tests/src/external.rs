//! The lab's external host: libvirt without a kubelet, and the executor as a service would run it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::api::{self, ApiServer, Json};
use crate::cluster::{Cluster, EXECUTOR_LEASE_SECONDS, work_tree};
use crate::host::{Host, Process};
use crate::wait::{wait_for, within};

/// The host.
pub const EXTERNAL_HOST: &str = "h5";
/// Namespace of the Leases of Nodes.
pub const NODE_LEASES: &str = "kube-node-lease";
/// Who has the bootstrap token: `yamls/55-external-hosts.yaml`.
const GROUP: &str = "system:bootstrappers:kubevmm";
const TOKEN: (&str, &str) = ("abcdef", "0123456789abcdef");
/// The service: as systemd does it, begun anew whenever it ends.
const SERVICE: &str = "while [ -e /run/service/on ]; do \\
    /run/service/kubevmm-executor --external --bootstrap-kubeconfig=/run/service/bootstrap.kubeconfig \\\n    --kubeconfig=/var/lib/kubevmm-executor/kubeconfig $1; sleep 0.5; done";

/// An external host whose executor runs. It is one until [`External::leave`].
pub struct External {
    cluster: &'static Cluster,
    /// The host.
    pub host: Host,
}

impl External {
    /// Sets the host up, with a bootstrap token, and waits until it takes VMs.
    ///
    /// # Errors
    /// When it does not join.
    pub fn join(cluster: &'static Cluster) -> Result<Self> {
        let external = Self { cluster, host: cluster.host(EXTERNAL_HOST) };
        let (id, secret) = TOKEN;
        cluster.api.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
            "stringData": {"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true",
                           "auth-extra-groups": GROUP},
        }))?;
        // What a story that failed has left.
        external.stop()?;
        external.start()?;
        external.is_ready()?;
        cluster.kubectl(["uncordon", EXTERNAL_HOST])?;
        Ok(external)
    }

    /// Starts the service, as the boot of a host does.
    ///
    /// # Errors
    /// When the host is off.
    pub fn start(&self) -> Result<()> {
        // The host's /run, which a boot empties.
        let run = self.cluster.lab.options().dir.join(EXTERNAL_HOST).join("run/service");
        fs::create_dir_all(&run)?;
        let program = executor();
        let new = run.join("kubevmm-executor.new");
        fs::copy(&program, &new).with_context(|| format!("{}: run `make images`", program.display()))?;
        fs::rename(new, run.join("kubevmm-executor"))?;
        let mut bootstrap: Json = serde_json::from_slice(&fs::read(self.cluster.lab.kubeconfig())?)?;
        bootstrap["users"][0]["user"] = json!({"token": format!("{}.{}", TOKEN.0, TOKEN.1)});
        fs::write(run.join("bootstrap.kubeconfig"), bootstrap.to_string())?;
        fs::write(run.join("on"), "")?;
        fs::write(run.join("run"), SERVICE)?;
        let lease = format!("--lease-duration-seconds={EXECUTOR_LEASE_SECONDS}");
        let start = format!("setsid sh /run/service/run {lease} </dev/null >>/var/log/executor.log 2>&1 &");
        self.host.sh(&start).map(drop)
    }

    /// Ends the service.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self) -> Result<()> {
        self.host.sh("rm -f /run/service/on")?;
        wait_for("the external host's executor has ended", within(20), || match self.executor() {
            Some(executor) => executor.signal(Signal::SIGTERM).map(|()| None),
            None => Ok(Some(())),
        })
    }

    /// The executor's process.
    pub fn executor(&self) -> Option<Process> {
        self.host.executor()
    }

    /// Waits until the Node and the Hypervisor are ready, in the session of the Lease.
    ///
    /// # Errors
    /// When they do not get ready.
    pub fn is_ready(&self) -> Result<()> {
        let api = &self.cluster.api;
        wait_for("the external host is ready", within(60), || {
            let get = |kind, namespace| api.get(kind, namespace, EXTERNAL_HOST)?.context("there is none");
            let (node, hypervisor) = (get(api::NODE, "")?, get(api::HYPERVISOR, "")?);
            let lease = get(api::LEASE, NODE_LEASES)?;
            let session = &lease["spec"]["holderIdentity"];
            let tainted = node["spec"]["taints"].to_string().contains("unreachable");
            if api::is_true(&node, "Ready")
                && !tainted
                && api::is_true(&hypervisor, "Ready")
                && hypervisor["status"]["session"] == *session
            {
                return Ok(Some(()));
            }
            Err(anyhow!("{}, {}, {session}", node["status"], hypervisor["status"]))
        })
    }

    /// A client with the credential of a node: this host's, or a kubelet's.
    ///
    /// # Errors
    /// When the host has none.
    pub fn credential_of(&self, host: &Host) -> Result<ApiServer> {
        let own = host.name == self.host.name;
        let file = if own { "/var/lib/kubevmm-executor/kubeconfig" } else { "/etc/kubernetes/kubelet.kubeconfig" };
        let copy = self.cluster.state().join(format!("{}.kubeconfig", host.name));
        fs::write(&copy, host.sh(&format!("cat {file}"))?)?;
        ApiServer::open(&copy)
    }

    /// Takes the host out of the cluster.
    ///
    /// # Errors
    /// When something stays.
    pub fn leave(&self) -> Result<()> {
        self.stop()?;
        let api = &self.cluster.api;
        api.delete(api::NODE, "", EXTERNAL_HOST)?;
        for (kind, namespace) in [(api::NODE, ""), (api::HYPERVISOR, ""), (api::LEASE, NODE_LEASES)] {
            api.wait_gone(kind, namespace, EXTERNAL_HOST, within(60))?;
        }
        api.delete(api::SECRET, "kube-system", &format!("bootstrap-token-{}", TOKEN.0))?;
        self.host.sh("rm -rf /var/lib/kubevmm-executor /run/service").map(drop)
    }
}

/// The program, as it is in the image.
fn executor() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| work_tree().join("target"), PathBuf::from);
    target.join("release/kubevmm-executor")
}
