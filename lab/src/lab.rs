//! A lab as a whole: up, down, and what is done with its hosts.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::sys::inotify::{InitFlags, Inotify};
use tracing::info;

use crate::{
    Daemon, Error, HostName, Options, ProcessId, Result,
    artifacts::{Artifacts, join},
    command::{self, program},
    error::FileContext as _,
    host::Host,
    pki, process,
    remains::{self, is_up, lock, remove, remove_rest},
    switch,
};

/// The name of the guest image on the file server.
pub const GUEST_IMAGE: &str = "tiny.qcow2";

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    options: Options,
    artifacts: Artifacts,
}

/// What the API server logs of each request: who, what, when, and how it ended.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
"omitStages": ["RequestReceived", "ResponseStarted"], "rules": [{"level": "Metadata"}]}"#;

impl Lab {
    /// Brings a lab up, or adds to one that is up what is missing. Builds what the cache does not have. Returns when
    /// all nodes are Ready. What an earlier, broken-off run or a reboot of the machine has left is cleaned first.
    ///
    /// # Errors
    /// When something does not start; the error names the log to look into. The next `up` or `down` cleans.
    pub fn up(options: &Options) -> Result<Self> {
        require_root()?;
        options.check()?;
        let artifacts = Artifacts::prepare()?;
        let _lock = lock(&options.dir)?;
        let mut lab = Self { options: options.clone(), artifacts };
        match Options::load(&options.dir) {
            Ok(before) if is_up(&before) => lab.options = added_to(&before, options)?,
            Ok(before) => {
                info!("cleaning what a broken-off run left");
                remove(&before)?;
            }
            Err(Error::NoLab(_)) => remove_rest(options)?,
            Err(error) => return Err(error),
        }
        lab.bring_up()?;
        Ok(lab)
    }

    /// A lab that is up already.
    ///
    /// # Errors
    /// [`Error::NoLab`] when there is none in `dir`.
    pub fn attach(dir: &Path) -> Result<Self> {
        let options = Options::load(dir)?;
        if !is_up(&options) {
            return Err(Error::NoLab(dir.to_owned()));
        }
        Ok(Self { options, artifacts: Artifacts::locate()? })
    }

    /// Ends a lab, whole or broken, and takes away everything that it made but the cache.
    ///
    /// # Errors
    /// When a process does not end, or a file cannot be removed.
    pub fn down(&self) -> Result<()> {
        Self::clean(&self.options.dir)
    }

    /// As [`Lab::down`], of whatever is left in `dir`; nothing is no error.
    ///
    /// # Errors
    /// When a process does not end, or a file cannot be removed.
    pub fn clean(dir: &Path) -> Result<()> {
        require_root()?;
        let _lock = lock(dir)?;
        match Options::load(dir) {
            Ok(options) => remove(&options)?,
            Err(Error::NoLab(_)) => remove_rest(&Options { dir: dir.to_owned(), ..Options::default() })?,
            Err(error) => return Err(error),
        }
        let lock = remains::lock_path(dir);
        fs::remove_file(&lock).file("remove", lock)
    }

    fn bring_up(&self) -> Result<()> {
        let options = &self.options;
        let shared = options.disks().join("shared");
        for dir in [&options.dir, &shared] {
            fs::create_dir_all(dir).file("create", dir)?;
        }
        let mark = remains::disks_mark(options);
        fs::write(&mark, "").file("write", mark)?;
        options.save()?;
        pki::make_cluster(options)?;
        if options.audit {
            let policy = options.dir.join("pki/audit.json");
            fs::write(&policy, AUDIT_POLICY).file("write", policy)?;
        }
        self.check_inotify()?;
        info!("starting the switch");
        switch::start(options)?;
        let served = switch::served_dir(options).join(GUEST_IMAGE);
        if !served.is_symlink() {
            std::os::unix::fs::symlink(&self.artifacts.guest_image, &served).file("create", served)?;
        }
        let names: Vec<_> = options.node_names().iter().map(HostName::to_string).collect();
        info!("booting cp, {}", names.join(", "));
        self.start_hosts(&options.node_names())?;
        info!("waiting until the nodes are Ready");
        self.wait_ready(&options.kubelet_names())?;
        let mark = remains::up_mark(options);
        fs::write(&mark, process::boot_id()).file("write", mark)?;
        info!("the lab is up");
        Ok(())
    }

    /// The limit is the machine's for all processes of a user, and the lab does not change it.
    fn check_inotify(&self) -> Result<()> {
        let needed = |name: HostName| match self.host(name).init() {
            Some(_) => 0,
            None if name.is_control_plane() => 16,
            None => 12,
        };
        let names = self.options.node_names();
        let needed = names.into_iter().map(needed).sum::<usize>() + needed(HostName::ControlPlane);
        // Held together, and let go at once.
        let instances: nix::Result<Vec<_>> = (0..needed).map(|_| Inotify::init(InitFlags::IN_CLOEXEC)).collect();
        instances.map(drop).map_err(|_| Error::Inotify(needed))
    }

    /// Boots the control plane and nodes side by side, those that are not up.
    fn start_hosts(&self, nodes: &[HostName]) -> Result<()> {
        thread::scope(|scope| {
            let control_plane = self.host(HostName::ControlPlane);
            let boots: Vec<_> = nodes.iter().map(|name| scope.spawn(|| self.start_node_until_kubelet(*name))).collect();
            let mut result = self.boot_if_down(control_plane).and_then(|()| self.start_daemons(control_plane, None));
            for boot in boots {
                result = result.and(join(boot));
            }
            result
        })?;
        // A kubelet that starts before the API server backs off.
        let mut kubelets = nodes.iter().filter(|name| self.options.has_kubelet(**name));
        kubelets.clone().try_for_each(|name| self.host(*name).start_daemon(Daemon::Kubelet))?;
        kubelets.try_for_each(|name| self.host(*name).wait_daemon(Daemon::Kubelet))
    }

    fn start_node_until_kubelet(&self, name: HostName) -> Result<()> {
        let host = self.host(name);
        self.boot_if_down(host)?;
        self.start_daemons(host, Some(Daemon::Kubelet))?;
        if self.options.has_kubelet(name) { host.import_own_images(&self.artifacts) } else { Ok(()) }
    }

    fn boot_if_down(&self, host: Host<'_>) -> Result<()> {
        if host.init().is_some() { Ok(()) } else { host.boot(&self.artifacts) }
    }

    /// Starts the daemons of a host up to one that is left out.
    fn start_daemons(&self, host: Host<'_>, until: Option<Daemon>) -> Result<()> {
        let daemons = Daemon::of(&self.options, host.name).into_iter().take_while(|daemon| Some(*daemon) != until);
        for daemon in daemons {
            host.start_daemon(daemon)?;
            host.wait_daemon(daemon)?;
        }
        Ok(())
    }

    fn host(&self, name: HostName) -> Host<'_> {
        Host::new(&self.options, name)
    }

    /// What was chosen about this lab.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// All hosts that were ever booted, whether they are up or not: `cp` first.
    pub fn hosts(&self) -> Vec<HostName> {
        let mut hosts = vec![HostName::ControlPlane];
        let nodes = (1..=crate::address::MAX_HOSTS).map(HostName::Node);
        hosts.extend(nodes.filter(|name| self.options.host_dir(*name).is_dir()));
        hosts
    }

    /// The nodes that are up: external hosts are none of the lab's.
    pub fn running_nodes(&self) -> Vec<HostName> {
        let mut hosts = self.hosts();
        hosts.retain(|name| self.options.has_kubelet(*name) && self.host(*name).init().is_some());
        hosts
    }

    /// The cluster administrator's kubeconfig. It works on the machine and in the hosts.
    pub fn kubeconfig(&self) -> PathBuf {
        self.options.dir.join("admin.kubeconfig")
    }

    /// The URL of a file on the file server, as the hosts and their pods reach it.
    pub fn file_url(&self, name: &str) -> String {
        format!("http://{}:{}/{name}", self.options.switch_address(), switch::FILES_PORT)
    }

    /// The directory of the files that the file server serves: what is put there is served at once.
    pub fn served_dir(&self) -> PathBuf {
        switch::served_dir(&self.options)
    }

    /// The guest image.
    pub fn guest_image(&self) -> &Path {
        &self.artifacts.guest_image
    }

    /// `kubectl` as the cluster's administrator, for callers that want more than its output.
    pub fn kubectl_command(&self) -> Command {
        let mut command = program(self.artifacts.kubernetes.join("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Runs `kubectl` as the cluster's administrator.
    ///
    /// # Errors
    /// [`Error::Command`] with what it wrote to standard error.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        command::text(self.kubectl_command().args(arguments))
    }

    /// Runs `kubectl` with a text on its standard input, for example a manifest for `apply -f -`.
    ///
    /// # Errors
    /// [`Error::Command`] with what it wrote to standard error.
    pub fn kubectl_with_input<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Result<String> {
        let output = command::feed(self.kubectl_command().args(arguments), input.as_bytes())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command inside a host, to which program and arguments are to be added.
    ///
    /// # Errors
    /// [`Error::HostDown`].
    pub fn command(&self, host: HostName) -> Result<Command> {
        self.host(host).enter()
    }

    /// Runs a program inside a host.
    ///
    /// # Errors
    /// [`Error::HostDown`], or [`Error::Command`] with what it wrote to standard error.
    pub fn exec<S: AsRef<OsStr>>(&self, host: HostName, words: impl IntoIterator<Item = S>) -> Result<String> {
        command::text(self.command(host)?.args(words))
    }

    /// Runs `virsh` inside a host, on its own libvirtd.
    ///
    /// # Errors
    /// [`Error::HostDown`], or [`Error::Command`] with what it wrote to standard error.
    pub fn virsh<S: AsRef<OsStr>>(&self, host: HostName, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        command::text(self.virsh_command(host)?.args(arguments))
    }

    /// `virsh` inside a host, to which arguments are to be added.
    ///
    /// # Errors
    /// [`Error::HostDown`].
    pub fn virsh_command(&self, host: HostName) -> Result<Command> {
        let mut command = self.command(host)?;
        command.args(["virsh", "-q", "-c", "qemu:///system"]);
        Ok(command)
    }

    /// The libvirt socket of a host, as it is seen from the machine.
    pub fn libvirt_socket(&self, host: HostName) -> PathBuf {
        self.host(host).run("libvirt/libvirt-sock")
    }

    /// The log of a host's daemon, as it is seen from the machine.
    pub fn log(&self, host: HostName, daemon: Daemon) -> PathBuf {
        self.host(host).log(daemon)
    }

    /// The pid of a daemon inside its host; `None` when it does not run.
    pub fn daemon_pid(&self, host: HostName, daemon: Daemon) -> Option<i32> {
        self.host(host).daemon(daemon).map(|process| process.pid)
    }

    /// The QEMU process of a running domain, by its pid inside the host; `None` when there is none.
    pub fn qemu(&self, host: HostName, domain: &str) -> Option<ProcessId> {
        let host = self.host(host);
        let pid = fs::read_to_string(host.run(&format!("libvirt/qemu/{domain}.pid"))).ok()?;
        ProcessId::now(&host.proc().ok()?, pid.trim().parse().ok()?)
    }

    /// Sends a signal (`TERM`, `KILL`, `STOP`, ..) to a process of a host, by its pid there.
    ///
    /// # Errors
    /// [`Error::HostDown`], or [`Error::Command`] when there is no such process.
    pub fn signal(&self, host: HostName, pid: i32, signal: &str) -> Result<()> {
        self.host(host).signal(pid, signal)
    }

    /// The sha256 of a file in a host, in hexadecimal.
    ///
    /// # Errors
    /// When the host is down, or the file cannot be read.
    pub fn sha256(&self, host: HostName, path: &str) -> Result<String> {
        let line = self.exec(host, ["sha256sum", "--", path])?;
        Ok(line.split_ascii_whitespace().next().unwrap_or_default().trim_start_matches('\\').to_owned())
    }

    /// All files below a directory of a host, by their paths from it, in order; none if there is no such directory.
    ///
    /// # Errors
    /// When the host is down.
    pub fn files(&self, host: HostName, dir: &str) -> Result<Vec<String>> {
        let script = r#"cd "$1" 2>/dev/null && find . -type f -printf '%P\n' | LC_ALL=C sort || :"#;
        Ok(self.exec(host, ["sh", "-c", script, "sh", dir])?.lines().map(str::to_owned).collect())
    }

    /// Puts an image archive into a host's containerd.
    ///
    /// # Errors
    /// When the host is down, or the archive is none.
    pub fn import_image(&self, host: HostName, archive: &Path) -> Result<()> {
        self.host(host).import(archive)
    }

    /// Puts an image archive into the containerd of every node that is up.
    ///
    /// # Errors
    /// When the archive is none.
    pub fn import_image_everywhere(&self, archive: &Path) -> Result<()> {
        self.running_nodes().into_iter().try_for_each(|host| self.import_image(host, archive))
    }

    /// Boots a host that is down, or a new one, and waits until it is ready; of an external host, until its libvirt is.
    ///
    /// # Errors
    /// [`Error::HostUp`], or when something does not start.
    pub fn start_host(&self, name: HostName) -> Result<()> {
        if name.is_control_plane() {
            let host = self.host(name);
            host.boot(&self.artifacts)?;
            return self.start_daemons(host, None);
        }
        if self.host(name).init().is_some() {
            return Err(Error::HostUp(name.to_string()));
        }
        self.start_node_until_kubelet(name)?;
        if !self.options.has_kubelet(name) {
            return Ok(());
        }
        self.start_daemon(name, Daemon::Kubelet)?;
        self.wait_ready(&[name])
    }

    /// Crashes a host: SIGKILL to its process 1, with which all others go, QEMU and containers too. Its disk stays.
    ///
    /// # Errors
    /// [`Error::HostDown`], or when its processes do not end.
    pub fn kill_host(&self, name: HostName) -> Result<()> {
        self.host(name).kill()
    }

    /// Takes the host's network cable away (`false`) or plugs it in again (`true`).
    ///
    /// # Errors
    /// When the host is down.
    pub fn set_link(&self, name: HostName, up: bool) -> Result<()> {
        self.host(name).require_init()?;
        switch::set_link(&self.options, name, up)
    }

    /// Starts a daemon and waits until it is ready.
    ///
    /// # Errors
    /// When the host has no such daemon, or it does not become ready.
    pub fn start_daemon(&self, name: HostName, daemon: Daemon) -> Result<()> {
        let host = self.host(name);
        host.start_daemon(daemon)?;
        host.wait_daemon(daemon)
    }

    /// Stops a daemon: SIGTERM, after four seconds SIGKILL.
    ///
    /// # Errors
    /// When the host has no such daemon, or it does not end.
    pub fn stop_daemon(&self, name: HostName, daemon: Daemon) -> Result<()> {
        self.host(name).stop_daemon(daemon)
    }

    /// Stops and starts a daemon, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Lab::stop_daemon`] and [`Lab::start_daemon`].
    pub fn restart_daemon(&self, name: HostName, daemon: Daemon) -> Result<()> {
        self.stop_daemon(name, daemon)?;
        self.start_daemon(name, daemon)
    }
}

/// The options of a lab that is up with what is asked for now: more nodes, and nothing else.
fn added_to(before: &Options, asked: &Options) -> Result<Options> {
    let together = |before: &[HostName], asked: &[HostName]| {
        let new = asked.iter().filter(|host| !before.contains(host));
        before.iter().chain(new).copied().collect::<Vec<_>>()
    };
    let (no_libvirt, external) =
        (together(&before.no_libvirt, &asked.no_libvirt), together(&before.external, &asked.external));
    let together = Options { nodes: before.nodes.max(asked.nodes), no_libvirt, external, ..before.clone() };
    let as_asked = Options {
        nodes: asked.nodes,
        no_libvirt: asked.no_libvirt.clone(),
        external: asked.external.clone(),
        ..before.clone()
    };
    let there = (1..=before.nodes).map(HostName::Node);
    let mut changed = there.filter(|host| {
        (before.has_libvirt(*host), before.has_kubelet(*host))
            != (together.has_libvirt(*host), together.has_kubelet(*host))
    });
    if as_asked == *asked && changed.next().is_none() {
        return Ok(together);
    }
    let dir = before.dir.display();
    Err(Error::Option {
        option: "--dir",
        reason: format!("a lab with other options is up in {dir}: end it with `lab down`"),
    })
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_added_to_a_lab_that_is_up_and_nothing_else_is_changed() {
        let before = Options { nodes: 3, no_libvirt: vec![HostName::Node(3)], ..Options::default() };
        let asked = Options { nodes: 4, no_libvirt: vec![HostName::Node(4)], ..Options::default() };
        let together = added_to(&before, &asked).unwrap();
        assert_eq!(together.nodes, 4);
        assert_eq!(together.no_libvirt, [HostName::Node(3), HostName::Node(4)]);
        assert_eq!(added_to(&before, &Options::default()).unwrap(), before);
        for other in [
            Options { max_pods: 200, ..before.clone() },
            Options { no_libvirt: vec![HostName::Node(1)], ..before.clone() },
            Options { external: vec![HostName::Node(1)], ..before.clone() },
        ] {
            assert!(added_to(&before, &other).unwrap_err().to_string().contains("lab down"));
        }
    }
}
