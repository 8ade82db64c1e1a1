//! A lab of the benches' own: an API server, one host with libvirt, and Nodes that only the API server knows.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use kubevmm_lab::artifacts::Artifacts;
use kubevmm_lab::{Daemon, HostName, Lab, Options};
use serde_json::json;

use crate::api::{self, ApiServer};
use crate::cluster::work_tree;

/// A lab with the project's objects installed and none of its programs running.
pub struct Place {
    /// The lab.
    pub lab: &'static Lab,
    /// Its API server.
    pub api: ApiServer,
}

fn options() -> Options {
    Options {
        nodes: 1,
        dir: PathBuf::from("/run/kubevmm-bench"),
        tag: "bench".into(),
        network: Ipv4Addr::new(10, 91, 0, 0),
        pods: Ipv4Addr::new(10, 92, 0, 0),
        services: Ipv4Addr::new(10, 101, 0, 0),
        audit: true,
        ..Options::default()
    }
}

impl Place {
    /// Brings the lab up.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up() -> Result<Self> {
        Lab::clean(&options().dir)?;
        let lab: &'static Lab = Box::leak(Box::new(Lab::up(&options())?));
        let place = Self { lab, api: ApiServer::open(&lab.kubeconfig())? };
        // Nobody is to find out that most of the Nodes are not there.
        lab.stop_daemon(HostName::ControlPlane, Daemon::ControllerManager)?;
        for file in ["00-namespace.yaml", "10-crds.yaml"] {
            lab.kubectl(["apply", "--server-side", "-f", &work_tree().join("yamls").join(file).to_string_lossy()])?;
        }
        lab.kubectl(["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])?;
        // Who is the first to ask for a new kind is told to come back in a second: that is no part of any start.
        let kinds = lab.kubectl(["get", "crd", "-o", "jsonpath={.items[*].metadata.name}"])?;
        lab.kubectl(["get", "--all-namespaces", &kinds.trim().replace(' ', ",")])?;
        Ok(place)
    }

    /// Takes the lab down.
    ///
    /// # Errors
    /// When something cannot be undone.
    pub fn down(self) -> Result<()> {
        Ok(self.lab.down()?)
    }

    /// Makes a Node, and the Hypervisor that the controller would make for it.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn node(&self, name: &str) -> Result<()> {
        if self.api.get(api::NODE, "", name)?.is_none() {
            self.api.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))?;
        }
        self.api.apply(&json!({
            "apiVersion": "kubevmm.io/v1beta1", "kind": "Hypervisor", "metadata": {"name": name}, "spec": {},
        }))?;
        Ok(())
    }

    /// Starts an executor on this machine, for the Node `node` and the libvirt of `uri`.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn executor(&self, node: &str, uri: &str) -> Result<Running> {
        let lock = self.dir().join(format!("{node}.lock"));
        let words = ["--node-name", node, "--libvirt-uri", uri, "--lock-file"].map(AsRef::as_ref);
        self.project("kubevmm-executor", &[&words[..], &[lock.as_os_str()]].concat())
    }

    /// Starts a program of the project, as the cluster's administrator.
    ///
    /// # Errors
    /// When it has not been built.
    pub(super) fn project(&self, program: &str, arguments: &[&OsStr]) -> Result<Running> {
        let path = env::current_exe()?.with_file_name(program);
        fs::metadata(&path).with_context(|| format!("{}: build it: cargo build --release --bins", path.display()))?;
        self.start(&path, arguments)
    }

    /// Starts a program of Kubernetes, as the cluster's administrator.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn kubernetes(&self, program: &str, arguments: &[&OsStr]) -> Result<Running> {
        self.start(&Artifacts::locate()?.kubernetes.join(program), arguments)
    }

    /// Its output goes to a log in the lab's directory.
    fn start(&self, program: &Path, arguments: &[&OsStr]) -> Result<Running> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir().join(format!("{name}.log")))?;
        let child = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", self.lab.kubeconfig())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program.display().to_string())?;
        Ok(Running(child))
    }

    /// Where what belongs to a bench may lie; it goes with the lab.
    pub(super) fn dir(&self) -> PathBuf {
        self.lab.options().dir.clone()
    }
}

/// A process of a bench, which ends with it.
pub struct Running(Child);

impl Running {
    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Nothing comes of a bench whose process has ended.
    ///
    /// # Panics
    /// When it has.
    pub(super) fn must_run(&mut self) {
        let ended = self.0.try_wait();
        assert!(matches!(ended, Ok(None)), "a process of the bench has ended ({ended:?}): its log says why");
    }

    /// Waits for its end.
    pub(super) fn ends_well(mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself has left its log.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
