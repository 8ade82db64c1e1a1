//! A host of the lab: what runs and lies there, and what can be done to it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, anyhow, bail};
use kubevmm_lab::{Daemon, HostName, Lab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{wait_for, within};

/// How the kernel shows the programs' names: at most 15 characters.
pub(crate) const EXECUTOR: &str = "kubevmm-executo";
pub(crate) const CONTROLLER: &str = "kubevmm-control";
pub(crate) const EXTENDER: &str = "kubevmm-schedul";
const QEMU: &str = "qemu-system-x86";
const VIRTLOGD: &str = "virtlogd";

/// A process inside the lab, by the pid that the machine knows it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The machine's pid.
    pub pid: i32,
    /// Program, as the kernel names it.
    pub name: String,
    /// Arguments.
    pub arguments: Vec<String>,
}

impl Process {
    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("send {signal} to {} {}", self.name, self.pid))
    }

    /// Stops it until the answer is dropped: whoever waits for it, waits.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn hold(self) -> Result<Held> {
        self.signal(Signal::SIGSTOP)?;
        Ok(Held(self))
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).is_ok_and(|name| name.trim() == self.name)
    }
}

/// A process that does nothing until this is dropped; it may be killed meanwhile.
#[derive(Debug)]
pub struct Held(Process);

impl Drop for Held {
    fn drop(&mut self) {
        // Its pid is another's only after it has ended.
        if self.0.runs() {
            let _ = self.0.signal(Signal::SIGCONT);
        }
    }
}

/// The processes of one cgroup subtree of the machine, of the programs that are asked for.
fn processes_of(group: &str, program: impl Fn(&str) -> bool) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let name = String::from_utf8_lossy(&read("comm")).trim().to_owned();
        if !program(&name) || !String::from_utf8_lossy(&read("cgroup")).lines().any(|line| in_subtree(line, group)) {
            continue;
        }
        let arguments: Vec<_> = read("cmdline")
            .split(|&byte| byte == 0)
            .filter(|part| !part.is_empty())
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect();
        // What has no command line has ended.
        if !arguments.is_empty() {
            found.push(Process { pid, name, arguments });
        }
    }
    found
}

/// Whether a line of `/proc/PID/cgroup` is in the subtree `TAG/HOST`.
fn in_subtree(line: &str, group: &str) -> bool {
    let path = line.rsplit(':').next().unwrap_or_default();
    let wanted = format!("/{group}");
    path.find(&wanted).is_some_and(|at| matches!(path.as_bytes().get(at + wanted.len()), None | Some(b'/')))
}

/// A host of the lab.
#[derive(Clone, Copy)]
pub struct Host {
    lab: &'static Lab,
    /// Its name, which is its Node's.
    pub name: HostName,
}

impl Host {
    pub(crate) fn new(lab: &'static Lab, name: HostName) -> Self {
        Self { lab, name }
    }

    /// Runs a shell script in the host; its standard output.
    ///
    /// # Errors
    /// When it fails: with what it wrote to its error output.
    pub fn sh(&self, script: &str) -> Result<String> {
        Ok(self.lab.exec(self.name, ["sh", "-c", script])?)
    }

    /// virsh.
    ///
    /// # Errors
    /// When it fails: with libvirt's message.
    pub fn virsh<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        Ok(self.lab.virsh(self.name, arguments)?)
    }

    /// Names of all domains.
    ///
    /// # Errors
    /// Those of virsh.
    pub fn domains(&self) -> Result<Vec<String>> {
        Ok(lines(&self.virsh(["list", "--all", "--name"])?))
    }

    /// Names of all networks.
    ///
    /// # Errors
    /// Those of virsh.
    pub fn networks(&self) -> Result<Vec<String>> {
        Ok(lines(&self.virsh(["net-list", "--all", "--name"])?))
    }

    /// Names of all pools.
    ///
    /// # Errors
    /// Those of virsh.
    pub fn pools(&self) -> Result<Vec<String>> {
        Ok(lines(&self.virsh(["pool-list", "--all", "--name"])?))
    }

    /// Names of the volumes of a pool, as its directory has them now.
    ///
    /// # Errors
    /// Those of virsh.
    pub fn volumes(&self, pool: &str) -> Result<Vec<String>> {
        self.virsh(["pool-refresh", pool])?;
        let table = self.virsh(["vol-list", pool])?;
        Ok(table.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// State of a domain, in virsh's words; empty when there is none.
    ///
    /// # Errors
    /// Those of virsh but "no such domain".
    pub fn domain_state(&self, domain: &str) -> Result<String> {
        if !self.domains()?.iter().any(|name| name == domain) {
            return Ok(String::new());
        }
        Ok(self.virsh(["domstate", domain])?.trim().to_owned())
    }

    /// Makes something of libvirt from XML: `define`, `net-define`, `pool-define`, `vol-create POOL`...
    ///
    /// # Errors
    /// Those of virsh.
    pub fn virsh_xml(&self, verb: &str, xml: &str) -> Result<String> {
        let quoted = xml.replace('\'', "\"");
        self.sh(&format!("f=$(mktemp) && printf %s '{quoted}' >$f && virsh -q {verb} $f; r=$?; rm -f $f; exit $r"))
    }

    /// All processes of the host.
    pub fn processes(&self) -> Vec<Process> {
        processes_of(&self.group(), |_| true)
    }

    fn process(&self, name: &str) -> Option<Process> {
        processes_of(&self.group(), |program| program == name).into_iter().next()
    }

    fn group(&self) -> String {
        format!("{}/{}", self.lab.options().tag, self.name)
    }

    /// The executor's process.
    pub fn executor(&self) -> Option<Process> {
        self.process(EXECUTOR)
    }

    /// The controller's process, if it runs here.
    pub fn controller(&self) -> Option<Process> {
        self.process(CONTROLLER)
    }

    /// The process of the scheduler extender, if it runs here.
    pub fn extender(&self) -> Option<Process> {
        self.process(EXTENDER)
    }

    /// virtlogd, without which libvirt starts no domain: it opens the log of each QEMU.
    pub fn virtlogd(&self) -> Option<Process> {
        self.process(VIRTLOGD)
    }

    /// QEMU processes by their domain's UUID.
    pub fn qemus(&self) -> BTreeMap<String, Process> {
        let uuid = |process: &Process| {
            let at = process.arguments.iter().position(|argument| argument == "-uuid")?;
            process.arguments.get(at + 1).cloned()
        };
        let all = processes_of(&self.group(), |program| program == QEMU);
        all.into_iter().filter_map(|process| Some((uuid(&process)?, process))).collect()
    }

    /// SIGKILL of the executor, which its kubelet restarts.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill_executor(&self) -> Result<()> {
        self.executor().with_context(|| format!("no executor runs on {}", self.name))?.signal(Signal::SIGKILL)
    }

    /// Restarts a daemon.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart(&self, daemon: Daemon) -> Result<()> {
        Ok(self.lab.restart_daemon(self.name, daemon)?)
    }

    /// Stops a daemon.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self, daemon: Daemon) -> Result<()> {
        Ok(self.lab.stop_daemon(self.name, daemon)?)
    }

    /// Starts a daemon.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&self, daemon: Daemon) -> Result<()> {
        Ok(self.lab.start_daemon(self.name, daemon)?)
    }

    /// Pulls the network cable, or puts it back.
    ///
    /// # Errors
    /// When the host is off.
    pub fn set_link(&self, up: bool) -> Result<()> {
        Ok(self.lab.set_link(self.name, up)?)
    }

    /// The power cord: SIGKILL for everything on the host.
    ///
    /// # Errors
    /// When the host is off.
    pub fn crash(&self) -> Result<()> {
        Ok(self.lab.kill_host(self.name)?)
    }

    /// Boots the host after [`Host::crash`].
    ///
    /// # Errors
    /// When a daemon does not come up.
    pub fn boot(&self) -> Result<()> {
        Ok(self.lab.start_host(self.name)?)
    }

    /// Waits until libvirtd answers.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn libvirt_answers(&self) -> Result<()> {
        wait_for(&format!("libvirtd answers on {}", self.name), within(60), || {
            self.virsh(["uri"]).map(|_| Some(())).map_err(|error| anyhow!("{error}"))
        })
    }

    /// Removes what an orphan leaves: the domain, running or not.
    ///
    /// # Errors
    /// When virsh cannot.
    pub fn remove_domain(&self, domain: &str) -> Result<()> {
        match self.domain_state(domain)?.as_str() {
            "" => bail!("{} has no domain {domain}", self.name),
            "shut off" => {}
            _ => drop(self.virsh(["destroy", domain])?),
        }
        self.virsh(["undefine", domain]).map(drop)
    }
}

/// The lines of a text that hold something.
pub(crate) fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_does_nothing_until_it_is_let_go() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process { pid, name: "sleep".to_owned(), arguments: Vec::new() };
        let is = |state: &str| {
            wait_for(&format!("it is {state}"), within(5), || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
                Ok(stat.contains(&format!("(sleep) {state}")).then_some(()))
            })
            .unwrap();
        };
        is("S");
        let held = process.clone().hold().unwrap();
        is("T");
        drop(held);
        is("S");
        process.signal(Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_host_has_the_processes_of_its_subtree_only() {
        assert!(in_subtree("5:cpu,cpuacct:/e2e/h1/kubepods/pod7", "e2e/h1"));
        assert!(in_subtree("0::/e2e/h1", "e2e/h1"));
        assert!(in_subtree("0::/docker/7/e2e/h1/init", "e2e/h1"));
        assert!(!in_subtree("0::/e2e/h12/init", "e2e/h1"));
        assert!(!in_subtree("0::/lab/h1/init", "e2e/h1"));
    }
}
