//! One host: its namespaces, its disk, and how to get inside.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    Error, HostName, Options, ProcessId, Result,
    artifacts::Artifacts,
    cgroup::{self, Cgroups},
    command::{self, program, wait_until},
    container_image,
    error::FileContext as _,
    switch,
};

mod files;
pub(crate) mod init;

/// Puts itself into the cgroups that are named up to `--`, and becomes what follows.
const JOIN: &str = r#"while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@""#;

/// A host of a lab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host<'a> {
    pub(crate) options: &'a Options,
    pub(crate) name: HostName,
}

/// A command in the cgroups of a host (or of the switch), with its namespaces still to be chosen.
pub(crate) fn join_groups(cgroups: &Cgroups, tag: &str, host: &str) -> Command {
    let mut command = program("sh");
    command.args(["-c", JOIN, "sh"]).args(cgroups.groups(tag, host)).arg("--");
    command
}

/// Starts a process that outlives the caller, in namespaces of its own, which writes its id to `pid_file`.
pub(crate) fn detach(
    mut joined: Command,
    unshare: &[&str],
    words: &[&str],
    options: &Options,
    log: &Path,
) -> Result<()> {
    let file = File::create(log).file("create", log)?;
    let copy = file.try_clone().file("open", log)?;
    joined.args(["setsid", "--fork", "unshare"]).args(unshare).arg("--").arg(lab_program()?);
    joined.arg("--dir").arg(&options.dir).args(words).stdout(file).stderr(copy);
    let status = joined.status().map_err(|source| command::spawn_error(&joined, source))?;
    if status.success() {
        return Ok(());
    }
    let stderr = fs::read_to_string(log).unwrap_or_default();
    Err(Error::Command { command: format!("lab {}", words.join(" ")), status, stderr })
}

/// The program `lab`, which runs in the hosts: the library's caller may be another one.
fn lab_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LAB_PROGRAM") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().file("find", "/proc/self/exe")?;
    // target/debug/lab, also for target/debug/deps/some_test.
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("lab"));
    beside.into_iter().find(|path| path.is_file()).ok_or_else(|| Error::Option {
        option: "LAB_PROGRAM",
        reason: format!("the program `lab` is not beside {}: build it with `cargo build --bin lab`", own.display()),
    })
}

impl<'a> Host<'a> {
    pub(crate) fn new(options: &'a Options, name: HostName) -> Self {
        Self { options, name }
    }

    /// A file below the host's `/run`, as it is seen from the machine.
    pub(crate) fn run(&self, path: &str) -> PathBuf {
        self.options.host_dir(self.name).join("run").join(path)
    }

    fn init_file(&self) -> PathBuf {
        self.run("lab/init")
    }

    /// The host's process 1, by its pid on the machine.
    pub(crate) fn init(&self) -> Option<ProcessId> {
        ProcessId::read(&self.init_file()).filter(|process| process.is_alive())
    }

    pub(crate) fn require_init(&self) -> Result<ProcessId> {
        self.init().ok_or_else(|| Error::HostDown(self.name.to_string()))
    }

    /// The host's `/proc`, as it is seen from the machine.
    pub(crate) fn proc(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root/proc", self.require_init()?.pid)))
    }

    /// A program that runs inside the host.
    pub(crate) fn enter(&self) -> Result<Command> {
        let init = self.require_init()?;
        let mut command = join_groups(&Cgroups::of_machine()?, &self.options.tag, &self.name.to_string());
        command.args(["nsenter", "-t", &init.pid.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]);
        Ok(command)
    }

    /// Boots the host: namespaces, root file system, network. Its daemons are started one by one after that.
    pub(crate) fn boot(&self, artifacts: &Artifacts) -> Result<()> {
        if self.init().is_some() {
            return Err(Error::HostUp(self.name.to_string()));
        }
        let Self { options, name } = *self;
        let cgroups = Cgroups::of_machine()?;
        files::prepare_disk(options, name)?;
        let run = self.run("");
        if run.exists() {
            fs::remove_dir_all(&run).file("remove", &run)?;
        }
        for dir in ["lab", "lock"] {
            fs::create_dir_all(self.run(dir)).file("create", self.run(dir))?;
        }
        end_group(&cgroups, options, Some(&name.to_string()))?;
        cgroups.make(&options.tag, &name.to_string())?;
        let spec = init::Spec {
            options: options.clone(),
            host: name,
            artifacts_root: artifacts.root.clone(),
            kubernetes: artifacts.kubernetes.clone(),
        };
        spec.save()?;
        let log = options.host_dir(name).join("init.log");
        let namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork"];
        let joined = join_groups(&cgroups, &options.tag, &name.to_string());
        detach(joined, &namespaces, &["host-init", &name.to_string()], options, &log)?;
        wait_until(&format!("{name} has booted"), &log, Duration::from_secs(20), || {
            self.init().is_some() || fs::read_to_string(&log).is_ok_and(|text| !text.is_empty())
        })?;
        let init = self.init().ok_or_else(|| Error::Unexpected {
            what: format!("host {name} did not boot"),
            reason: fs::read_to_string(&log).unwrap_or_default().trim().to_owned(),
        })?;
        cgroups.move_into_leaf(&options.tag, &name.to_string())?;
        switch::plug(options, name, init)?;
        self.set_up_network()
    }

    /// What a node's network needs inside: forwarding for pods, and the way to the API server's Service. There is no
    /// kube-proxy, so this is the only Service.
    fn set_up_network(&self) -> Result<()> {
        if self.name.is_control_plane() {
            return Ok(());
        }
        let control_plane = self.options.address(HostName::ControlPlane);
        let service = self.options.api_service_address();
        let script = format!(
            "set -e; echo 1 >/proc/sys/net/ipv4/ip_forward\n\
             for chain in PREROUTING OUTPUT; do\n\
             iptables -w -t nat -A $chain -d {service} -p tcp --dport 443 -j DNAT --to {control_plane}:6443\n\
             done"
        );
        command::output(self.enter()?.args(["sh", "-c", &script])).map(drop)
    }

    /// Puts an image archive into the host's containerd.
    pub(crate) fn import(&self, archive: &Path) -> Result<()> {
        let file = File::open(archive).file("open", archive)?;
        let ctr = ["ctr", "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-"];
        command::output(self.enter()?.args(ctr).stdin(file)).map(drop)
    }

    /// Puts the lab's own images into a host that does not have them.
    pub(crate) fn import_own_images(&self, artifacts: &Artifacts) -> Result<()> {
        let busybox = self.options.host_dir(self.name).join("busybox.tar");
        self.import_once("image-imported", || {
            container_image::write_busybox(&artifacts.root.join("bin/busybox"), &busybox)?;
            self.import(&busybox)
        })?;
        self.import_once("scheduler-imported", || self.import(&artifacts.scheduler_image))
    }

    fn import_once(&self, mark: &str, import: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = self.options.host_disk(self.name).join(mark);
        if done.exists() {
            return Ok(());
        }
        import()?;
        fs::write(&done, "").file("write", done)
    }

    /// A crash: the host's processes, network and `/run` are gone at once; its disk stays.
    pub(crate) fn kill(&self) -> Result<()> {
        let init = self.require_init()?;
        init.kill()?;
        let name = self.name.to_string();
        wait_until(&format!("{name} is gone"), Path::new("/proc"), Duration::from_secs(20), || !init.is_alive())?;
        switch::unplug(self.options, self.name)?;
        let file = self.init_file();
        fs::remove_file(&file).file("remove", file)?;
        end_group(&Cgroups::of_machine()?, self.options, Some(&name))
    }
}

/// Ends all processes in the cgroups of a lab (or of one host), and removes the cgroups. Finds also what a broken-off
/// `up` started and did not write down.
pub(crate) fn end_group(cgroups: &Cgroups, options: &Options, host: Option<&str>) -> Result<()> {
    let mut left = Vec::new();
    let ended = wait_until("", Path::new("/sys/fs/cgroup"), Duration::from_secs(20), || {
        left = cgroups.processes(&options.tag, host);
        for process in &left {
            // One that cannot be ended shows up again in the next round.
            let _ = process.kill();
        }
        left.is_empty() && cgroups.remove(&options.tag, host)
    });
    ended.map_err(|_| cgroup::still_there(&options.tag, &left))
}
