//! A node is drained: its VMs leave by their strategies, and who stays is told why.

use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use kubevmm_tests::cluster::SYSTEM;
use kubevmm_tests::{Json, Space, Vm, api, wait_for, within};
use serde_json::json;

use crate::hand_over::{NeverTwice, on_shared_disk, remove_shared_pool, shared_pool};
use crate::tools;

kubevmm_tests::stories! { alone: true;
    a_drain_ends_when_five_vms_run_elsewhere,
    a_vm_with_local_data_is_drained_only_as_its_owner_says,
    a_dry_run_of_a_drain_changes_nothing,
    an_eviction_by_the_api_is_like_one_of_a_drain,
    without_the_controller_only_vms_wait,
    a_vm_leaves_a_node_that_gets_a_no_execute_taint,
}

/// Lets all nodes take pods again that the stories use, also after a story that has failed.
pub(crate) struct Uncordon<'a>(pub(crate) &'a Space);

impl Drop for Uncordon<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.cluster.kubectl(["uncordon", "h1", "h2", "h3"]) {
            eprintln!("a node is cordoned still: {error:#}");
        }
    }
}

fn drain_command(space: &Space, node: &str, more: &[&str]) -> Command {
    let mut kubectl = space.cluster.lab.kubectl_command();
    kubectl.args(["drain", node, "--ignore-daemonsets", "--delete-emptydir-data"]).args(more);
    kubectl
}

/// kubectl, as it ends: with what it says of its progress.
pub(crate) fn drain(space: &Space, node: &str, more: &[&str]) -> Result<Output> {
    drain_command(space, node, more).output().context("run kubectl")
}

pub(crate) fn words(output: &Output) -> String {
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{said}{errors}", output.status)
}

/// VMs on h1 that may run anywhere.
fn movable(space: &Space, names: &[&str]) -> Result<Vec<Vm>> {
    shared_pool(space)?;
    space.cluster.kubectl(["cordon", "h2"])?;
    let disk = on_shared_disk(space);
    let vms = names.iter().map(|name| space.blank(name).with(&disk).apply()).collect::<Result<Vec<_>>>()?;
    for vm in &vms {
        vm.is_ready()?;
        ensure!(vm.host()?.name.to_string() == "h1", "{} runs on {}", vm.name, vm.host()?.name);
    }
    space.cluster.kubectl(["uncordon", "h2"])?;
    Ok(vms)
}

/// A VM on h1 whose disk lies there alone.
fn local(space: &Space, spec: &str) -> Result<Vm> {
    let vm = space.blank("local").on("h1").with(&format!("spec: {{{spec}}}")).apply()?;
    vm.is_ready()?;
    Ok(vm)
}

fn placement_pod(vm: &Vm) -> Result<String> {
    Ok(vm.get()?["status"]["placement"]["podName"].as_str().context("no placement pod")?.to_owned())
}

fn runs_on(vm: &Vm, node: &str) -> Result<Json> {
    vm.wait(&format!("runs on {node}"), within(120), |vm| vm["status"]["nodeName"] == node && api::is_true(vm, "Ready"))
}

/// Brings the controller's pod to h1, for it to be drained, too.
fn controller_to_h1(space: &Space) -> Result<()> {
    space.cluster.kubectl(["cordon", "h2", "h3"])?;
    space.cluster.kubectl(["-n", SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/name=kubevmm-controller"])?;
    wait_for("the controller is on h1", within(60), || {
        space.cluster.host("h1").controller().map(Some).context("it is not there yet")
    })?;
    space.cluster.kubectl(["-n", SYSTEM, "rollout", "status", "deployment/kubevmm-controller", "--timeout=90s"])?;
    space.cluster.kubectl(["uncordon", "h2", "h3"]).map(drop)
}

fn a_drain_ends_when_five_vms_run_elsewhere(space: &Space) -> Result<()> {
    let _uncordon = Uncordon(space);
    let vms = movable(space, &["a", "b", "c", "d", "e"])?;
    controller_to_h1(space)?;
    let watches = vms.iter().map(NeverTwice::of).collect::<Result<Vec<_>>>()?;
    let drained = drain(space, "h1", &["--timeout=180s"])?;
    ensure!(drained.status.success(), "{}", words(&drained));
    let said = words(&drained);
    for vm in &vms {
        let leaves = format!("VirtualMachine {}/{} is being shut down to leave node h1", space.namespace, vm.name);
        ensure!(said.contains(&leaves), "{leaves}: not in\n{said}");
        ensure!(!space.cluster.host("h1").domains()?.contains(&vm.domain()), "{} is on h1 still", vm.name);
    }
    ensure!(said.contains("leaves node h1 after them"), "the controller did not wait:\n{said}");
    for (vm, watch) in vms.iter().zip(watches) {
        let status = runs_on(vm, "h2")?["status"].clone();
        ensure!(status["lastStop"]["reason"] == "Evicted", "{}", status["lastStop"]);
        watch.holds()?;
    }
    space.cluster.kubectl(["uncordon", "h1"])?;
    for vm in &vms {
        vm.vanishes()?;
    }
    remove_shared_pool(space)
}

fn a_vm_with_local_data_is_drained_only_as_its_owner_says(space: &Space) -> Result<()> {
    let _uncordon = Uncordon(space);
    let vm = local(space, "")?;
    let (pod, qemu) = (placement_pod(&vm)?, vm.qemu()?);
    let stays = |output: &Output, why: &str| -> Result<()> {
        let said = words(output);
        ensure!(!output.status.success() && said.contains("local stays on node h1") && said.contains(why), "{said}");
        ensure!(vm.qemu()? == qemu, "it was stopped");
        let marks = space.get(api::POD, &pod)?.context("its pod is gone")?["metadata"]["annotations"].clone();
        ensure!(marks["kubevmm.io/evict"].is_null(), "{marks}");
        Ok(())
    };
    stays(&drain(space, "h1", &["--timeout=7s"])?, "set spec.evictionStrategy to Shutdown")?;
    let said = tools::fails(space, &["node", "drain", "h1"])?;
    ensure!(said.contains("local stays on node h1"), "{said}");
    vm.patch("{evictionStrategy: Block}")?;
    stays(&drain(space, "h1", &["--timeout=7s"])?, "spec.evictionStrategy is Block")?;

    vm.patch("{evictionStrategy: Shutdown}")?;
    let watch = NeverTwice::of(&vm)?;
    let said = tools::succeeds(space, &["node", "drain", "h1", "--timeout", "2m"])?;
    ensure!(said.contains("local: has left") && said.contains("stays cordoned"), "{said}");
    ensure!(space.cluster.instances(&vm.uuid()?) == 0, "it runs still");
    let h1 = space.cluster.host("h1");
    ensure!(h1.domain_state(&vm.domain())? == "shut off", "its domain is gone");
    vm.condition("Scheduled", "False", "Unschedulable")?;
    vm.stays_off(3)?;
    let said = tools::succeeds(space, &["node", "uncordon", "h1"])?;
    ensure!(said.contains("node/h1 uncordoned"), "{said}");
    runs_on(&vm, "h1")?;
    watch.holds()?;
    vm.vanishes()
}

fn a_dry_run_of_a_drain_changes_nothing(space: &Space) -> Result<()> {
    let _uncordon = Uncordon(space);
    let vms = movable(space, &["web"])?;
    let vm = &vms[0];
    let (pod, qemu) = (placement_pod(vm)?, vm.qemu()?);
    let version = || Ok::<_, anyhow::Error>(space.get(api::POD, &pod)?.context("no pod")?["metadata"].clone());
    let before = version()?;
    let tried = drain(space, "h1", &["--dry-run=server", "--timeout=30s"])?;
    let said = words(&tried);
    ensure!(tried.status.success() && said.contains("web would be shut down to leave node h1"), "{said}");
    let said = tools::succeeds(space, &["node", "drain", "h1", "--dry-run"])?;
    ensure!(said.contains("web: would be shut down to leave node h1"), "{said}");
    let node = space.api().get(api::NODE, "", "h1")?.context("no node")?;
    ensure!(node["spec"]["unschedulable"].is_null(), "it is cordoned");
    ensure!(version()? == before && vm.qemu()? == qemu, "the dry run did something");
    vm.vanishes()?;
    remove_shared_pool(space)
}

/// Asks for the eviction as any program may.
fn evict(space: &Space, pod: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", space.namespace);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    Ok(space.cluster.lab.kubectl_with_input(["create", "--raw", &path, "-f", "-"], &eviction.to_string())?)
}

fn an_eviction_by_the_api_is_like_one_of_a_drain(space: &Space) -> Result<()> {
    let _uncordon = Uncordon(space);
    let vms = movable(space, &["web"])?;
    let vm = &vms[0];
    let watch = NeverTwice::of(vm)?;
    space.cluster.kubectl(["cordon", "h1"])?;
    let pod = placement_pod(vm)?;
    let refused = evict(space, &pod).err().context("the pod is evicted before the VM has left")?;
    let why = format!("{refused:#}");
    ensure!(why.contains("web is being shut down to leave node h1"), "{why}");
    runs_on(vm, "h2")?;
    watch.holds()?;
    space.api().wait_gone(api::POD, &space.namespace, &pod, within(60))?;
    let gone = evict(space, &pod).err().context("the pod is there still")?;
    ensure!(format!("{gone:#}").contains("not found"), "{gone:#}");
    vm.vanishes()?;
    remove_shared_pool(space)
}

/// A process that is ended when the story fails.
struct Running(Option<Child>);

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("run it")?;
        Ok(Self(Some(child)))
    }

    /// What it says until it ends well.
    fn succeeds(mut self) -> Result<String> {
        let output = self.0.take().context("it has ended before")?.wait_with_output().context("wait for it")?;
        let said = words(&output);
        ensure!(output.status.success(), "{said}");
        Ok(said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

fn scale_controller(space: &Space, replicas: u8) -> Result<()> {
    let count = format!("--replicas={replicas}");
    space.cluster.kubectl(["-n", SYSTEM, "scale", "deployment/kubevmm-controller", &count])?;
    wait_for(&format!("{replicas} controllers run"), within(60), || {
        let running = space.cluster.controller().is_ok();
        if running == (replicas > 0) { Ok(Some(())) } else { Err(anyhow!("one runs: {running}")) }
    })
}

/// Scales the controller up again, also after a story that has failed.
struct Controller<'a>(&'a Space);

impl Drop for Controller<'_> {
    fn drop(&mut self) {
        if let Err(error) = scale_controller(self.0, 1) {
            eprintln!("there is no controller: {error:#}");
        }
    }
}

fn without_the_controller_only_vms_wait(space: &Space) -> Result<()> {
    let _uncordon = Uncordon(space);
    let vms = movable(space, &["web"])?;
    let vm = &vms[0];
    let (pod, qemu) = (placement_pod(vm)?, vm.qemu()?);
    let image = space.get(api::POD, &pod)?.context("no pod")?["spec"]["containers"][0]["image"].clone();
    // Its name begins as the controller's and the placement pods' do.
    let ordinary = "kubevmm-controller-ordinary";
    space.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {ordinary}}}, spec: {{nodeName: h1, \
         terminationGracePeriodSeconds: 0, containers: [{{name: c, image: {image}}}]}}}}"
    ))?;
    let back = Controller(space);
    scale_controller(space, 0)?;
    let refused = evict(space, &pod).err().context("the pod is evicted without a word of the controller")?;
    let why = format!("{refused:#}");
    ensure!(why.contains("violate the pod's disruption budget"), "{why}");
    evict(space, ordinary)?;
    space.api().wait_gone(api::POD, &space.namespace, ordinary, within(30))?;
    let kubectl = Running::start(drain_command(space, "h1", &["--timeout=180s"]))?;
    let virtctl = Running::start(tools::command(space, &["node", "drain", "h1", "--timeout", "3m"])?)?;
    // Longer than kubectl waits before it asks again.
    std::thread::sleep(within(8));
    ensure!(vm.qemu()? == qemu, "the VM was stopped");
    drop(back);
    let said = kubectl.succeeds()?;
    ensure!(said.matches("(will retry after 5s): Cannot evict pod as it would violate").count() > 1, "{said}");
    let said = virtctl.succeeds()?;
    ensure!(said.contains("web: waits for the controller of KubeVMM to answer"), "{said}");
    ensure!(said.contains("web: has left"), "{said}");
    runs_on(vm, "h2")?;
    space.cluster.kubectl(["uncordon", "h1"])?;
    space.cluster.is_whole()?;
    vm.vanishes()?;
    remove_shared_pool(space)
}

/// Takes the taint away, also after a story that has failed.
struct Untaint<'a>(&'a Space);

/// The administrator's.
const TAINT: &str = "example.org/repair";

impl Drop for Untaint<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.cluster.kubectl(["taint", "node", "h1", &format!("{TAINT}-")]) {
            eprintln!("h1 is tainted still: {error:#}");
        }
    }
}

fn a_vm_leaves_a_node_that_gets_a_no_execute_taint(space: &Space) -> Result<()> {
    let uncordon = Uncordon(space);
    let vms = movable(space, &["web"])?;
    let vm = &vms[0];
    drop(uncordon);
    let watch = NeverTwice::of(vm)?;
    space.cluster.kubectl(["taint", "node", "h1", &format!("{TAINT}=now:NoExecute")])?;
    let untaint = Untaint(space);
    let status = runs_on(vm, "h2")?["status"].clone();
    ensure!(status["lastStop"]["reason"] == "Evicted", "{}", status["lastStop"]);
    ensure!(!space.cluster.host("h1").domains()?.contains(&vm.domain()), "it is on h1 still");
    watch.holds()?;
    drop(untaint);
    // The controller and the scheduler may have been there, too.
    space.cluster.is_whole()?;
    vm.vanishes()?;
    remove_shared_pool(space)
}
