//! What an executor may do, and whether the project's own pods run with exactly that.

use anyhow::{Context, Result, bail, ensure};
use kubevmm_tests::api::ApiServer;
use kubevmm_tests::cluster::SYSTEM;
use kubevmm_tests::{Space, api, wait_for, within};
use serde_json::json;

kubevmm_tests::stories! { alone: false;
    an_executor_writes_about_its_own_node_only,
    placement_pods_are_restricted,
    editors_manage_vms_and_viewers_read,
    editors_of_pods_cannot_forge_those_of_vms,
}

/// A client with a token as the executor's pod on this node has it.
fn as_executor_of(space: &Space, node: &str) -> Result<ApiServer> {
    let pods = space.api().list(api::POD, SYSTEM)?;
    let of_node = |pod: &&api::Json| {
        pod["spec"]["nodeName"] == node && pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet"
    };
    let pod = pods.iter().find(of_node).context("no executor there")?;
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    let token = space.api().pod_token(SYSTEM, account, pod)?;
    ApiServer::with_token(&space.cluster.lab.kubeconfig(), &token)
}

pub(crate) fn must_be_refused<T>(what: &str, result: Result<T>) -> Result<()> {
    match result {
        Ok(_) => bail!("this was not to be allowed: {what}"),
        Err(error) if format!("{error:#}").to_lowercase().contains("forbidden") => Ok(()),
        Err(error) => bail!("to {what} was refused in another way: {error:#}"),
    }
}

fn an_executor_writes_about_its_own_node_only(space: &Space) -> Result<()> {
    let mine = space.blank("mine").on("h1").apply()?;
    let other = space.blank("other").on("h2").apply()?;
    mine.is_ready()?;
    other.is_ready()?;
    space.apply("{apiVersion: v1, kind: Secret, metadata: {name: secret}, stringData: {userData: x}}")?;
    let executor = as_executor_of(space, "h1")?;
    let (namespace, nothing) = (space.namespace.as_str(), json!({"status": {}}));

    executor.patch_status(api::VM, namespace, "mine", &nothing).context("its own VM's status")?;
    executor.patch_status(api::HYPERVISOR, "", "h1", &nothing).context("its own Hypervisor's status")?;
    executor.patch_status(api::DISK, namespace, "mine-root", &nothing).context("its own disk's status")?;
    let printed = json!({"status": {"printableStatus": "Stopped"}});
    must_be_refused(
        "write the status of another node's VM",
        executor.patch_status(api::VM, namespace, "other", &printed),
    )?;
    must_be_refused(
        "write the status of another node's disk",
        executor.patch_status(api::DISK, namespace, "other-root", &json!({"status": {"volumeName": "x"}})),
    )?;
    must_be_refused(
        "take a VM to another node",
        executor.patch_status(api::VM, namespace, "mine", &json!({"status": {"nodeName": "h2"}})),
    )?;
    must_be_refused(
        "write another Hypervisor",
        executor.patch_status(api::HYPERVISOR, "", "h2", &json!({"status": {"session": "x"}})),
    )?;
    must_be_refused(
        "renew another's Lease",
        executor.patch(api::LEASE, SYSTEM, "h2", &json!({"spec": {"holderIdentity": "x"}})),
    )?;
    must_be_refused(
        "write a spec",
        executor.patch(api::VM, namespace, "mine", &json!({"spec": {"runStrategy": "Halted"}})),
    )?;
    must_be_refused(
        "write metadata",
        executor.patch(api::VM, namespace, "mine", &json!({"metadata": {"finalizers": []}})),
    )?;
    must_be_refused("read a Secret", executor.get(api::SECRET, namespace, "secret"))?;
    must_be_refused("delete a VM", executor.delete(api::VM, namespace, "mine"))?;
    must_be_refused(
        "make a pod",
        executor.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace},
            "spec": {"containers": [{"name": "c", "image": "kubevmm/pause"}]},
        })),
    )
}

fn placement_pods_are_restricted(space: &Space) -> Result<()> {
    space.api().patch(
        api::NAMESPACE,
        "",
        &space.namespace,
        &json!({
            "metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }),
    )?;
    let vm = space.blank("web").apply()?;
    vm.is_ready()?;
    let pods = space.api().list(api::POD, &space.namespace)?;
    ensure!(pods.len() == 1, "{} pods for one VM", pods.len());
    ensure!(pods[0]["spec"]["automountServiceAccountToken"] == false, "the pod has a token");
    Ok(())
}

/// A user with one of the cluster's own roles in the story's namespace.
pub(crate) fn with_role(space: &Space, role: &str) -> Result<ApiServer> {
    let namespace = &space.namespace;
    space.apply(&format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {role}}}}}\n\
         ---\n\
         {{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: {role}}}, \
          roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}, \
          subjects: [{{kind: ServiceAccount, name: {role}, namespace: {namespace}}}]}}"
    ))?;
    let token = space.cluster.kubectl(["-n", namespace, "create", "token", role])?;
    ApiServer::with_token(&space.cluster.lab.kubeconfig(), token.trim())
}

fn editors_manage_vms_and_viewers_read(space: &Space) -> Result<()> {
    let elsewhere = space.another()?;
    let (namespace, other) = (space.namespace.as_str(), elsewhere.namespace.as_str());
    let (editor, viewer) = (with_role(space, "edit")?, with_role(space, "view")?);
    let halted = |space: &Space| space.blank("web").with("spec: {runStrategy: Halted}").manifest().json().clone();
    let object = |kind: &str, spec: api::Json| {
        json!({"apiVersion": "kubevmm.io/v1beta1", "kind": kind, "spec": spec,
               "metadata": {"name": "by-a-user", "namespace": namespace}})
    };
    let cluster_wide = |kind: &str, spec: api::Json| json!({"apiVersion": "kubevmm.io/v1beta1", "kind": kind, "spec": spec, "metadata": {"name": namespace}});
    let blank = json!({"size": "8Mi", "source": {"blank": {}}});
    let http = json!({"source": {"http": {"url": "http://127.0.0.1:9/x"}}});
    let nat = json!({"nat": {"subnet": "192.168.168.0/24"}});

    // An editor manages what is namespaced, here and nowhere else.
    wait_for("the role's new rights are known", within(30), || editor.apply(&halted(space)).map(Some))?;
    space.vm("web").is_off()?;
    editor.patch(api::VM, namespace, "web", &json!({"spec": {"memory": {"size": "40Mi"}}}))?;
    for (kind, spec) in [(api::DISK, &blank), (api::IMAGE, &http), (api::NETWORK, &nat)] {
        editor.apply(&object(kind.name, spec.clone())).with_context(|| format!("an editor makes a {}", kind.name))?;
        viewer.get(kind, namespace, "by-a-user")?.with_context(|| format!("a viewer sees the {}", kind.name))?;
        must_be_refused("a viewer deletes", viewer.delete(kind, namespace, "by-a-user"))?;
        editor.delete(kind, namespace, "by-a-user")?;
    }
    must_be_refused("an editor makes a VM elsewhere", editor.apply(&halted(&elsewhere)))?;
    must_be_refused("an editor reads VMs elsewhere", editor.list(api::VM, other))?;
    let status = json!({"status": {"nodeName": "h1"}});
    must_be_refused("an editor writes a status", editor.patch_status(api::VM, namespace, "web", &status))?;
    let pool = json!({"dir": {"path": "/root"}});
    must_be_refused("an editor makes a pool", editor.apply(&cluster_wide("VirtualMachineStoragePool", pool)))?;
    let bridge = json!({"existing": {"bridge": "eth0"}});
    let network = cluster_wide("ClusterVirtualMachineNetwork", bridge);
    must_be_refused("an editor makes a cluster network", editor.apply(&network))?;
    let image = cluster_wide("ClusterVirtualMachineImage", http);
    must_be_refused("an editor makes a cluster image", editor.apply(&image))?;
    let word = json!({"spec": {"accelerator": "TCG"}});
    must_be_refused("an editor writes a Hypervisor", editor.patch(api::HYPERVISOR, "", "h1", &word))?;

    // A viewer reads, here and nowhere else.
    viewer.get(api::VM, namespace, "web")?.context("a viewer does not see the VM")?;
    ensure!(viewer.list(api::VM, namespace)?.len() == 1, "a viewer does not see the VMs");
    must_be_refused("a viewer reads VMs elsewhere", viewer.list(api::VM, other))?;
    let start = json!({"spec": {"runStrategy": "Always"}});
    must_be_refused("a viewer starts a VM", viewer.patch(api::VM, namespace, "web", &start))?;
    must_be_refused("a viewer deletes a VM", viewer.delete(api::VM, namespace, "web"))?;

    editor.delete(api::VM, namespace, "web")?;
    space.vm("web").is_gone()?;
    elsewhere.close()
}

fn editors_of_pods_cannot_forge_those_of_vms(space: &Space) -> Result<()> {
    let vm = space.blank("web").apply()?;
    vm.is_ready()?;
    let namespace = space.namespace.as_str();
    let name = vm.get()?["status"]["placement"]["podName"].as_str().context("no placement pod")?.to_owned();
    let pod = space.get(api::POD, &name)?.context("no pod")?;
    let editor = with_role(space, "edit")?;
    wait_for("an editor labels a VM's pod", within(30), || {
        editor.patch(api::POD, namespace, &name, &json!({"metadata": {"labels": {"team": "a"}}})).map(Some)
    })?;
    for (what, key) in [
        ("annotations", "kubevmm.io/asked-hash"),
        ("annotations", "kubevmm.io/requirements"),
        ("labels", "kubevmm.io/vm-uid"),
        ("labels", "kubevmm.io/vm"),
    ] {
        ensure!(pod["metadata"][what][key].is_string(), "{key} is not in the {what}: {}", pod["metadata"]);
        for value in [json!(null), json!("x")] {
            let forged = json!({"metadata": {what: {key: value}}});
            must_be_refused(&format!("{key} is {value}"), editor.patch(api::POD, namespace, &name, &forged))?;
        }
    }
    for what in ["annotations", "labels"] {
        let forged = json!({"metadata": {what: {"kubevmm.io/new": "x"}}});
        must_be_refused(&format!("one more in {what}"), editor.patch(api::POD, namespace, &name, &forged))?;
    }
    let evict = json!({"metadata": {"annotations": {"kubevmm.io/evict": "x"}}});
    must_be_refused("ask a VM to leave", editor.patch(api::POD, namespace, &name, &evict))?;
    let mut owner = pod["metadata"]["ownerReferences"][0].clone();
    owner["controller"] = false.into();
    owner["blockOwnerDeletion"] = json!(null);
    let shared = json!({"metadata": {"ownerReferences": [owner]}});
    must_be_refused("take a pod from its VM", editor.patch(api::POD, namespace, &name, &shared))?;
    let mut pod_of_nobody = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "forged", "namespace": namespace},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}, "containers": [{"name": "c", "image": "none"}]},
    });
    for controls in [false, true] {
        owner["controller"] = controls.into();
        pod_of_nobody["metadata"]["ownerReferences"] = json!([owner]);
        must_be_refused("make a pod in the name of a VM", editor.create(&pod_of_nobody))?;
    }
    pod_of_nobody["metadata"]["ownerReferences"] = json!(null);
    editor.create(&pod_of_nobody).context("a pod of no VM")?;
    space.api().delete_now(api::POD, namespace, "forged")?;
    vm.stays_ready(3)?;
    // The kubelet and the garbage collector have their way.
    vm.vanishes()?;
    space.api().wait_gone(api::POD, namespace, &name, within(60))
}
