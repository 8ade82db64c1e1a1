//! The lab with the project installed: one for all stories.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kubevmm_lab::{HostName, Lab, Options, Timings};

use crate::api::{self, ApiServer, Json};
use crate::foreign;
use crate::host::{Host, Process};
use crate::install::Draft;
use crate::inventory::Inventory;
use crate::picture::Picture;
use crate::wait::within;

/// Namespace of the project's own pods.
pub const SYSTEM: &str = "kubevmm-system";
/// The image that guests of the stories boot from.
pub const GUEST_IMAGE: &str = "tiny";
/// Seconds after which an executor that is not heard of is given up; far shorter than by default.
pub const EXECUTOR_LEASE_SECONDS: u64 = 10;

static CLUSTER: OnceLock<Cluster> = OnceLock::new();

/// The lab with the project installed.
pub struct Cluster {
    /// The lab.
    pub lab: &'static Lab,
    /// Its API server.
    pub api: ApiServer,
    /// The public half of the stories' SSH key, as a line of `authorized_keys`.
    pub ssh_key: String,
    /// The private half.
    pub ssh_private_key: String,
    /// What lay on the hosts before any story.
    pub before: Inventory,
    /// What is not ours on the hosts, as it was before any story.
    foreign: Mutex<Picture>,
    state: PathBuf,
}

/// The third host with libvirt: cordoned but for the stories that need three ([`Cluster::spare_host`]).
pub const SPARE_HOST: &str = "h4";

/// The options of the stories' lab: beside the default one, with quick timings, one node without libvirt, and one host
/// with libvirt that is no node but in the stories about it.
fn options() -> Options {
    Options {
        nodes: 5,
        dir: setting("LAB_DIR", PathBuf::from("/run/kubevmm-e2e")),
        tag: setting("LAB_TAG", "e2e".into()),
        network: setting("LAB_NETWORK", Ipv4Addr::new(10, 87, 0, 0)),
        pods: setting("LAB_PODS", Ipv4Addr::new(10, 88, 0, 0)),
        services: setting("LAB_SERVICES", Ipv4Addr::new(10, 97, 0, 0)),
        no_libvirt: vec![HostName::Node(3)],
        external: vec![HostName::Node(5)],
        timings: Timings::Short,
        // More than a kubelet takes by default.
        max_pods: 200,
        // A Secret that is made after its pod is seen by the kubelet at its next look: every minute by default.
        kubelet_arg: vec!["--sync-frequency=5s".into()],
        ..Options::default()
    }
}

/// What the environment says, as to the program `lab`.
///
/// # Panics
/// When that is not to be understood: a lab of other options must not be taken for it.
fn setting<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    let parse = |text: String| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not to be understood"));
    std::env::var(name).ok().map_or(otherwise, parse)
}

/// While it is kept, the spare host takes VMs.
pub struct SpareHost<'a>(&'a Cluster);

impl Drop for SpareHost<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.kubectl(["cordon", SPARE_HOST]) {
            eprintln!("the spare host takes VMs still: {error:#}");
        }
    }
}

impl Cluster {
    /// The cluster of this run.
    ///
    /// # Panics
    /// Before [`Cluster::up`].
    pub fn get() -> &'static Self {
        CLUSTER.get().expect("the harness brings the cluster up before the first story")
    }

    /// Brings the lab up, installs the project and looks at what is there. With `KUBEVMM_KEEP_LAB` set, a lab that an
    /// earlier run has left is used again; `KUBEVMM_KEEP_LAB=renew` also brings the images of now to it.
    ///
    /// # Errors
    /// When the lab does not come up or the installation fails.
    pub fn up() -> Result<&'static Self> {
        let cluster = Self::make();
        if cluster.is_err() && !keep() {
            Lab::clean(&options().dir)?;
        }
        let cluster = cluster?;
        Ok(CLUSTER.get_or_init(|| cluster))
    }

    fn make() -> Result<Self> {
        let kept = keep().then(|| Lab::attach(&options().dir).ok()).flatten();
        let was_kept = kept.is_some();
        let lab: &'static Lab = Box::leak(Box::new(match kept {
            Some(lab) => lab,
            None => step("bring the lab up", || {
                Lab::clean(&options().dir)?;
                Ok(Lab::up(&options())?)
            })?,
        }));
        let state = options().dir.join("stories");
        fs::create_dir_all(&state)?;
        let api = ApiServer::open(&lab.kubeconfig())?;
        let (ssh_key, ssh_private_key) = ssh_keys(&state)?;
        let draft = Draft { lab, api: &api };
        let renew = std::env::var_os("KUBEVMM_KEEP_LAB").is_some_and(|value| value == "renew");
        if !was_kept || renew {
            step("import the images", || draft.import_images())?;
            step("install", || draft.apply())?;
            step("install again: nothing changes", || draft.applies_again_without_a_change())?;
            draft.shorten_time_outs()?;
        }
        if was_kept && renew {
            draft.restart_pods()?;
        }
        step("wait for the hosts", || draft.hosts_are_ready())?;
        lab.kubectl(["cordon", SPARE_HOST])?;
        let foreign = step("plant what is not ours", || foreign::plant(&draft.libvirt_hosts()))?;
        step("wait for what is reserved for it", || draft.is_reserved())?;
        let before = Inventory::take(&draft.libvirt_hosts())?;
        step("apply the defaults", || draft.defaults())?;
        Ok(Self { lab, api, ssh_key, ssh_private_key, before, foreign: Mutex::new(foreign), state })
    }

    /// Takes the lab down, unless it is to be kept.
    ///
    /// # Errors
    /// When something cannot be undone.
    pub fn down(&self) -> Result<()> {
        if keep() {
            return Ok(());
        }
        Ok(Lab::attach(&options().dir)?.down()?)
    }

    /// A host by its name.
    ///
    /// # Panics
    /// For a name that no host has: the story is wrong.
    pub fn host(&self, name: &str) -> Host {
        Host::new(self.lab, name.parse().unwrap())
    }

    /// Lets VMs onto the spare host, for as long as what is returned is kept.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn spare_host(&self) -> Result<SpareHost<'_>> {
        self.kubectl(["uncordon", SPARE_HOST])?;
        Ok(SpareHost(self))
    }

    /// The nodes with libvirt.
    pub fn libvirt_hosts(&self) -> Vec<Host> {
        libvirt_hosts(self.lab)
    }

    /// Every node.
    pub fn nodes(&self) -> Vec<Host> {
        self.lab.options().kubelet_names().into_iter().map(|name| Host::new(self.lab, name)).collect()
    }

    /// Where the lab's switch serves a file, or a bad server.
    pub fn url(&self, path: &str) -> String {
        self.lab.file_url(path)
    }

    /// kubectl, as the administrator.
    ///
    /// # Errors
    /// When it fails: with what it said.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        Ok(self.lab.kubectl(arguments)?)
    }

    /// The controller's process.
    ///
    /// # Errors
    /// When none runs.
    pub fn controller(&self) -> Result<Process> {
        self.nodes().iter().find_map(Host::controller).context("no controller runs")
    }

    /// The scheduler extender's process.
    ///
    /// # Errors
    /// When none runs.
    pub fn extender(&self) -> Result<Process> {
        self.nodes().iter().find_map(Host::extender).context("no scheduler extender runs")
    }

    /// SIGKILL of the controller.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill_controller(&self) -> Result<()> {
        self.controller()?.signal(nix::sys::signal::Signal::SIGKILL)
    }

    /// SIGKILL of the controller; its pod is replaced, so that no back-off adds up over many kills.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill_and_replace_controller(&self) -> Result<()> {
        let killed = self.kill_controller();
        self.replace_pods(|pod| !is_daemon(pod))?;
        killed
    }

    /// SIGKILL of a host's executor; its pod is replaced, so that no back-off adds up over many kills.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill_and_replace_executor(&self, host: &Host) -> Result<()> {
        let killed = host.kill_executor();
        let node = host.name.to_string();
        self.replace_pods(|pod| is_daemon(pod) && pod["spec"]["nodeName"] == node.as_str())?;
        killed
    }

    fn replace_pods(&self, which: impl Fn(&Json) -> bool) -> Result<()> {
        for pod in self.api.list(api::POD, SYSTEM)?.iter().filter(|pod| which(pod)) {
            self.api.delete_now(api::POD, SYSTEM, pod["metadata"]["name"].as_str().unwrap_or_default())?;
        }
        Ok(())
    }

    /// Waits until controller and executors run and every host with libvirt is ready.
    ///
    /// # Errors
    /// When that takes more than two minutes.
    pub fn is_whole(&self) -> Result<()> {
        Draft { lab: self.lab, api: &self.api }.hosts_are_ready()
    }

    /// How many QEMU processes of this UUID run on all hosts.
    pub fn instances(&self, uuid: &str) -> usize {
        self.libvirt_hosts().iter().filter(|host| host.qemus().contains_key(uuid)).count()
    }

    /// What is not ours is as it was before any story.
    ///
    /// # Errors
    /// When it is not: with what it was and is.
    pub fn foreign_is_untouched(&self) -> Result<()> {
        let now = foreign::picture(&self.libvirt_hosts())?;
        now.is_the_same_as(&self.foreign.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A host has crashed, and what is not ours was started again there: but for its id, it must be as it was.
    ///
    /// # Errors
    /// When it is not: with what it was and is.
    pub fn foreign_has_restarted_on(&self, host: &Host) -> Result<()> {
        let now = foreign::picture(&self.libvirt_hosts())?;
        let mut before = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        foreign::forgive_restart(&mut before, host, &now);
        now.is_the_same_as(&before)
    }

    /// A directory for files of the stories.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Deletes what [`Cluster::up`] applied for the stories.
    ///
    /// # Errors
    /// When it does not go.
    pub fn remove_defaults(&self) -> Result<()> {
        let ours = [(api::CLUSTER_IMAGE, GUEST_IMAGE), (api::CLUSTER_NETWORK, "default"), (api::POOL, "default")];
        for (kind, name) in ours {
            self.api.delete(kind, "", name)?;
        }
        for (kind, name) in ours {
            self.api.wait_gone(kind, "", name, within(60))?;
        }
        for class in self.api.list(api::CLASS, "")? {
            self.api.delete(api::CLASS, "", class["metadata"]["name"].as_str().unwrap_or_default())?;
        }
        Ok(())
    }

    /// Applies the defaults, as [`Cluster::up`] did.
    ///
    /// # Errors
    /// When they do not get ready.
    pub fn apply_defaults(&self) -> Result<()> {
        Draft { lab: self.lab, api: &self.api }.defaults()
    }

    /// Applies `yamls/` and shortens the time-outs.
    ///
    /// # Errors
    /// Those of kubectl.
    pub fn install(&self) -> Result<()> {
        let draft = Draft { lab: self.lab, api: &self.api };
        draft.apply()?;
        draft.shorten_time_outs()
    }
}

pub(crate) fn is_daemon(pod: &Json) -> bool {
    pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet"
}

pub(crate) fn libvirt_hosts(lab: &'static Lab) -> Vec<Host> {
    let names = lab.options().kubelet_names().into_iter().filter(|&name| lab.options().has_libvirt(name));
    names.map(|name| Host::new(lab, name)).collect()
}

/// Whether the lab outlives this run.
fn keep() -> bool {
    std::env::var_os("KUBEVMM_KEEP_LAB").is_some()
}

/// The project's work tree.
pub fn work_tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn step<T>(what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("  {what} ...");
    let start = Instant::now();
    let result = run().with_context(|| what.to_owned());
    eprintln!("  {what}: {:.1} s", start.elapsed().as_secs_f32());
    result
}

fn ssh_keys(state: &Path) -> Result<(String, String)> {
    let file = state.join("id_ed25519");
    if !file.exists() {
        let output = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "story", "-f"])
            .arg(&file)
            .output()
            .context("run ssh-keygen (package openssh-client)")?;
        if !output.status.success() {
            bail!("ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let public = fs::read_to_string(file.with_extension("pub"))?;
    Ok((public.trim().to_owned(), fs::read_to_string(&file)?))
}
