//! A libvirt host that is no cluster node: the executor as a service there.

use anyhow::{Context, Result, anyhow, bail, ensure};
use kubevmm_tests::external::{EXTERNAL_HOST, External, NODE_LEASES};
use kubevmm_tests::wait::all_the_time;
use kubevmm_tests::{Space, Vm, api, wait_for, within};
use serde_json::json;

use crate::drain::{Uncordon, drain, words};
use crate::security::must_be_refused;

kubevmm_tests::stories! { alone: true;
    an_external_host_runs_vms,
    an_external_host_keeps_other_pods_away,
    an_external_host_writes_about_itself_only,
    an_external_host_that_is_gone_comes_back,
    an_external_host_is_drained,
}

/// Tells a story on the external host, and takes it out of the cluster after it. When it failed, the host stays for its
/// readers, and takes nothing new.
fn on_external(space: &Space, tell: impl FnOnce(&External) -> Result<()>) -> Result<()> {
    let external = External::join(space.cluster)?;
    let told = tell(&external);
    if told.is_err() {
        space.cluster.kubectl(["cordon", EXTERNAL_HOST])?;
        return told;
    }
    for vm in space.api().list(api::VM, &space.namespace)? {
        space.vm(vm["metadata"]["name"].as_str().unwrap_or_default()).vanishes()?;
    }
    let left = external.host.sh("ls /var/lib/libvirt/kubevmm 2>/dev/null || :")?;
    ensure!(!left.contains(&format!("{}.", space.namespace)), "left on the host: {left}");
    external.leave()
}

fn there(yaml: &str) -> String {
    format!("spec: {{placement: {{nodeSelector: {{kubevmm.io/external: 'true'}}}}, {yaml}}}")
}

fn an_external_host_runs_vms(space: &Space) -> Result<()> {
    on_external(space, |external| {
        let user_data = format!(
            "#cloud-config\nhostname: web\nssh_authorized_keys:\n- {}\nruncmd:\n- echo told in secret >/root/told\n",
            space.cluster.ssh_key
        );
        space.api().apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "seed", "namespace": space.namespace},
            "stringData": {"userData": user_data},
        }))?;
        let vm = space.guest("web").with(&there("cloudInit: {userData: null, userDataSecretName: seed}")).apply()?;
        let boot = vm.boots()?;
        ensure!(vm.host()?.name.to_string() == EXTERNAL_HOST, "it is on {}", vm.host()?.name);
        // The guest's agent is there before cloud-init has come to its commands.
        wait_for("the guest has the user data of the Secret", within(60), || {
            Ok((vm.file("/root/told")?.trim() == "told in secret").then_some(()))
        })?;
        pod_runs_there(space)?;

        // The executor comes and goes; the guest stays.
        let before = external.executor().context("no executor runs")?;
        before.signal(nix::sys::signal::Signal::SIGKILL)?;
        wait_for("another executor runs", within(30), || Ok(external.executor().filter(|now| now.pid != before.pid)))?;
        external.is_ready()?;
        vm.is_ready()?;
        vm.has_not_rebooted(&boot)?;

        vm.patch("{runStrategy: Halted}")?;
        vm.is_off()?;
        wait_for("its pod is gone", within(30), || {
            let pods = space.api().list(api::POD, &space.namespace)?;
            if pods.is_empty() { Ok(Some(())) } else { Err(anyhow!("{}", pods[0]["status"])) }
        })?;
        vm.patch("{runStrategy: Always}")?;
        vm.boots_again_after(&boot).map(drop)
    })
}

/// The VM's pod is told to run by the external host.
fn pod_runs_there(space: &Space) -> Result<()> {
    let pods = space.api().list(api::POD, &space.namespace)?;
    ensure!(pods.len() == 1, "{} pods for one VM", pods.len());
    let (spec, status) = (&pods[0]["spec"], &pods[0]["status"]);
    ensure!(spec["nodeName"] == EXTERNAL_HOST && status["phase"] == "Running", "{status}");
    ensure!(api::is_true(&pods[0], "Ready"), "{status}");
    Ok(())
}

fn an_external_host_keeps_other_pods_away(space: &Space) -> Result<()> {
    on_external(space, |_| {
        let node = space.api().get(api::NODE, "", EXTERNAL_HOST)?.context("there is no Node")?;
        let taint = json!({"key": "kubevmm.io/external", "effect": "NoSchedule"});
        ensure!(node["spec"]["taints"] == json!([taint]), "{}", node["spec"]);
        let (capacity, info) = (&node["status"]["capacity"], &node["status"]["nodeInfo"]);
        ensure!(capacity["cpu"] != "0" && capacity["memory"] != "0", "{capacity}");
        ensure!(info["operatingSystem"] == "linux" && info["kubeletVersion"].to_string().contains("kubevmm"), "{info}");

        let pod = |name: &str, spec: &str| {
            space.apply(&format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{spec}, \
                 containers: [{{name: c, image: 'localhost/busybox:1', command: [sleep, '1000']}}]}}}}"
            ))
        };
        pod("ordinary", &format!("nodeSelector: {{kubernetes.io/hostname: {EXTERNAL_HOST}}}"))?;
        let unscheduled = space.condition(api::POD, "ordinary", "PodScheduled", "False", "Unschedulable")?;
        let why = api::condition(&unscheduled, "PodScheduled").2;
        ensure!(why.contains("untolerated taint"), "{why}");

        // As a DaemonSet's that tolerates everything: nobody starts it, and nobody touches it.
        pod("foreign", &format!("nodeName: {EXTERNAL_HOST}, tolerations: [{{operator: Exists}}]"))?;
        let vm = space.blank("web").with(&there("")).apply()?;
        vm.is_ready()?;
        let foreign = space.get(api::POD, "foreign")?.context("it is gone")?;
        ensure!(foreign["status"]["phase"] == "Pending", "{}", foreign["status"]);
        space.api().delete_now(api::POD, &space.namespace, "foreign")
    })
}

fn an_external_host_writes_about_itself_only(space: &Space) -> Result<()> {
    on_external(space, |external| {
        let mine = space.blank("mine").with(&there("")).apply()?;
        let other = space.blank("other").on("h1").apply()?;
        mine.is_ready()?;
        other.is_ready()?;
        space.apply("{apiVersion: v1, kind: Secret, metadata: {name: secret}, stringData: {userData: x}}")?;
        let own = external.credential_of(&external.host)?;
        let kubelet = external.credential_of(&space.cluster.host("h1"))?;
        let (namespace, nothing) = (space.namespace.as_str(), json!({"status": {}}));

        own.patch_status(api::VM, namespace, "mine", &nothing).context("its own VM's status")?;
        own.patch_status(api::HYPERVISOR, "", EXTERNAL_HOST, &nothing).context("its own Hypervisor's status")?;
        own.patch_status(api::DISK, namespace, "mine-root", &nothing).context("its own disk's status")?;
        let printed = json!({"status": {"printableStatus": "Stopped"}});
        for (whose, theirs, client) in [("other", "h1", &own), ("mine", EXTERNAL_HOST, &kubelet)] {
            let status = client.patch_status(api::VM, namespace, whose, &printed);
            must_be_refused(&format!("write the status of VM {whose}"), status)?;
            let status = json!({"status": {"volumeName": "x"}});
            let disk = client.patch_status(api::DISK, namespace, &format!("{whose}-root"), &status);
            must_be_refused(&format!("write the status of the disk of {whose}"), disk)?;
            let hypervisor = client.patch_status(api::HYPERVISOR, "", theirs, &json!({"status": {"session": "x"}}));
            must_be_refused(&format!("write the Hypervisor {theirs}"), hypervisor)?;
            let holder = json!({"spec": {"holderIdentity": "x"}});
            let lease = client.patch(api::LEASE, NODE_LEASES, theirs, &holder);
            must_be_refused(&format!("write the Lease of {theirs}"), lease)?;
            let lease = client.patch(api::LEASE, "kubevmm-system", "h1", &holder);
            must_be_refused("write an executor's Lease", lease)?;
            must_be_refused("read a Secret of nobody's pod", client.get(api::SECRET, namespace, "secret"))?;
            must_be_refused("list all Nodes", client.list(api::NODE, ""))?;
            must_be_refused(
                "write a spec",
                client.patch(api::VM, namespace, whose, &json!({"spec": {"runStrategy": "Halted"}})),
            )?;
        }
        let moved = own.patch_status(api::VM, namespace, "mine", &json!({"status": {"nodeName": "h1"}}));
        must_be_refused("take a VM to another node", moved)?;
        let untainted = own.patch(api::NODE, "", EXTERNAL_HOST, &json!({"spec": {"taints": null}}));
        must_be_refused("take its taint away", untainted)
    })
}

fn an_external_host_that_is_gone_comes_back(space: &Space) -> Result<()> {
    on_external(space, |external| {
        let vm = that_may_run_anywhere(space)?;
        let placed = vm.get()?["status"]["placement"].clone();
        let pod = placed["podName"].as_str().context("it has no pod")?.to_owned();
        external.host.crash()?;
        let gone = shows_unknown(space, &vm, &pod);
        // Also when that failed.
        external.host.boot()?;
        external.host.libvirt_answers()?;
        external.start()?;
        let late = gone?;
        external.is_ready()?;
        vm.is_ready()?;
        late.is_ready()?;
        let now = vm.get()?["status"]["placement"].clone();
        ensure!(now["podUID"] == placed["podUID"] && now["epoch"] == placed["epoch"], "{placed} became {now}");
        ensure!(space.cluster.instances(&vm.uuid()?) == 0, "it runs on a node");
        Ok(())
    })
}

/// A VM on the external host which a node could take as well.
fn that_may_run_anywhere(space: &Space) -> Result<Vm> {
    let _uncordon = Uncordon(space);
    space.cluster.kubectl(["cordon", "h1", "h2"])?;
    let vm = space.blank("web").with("spec: {disks: []}").apply()?;
    vm.is_ready()?;
    ensure!(vm.host()?.name.to_string() == EXTERNAL_HOST, "it is on {}", vm.host()?.name);
    Ok(vm)
}

/// What is there shows that it is not known, and nothing new is bound to the host: the VM that waits for it.
fn shows_unknown(space: &Space, vm: &Vm, pod: &str) -> Result<Vm> {
    vm.condition("Ready", "Unknown", "HostLost")?;
    let what = "is not known to be ready";
    space
        .api()
        .wait(api::NODE, "", EXTERNAL_HOST, what, within(60), |node| api::condition(node, "Ready").0 == "Unknown")?;
    let late = space.blank("late").with(&there("")).apply()?;
    late.condition("Scheduled", "False", "")?;
    // Longer than the pods of others live on a node that is away.
    all_the_time("nothing is started elsewhere", within(15), || {
        let Some(there) = space.get(api::POD, pod)? else { bail!("the placement pod is gone") };
        ensure!(there["metadata"]["deletionTimestamp"].is_null(), "the placement pod is deleted");
        ensure!(space.cluster.instances(&vm.uuid()?) == 0, "it runs on a node");
        ensure!(late.get()?["status"]["nodeName"].is_null(), "a VM is placed on a host that is gone");
        Ok(())
    })?;
    Ok(late)
}

fn an_external_host_is_drained(space: &Space) -> Result<()> {
    on_external(space, |external| {
        let vms = [("moves", "disks: []"), ("waits", "evictionStrategy: Shutdown")];
        let vms = vms.map(|(name, spec)| space.blank(name).with(&there(spec)).apply());
        let [moves, waits] = vms;
        let (moves, waits) = (moves?, waits?);
        moves.is_ready()?;
        waits.is_ready()?;
        let drained = drain(space, EXTERNAL_HOST, &["--timeout=120s"])?;
        ensure!(drained.status.success(), "{}", words(&drained));
        let qemus = external.host.qemus();
        for vm in [&moves, &waits] {
            ensure!(!qemus.contains_key(&vm.uuid()?), "{} runs still", vm.name);
            let why = vm.condition("Scheduled", "False", "Unschedulable")?;
            ensure!(why.contains("kubectl uncordon"), "{why}");
        }
        ensure!(!external.host.domains()?.contains(&moves.domain()), "what has left is there still");
        ensure!(external.host.domain_state(&waits.domain())? == "shut off", "what stays is gone");
        space.cluster.kubectl(["uncordon", EXTERNAL_HOST])?;
        for vm in [moves, waits] {
            vm.is_ready()?;
            ensure!(vm.host()?.name.to_string() == EXTERNAL_HOST, "{} is on {}", vm.name, vm.host()?.name);
        }
        Ok(())
    })
}
