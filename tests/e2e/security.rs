//! What an executor may do, and whether the project's own pods run with exactly that.

use anyhow::{Context, Result, bail, ensure};
use kubevmm_tests::api::ApiServer;
use kubevmm_tests::cluster::SYSTEM;
use kubevmm_tests::{Space, api};
use serde_json::json;

kubevmm_tests::stories! { alone: false;
    an_executor_writes_about_its_own_node_only,
    placement_pods_are_restricted,
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

fn must_be_refused<T>(what: &str, result: Result<T>) -> Result<()> {
    match result {
        Ok(_) => bail!("an executor may {what}"),
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
    let printed = json!({"status": {"printableStatus": "Stopped"}});
    must_be_refused(
        "write the status of another node's VM",
        executor.patch_status(api::VM, namespace, "other", &printed),
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
