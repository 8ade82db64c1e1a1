//! A virtual machine, as its user and its host see it.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::api::{self, Json};
use crate::cluster::Cluster;
use crate::guest::{self, Boot};
use crate::host::{Host, Process};
use crate::wait::{all_the_time, wait_for, within};

/// A guest under TCG boots in 4 s on a quiet machine; this one is not.
const BOOT: u64 = 120;
/// A start without a guest, or a stop.
const START: u64 = 60;

/// A virtual machine.
#[derive(Clone)]
pub struct Vm {
    cluster: &'static Cluster,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Vm {
    pub(crate) fn new(cluster: &'static Cluster, namespace: &str, name: &str) -> Self {
        Self { cluster, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The object.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self) -> Result<Json> {
        let found = self.cluster.api.get(api::VM, &self.namespace, &self.name)?;
        found.with_context(|| format!("there is no VirtualMachine {}/{}", self.namespace, self.name))
    }

    /// Name of its domain.
    pub fn domain(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// UUID of its domain.
    ///
    /// # Errors
    /// When there is no object.
    pub fn uuid(&self) -> Result<String> {
        let vm = self.get()?;
        let uuid = vm["spec"]["firmware"]["uuid"].as_str().or(vm["metadata"]["uid"].as_str());
        Ok(uuid.unwrap_or_default().to_owned())
    }

    /// Waits until the object fits.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait(&self, what: &str, limit: Duration, fits: impl Fn(&Json) -> bool) -> Result<Json> {
        self.cluster.api.wait(api::VM, &self.namespace, &self.name, what, limit, fits)
    }

    /// Waits for a condition: its status and reason; an empty one is any. Gives its message.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn condition(&self, kind: &str, status: &str, reason: &str) -> Result<String> {
        let vm = self.wait(&format!("has {kind}={status} {reason}"), within(START), |vm| {
            let (now, why, _) = api::condition(vm, kind);
            now == status && (reason.is_empty() || why == reason)
        })?;
        Ok(api::condition(&vm, kind).2.to_owned())
    }

    /// Waits until its domain runs.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn is_ready(&self) -> Result<Json> {
        self.wait("is Ready", within(BOOT), |vm| {
            let generation = &vm["metadata"]["generation"];
            api::is_true(vm, "Ready") && vm["status"]["observedGeneration"] == *generation
        })
    }

    /// Waits until it is off.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn is_off(&self) -> Result<Json> {
        self.wait("is Stopped", within(START), |vm| {
            vm["status"]["printableStatus"] == "Stopped" && vm["status"]["placement"]["podName"].is_null()
        })
    }

    /// Waits until its guest answers.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn boots(&self) -> Result<Boot> {
        self.is_ready()?;
        self.wait("has a guest whose agent answers", within(BOOT), |vm| api::is_true(vm, "AgentConnected"))?;
        self.boot()
    }

    /// Waits until its guest has booted anew.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn boots_again_after(&self, before: &Boot) -> Result<Boot> {
        wait_for(&format!("{} boots again", self.domain()), within(BOOT), || {
            let now = guest::boot(&self.host()?, &self.domain())?;
            if now.id == before.id { Err(anyhow!("it is the boot {} still", now.id)) } else { Ok(Some(now)) }
        })
    }

    /// The guest's boot, by its agent.
    ///
    /// # Errors
    /// When the agent does not answer within a minute.
    pub fn boot(&self) -> Result<Boot> {
        wait_for(&format!("the agent of {} answers", self.domain()), within(START), || {
            guest::boot(&self.host()?, &self.domain()).map(Some)
        })
    }

    /// The guest has run without a break since `before`.
    ///
    /// # Errors
    /// When it has not.
    pub fn has_not_rebooted(&self, before: &Boot) -> Result<()> {
        let now = self.boot()?;
        ensure!(now.id == before.id, "the guest has booted again: {before:?}, then {now:?}");
        ensure!(now.uptime >= before.uptime, "the guest's uptime went back: {before:?}, then {now:?}");
        Ok(())
    }

    /// The host that it is placed on.
    ///
    /// # Errors
    /// When it is placed nowhere.
    pub fn host(&self) -> Result<Host> {
        let vm = self.get()?;
        let node = vm["status"]["nodeName"].as_str().with_context(|| format!("{} has no node", self.domain()))?;
        Ok(self.cluster.host(node))
    }

    /// The address of its first NIC.
    ///
    /// # Errors
    /// When there is none within a minute.
    pub fn address(&self) -> Result<String> {
        let vm = self.wait("has an address", within(START), |vm| api::is_true(vm, "AddressesKnown"))?;
        let address = vm["status"]["interfaces"][0]["addresses"][0].as_str();
        Ok(address.context("AddressesKnown, and no address")?.to_owned())
    }

    /// Runs a command in the guest by ssh.
    ///
    /// # Errors
    /// When it does not answer within a minute.
    pub fn ssh(&self, command: &str) -> Result<String> {
        let (host, address) = (self.host()?, self.address()?);
        wait_for(&format!("ssh to {} answers", self.domain()), within(START), || {
            guest::ssh(self.cluster, &host, &address, command).map(Some)
        })
    }

    /// Starts a shell script in the guest, by its agent.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn in_guest(&self, script: &str) -> Result<()> {
        guest::start_script(&self.host()?, &self.domain(), script)
    }

    /// A file of the guest, by its agent.
    ///
    /// # Errors
    /// When the agent does not answer, or there is no such file.
    pub fn file(&self, path: &str) -> Result<String> {
        guest::read_file(&self.host()?, &self.domain(), path)
    }

    /// How its domain has ended, in virsh's words: `shutdown` by the guest itself, `destroyed`, `crashed`.
    ///
    /// # Errors
    /// When it is not off.
    pub fn has_ended_by(&self) -> Result<String> {
        let state = self.host()?.virsh(["domstate", "--reason", &self.domain()])?;
        let reason = state.trim().strip_prefix("shut off (").and_then(|reason| reason.strip_suffix(')'));
        Ok(reason.with_context(|| format!("{} is {state}", self.domain()))?.to_owned())
    }

    /// State of its domain, in virsh's words; empty when there is none.
    ///
    /// # Errors
    /// When it has no host.
    pub fn domain_state(&self) -> Result<String> {
        self.host()?.domain_state(&self.domain())
    }

    /// Its QEMU.
    ///
    /// # Errors
    /// When none runs on its host.
    pub fn qemu(&self) -> Result<Process> {
        let found = self.host()?.qemus().remove(&self.uuid()?);
        found.with_context(|| format!("no QEMU of {} runs", self.domain()))
    }

    /// Sends a signal to its QEMU.
    ///
    /// # Errors
    /// When none runs.
    pub fn signal_qemu(&self, signal: Signal) -> Result<()> {
        self.qemu()?.signal(signal)
    }

    /// Patches its spec.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn patch(&self, yaml: &str) -> Result<()> {
        let spec = api::documents(yaml)?.into_iter().next().unwrap_or_default();
        self.cluster.api.patch(api::VM, &self.namespace, &self.name, &json!({"spec": spec}))
    }

    /// Asks for a change of power state, and waits for the answer.
    ///
    /// # Errors
    /// When it is refused, or not answered.
    pub fn request(&self, id: &str, action: &str) -> Result<Json> {
        self.patch(&format!("{{powerRequest: {{id: {id}, action: {action}, force: null}}}}"))?;
        let answered = |vm: &Json| vm["status"]["lastPowerRequest"]["id"] == id;
        self.wait(&format!("has answered request {id} {action}"), within(START), answered)
    }

    /// Waits until its domain has stopped for this reason.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn last_stop_is(&self, reason: &str) -> Result<Json> {
        self.wait(&format!("has stopped: {reason}"), within(START), |vm| vm["status"]["lastStop"]["reason"] == reason)
    }

    /// What its host has is what its status says.
    ///
    /// # Errors
    /// When they differ.
    pub fn is_as_its_status_says(&self) -> Result<()> {
        let (vm, host) = (self.get()?, self.host()?);
        let status = &vm["status"];
        ensure!(status["domain"]["uuid"] == self.uuid()?.as_str(), "{}", status["domain"]);
        ensure!(status["domain"]["state"] == "Running" && self.domain_state()? == "running", "{}", status["domain"]);
        let targets = host.virsh(["domblklist", &self.domain()])?;
        for disk in status["disks"].as_array().into_iter().flatten() {
            let target = disk["target"].as_str().unwrap_or_default();
            ensure!(!target.is_empty() && targets.contains(target), "{disk} is not in\n{targets}");
        }
        let nics = host.virsh(["domiflist", &self.domain()])?;
        for nic in status["interfaces"].as_array().into_iter().flatten() {
            let mac = nic["macAddress"].as_str().unwrap_or_default();
            ensure!(!mac.is_empty() && nics.contains(mac), "{nic} is not in\n{nics}");
        }
        Ok(())
    }

    /// It is off now, and stays so for this long.
    ///
    /// # Errors
    /// When a domain of it runs.
    pub fn stays_off(&self, seconds: u64) -> Result<()> {
        let uuid = self.uuid()?;
        ensure!(self.cluster.instances(&uuid) == 0, "the QEMU of {} runs", self.domain());
        all_the_time(&format!("{} is off", self.domain()), within(seconds), || {
            ensure!(self.cluster.instances(&uuid) == 0, "its QEMU runs");
            Ok(())
        })
    }

    /// It stays Ready, and its QEMU the same, for this long.
    ///
    /// # Errors
    /// When it does not.
    pub fn stays_ready(&self, seconds: u64) -> Result<()> {
        let qemu = self.qemu()?;
        all_the_time(&format!("{} runs", self.domain()), within(seconds), || {
            ensure!(qemu.runs(), "its QEMU has ended");
            ensure!(api::is_true(&self.get()?, "Ready"), "it is not Ready: {}", self.get()?["status"]);
            Ok(())
        })
    }

    /// Asks for its deletion.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn delete(&self) -> Result<()> {
        self.cluster.api.delete(api::VM, &self.namespace, &self.name)
    }

    /// Waits until the object is gone, and with it its domain, its disks' volumes and its seed.
    ///
    /// # Errors
    /// When something stays.
    pub fn is_gone(&self) -> Result<()> {
        self.cluster.api.wait_gone(api::VM, &self.namespace, &self.name, within(START))?;
        for host in self.cluster.libvirt_hosts() {
            if host.domains()?.contains(&self.domain()) {
                bail!("{} has the domain {} still", host.name, self.domain());
            }
        }
        Ok(())
    }

    /// Deletes it, and waits until nothing of it is left.
    ///
    /// # Errors
    /// When something stays.
    pub fn vanishes(&self) -> Result<()> {
        self.delete()?;
        self.is_gone()
    }

    /// What is known of the object without times, uids and addresses: to be compared between two runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn shape(&self) -> Result<Json> {
        Ok(shape(&self.get()?))
    }
}

/// An object's conditions and state, without what differs from run to run.
pub fn shape(object: &Json) -> Json {
    let conditions: Vec<_> = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| json!([c["type"], c["status"], c["reason"]]))
        .collect();
    let mut conditions = conditions;
    conditions.sort_by_key(|condition| condition.to_string());
    let status = &object["status"];
    let mut disks = status["disks"].clone();
    // Volumes are named by the uids of their objects.
    disks
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter_map(Json::as_object_mut)
        .for_each(|disk| drop(disk.remove("source")));
    json!({
        "kind": object["kind"],
        "name": object["metadata"]["name"],
        "finalizers": object["metadata"]["finalizers"],
        "conditions": conditions,
        "printableStatus": status["printableStatus"],
        "state": status["domain"]["state"],
        "usedBy": status["usedBy"]["name"],
        "poolName": status["poolName"],
        "capacity": status["capacity"],
        "disks": disks,
        "readyHosts": status["readyHosts"],
    })
}
