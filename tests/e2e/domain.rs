//! What no field says: `spec.domain`, and who may set it.

use anyhow::{Result, bail, ensure};
use kubevmm_tests::api::ApiServer;
use kubevmm_tests::{Json, Space, api, wait_for, within};
use serde_json::json;

use crate::security::with_role;

kubevmm_tests::stories! { alone: false;
    who_may_edit_a_namespace_may_not_set_spec_domain,
    what_no_field_says_reaches_libvirt,
    what_spec_domain_cannot_say_is_named_and_clears,
}

/// A domain over a VM that is off, as a manifest.
fn with_domain(space: &Space, name: &str) -> Json {
    space.blank(name).with("spec: {runStrategy: Halted, domain: {title: Web}}").manifest().json().clone()
}

fn must_name_the_role(what: &str, result: Result<()>) -> Result<()> {
    match result {
        Ok(()) => bail!("this was not to be allowed: {what}"),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(said.contains("spec.domain") && said.contains("ClusterRole kubevmm-domain"), "to {what}: {said}");
            Ok(())
        }
    }
}

fn who_may_edit_a_namespace_may_not_set_spec_domain(space: &Space) -> Result<()> {
    let namespace = &space.namespace;
    let editor = with_role(space, "edit")?;
    let apply = |who: &ApiServer, manifest: &Json| who.apply(manifest).map(drop);
    let patch = |spec: Json| editor.patch(api::VM, namespace, "web", &json!({ "spec": spec }));

    let plain = space.blank("web").with("spec: {runStrategy: Halted}").manifest().json().clone();
    wait_for("the editor's rights are known", within(30), || apply(&editor, &plain).map(Some))?;
    must_name_the_role("make a VM with it", apply(&editor, &with_domain(space, "other")))?;
    must_name_the_role("set it", patch(json!({"domain": {"title": "Web"}})))?;

    // An administrator sets it; an editor goes on with all the rest, and may take it away.
    apply(space.api(), &with_domain(space, "web"))?;
    patch(json!({"memory": {"size": "40Mi"}, "domain": {"title": "Web"}}))?;
    must_name_the_role("change it", patch(json!({"domain": {"title": "Mine"}})))?;
    must_name_the_role("take a part of it away", patch(json!({"domain": {"title": null}})))?;
    patch(json!({"domain": null}))?;

    space.apply(&format!(
        "{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: domain}}, \
          roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubevmm-domain}}, \
          subjects: [{{kind: ServiceAccount, name: edit, namespace: {namespace}}}]}}"
    ))?;
    wait_for("the binding counts", within(30), || apply(&editor, &with_domain(space, "web")).map(Some))?;
    space.vm("web").is_off()?;

    // Readers of JSON go no deeper than 128 levels: one such object would hide all others from them.
    let bottomless = (0..150).fold(json!(1), |inside, _| json!({ "a": inside }));
    let refused = patch(json!({"domain": bottomless})).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("levels of mappings and lists"), "what no reader can read was accepted: {refused}");
    Ok(())
}

fn what_no_field_says_reaches_libvirt(space: &Space) -> Result<()> {
    let vm = space
        .blank("web")
        .with(
            "spec: {domain: {title: The web, devices: {watchdogs: [{model: itco, action: poweroff}], rngs: null, \
             disks: [{alias: {name: ua-disk-root}, iotune: {total_iops_sec: 500}}]}}}",
        )
        .apply()?;
    vm.is_ready()?;
    let (host, qemu) = (vm.host()?, vm.qemu()?);
    let xml = host.virsh(["dumpxml", &vm.domain()])?;
    for line in
        ["<title>The web</title>", "<total_iops_sec>500</total_iops_sec>", "<watchdog model='itco' action='poweroff'"]
    {
        ensure!(xml.contains(line), "{line} is not in\n{xml}");
    }
    ensure!(!xml.contains("<rng") && xml.matches("<disk ").count() == 1, "{xml}");
    vm.condition("RestartRequired", "False", "UpToDate")?;

    vm.patch("{domain: {title: null, devices: {watchdogs: [{model: itco, action: none}]}}}")?;
    let paths = vm.condition("RestartRequired", "True", "SpecChanged")?;
    ensure!(paths.ends_with(": spec.domain.devices.watchdogs, spec.domain.title"), "{paths}");
    ensure!(vm.qemu()? == qemu, "the running VM was disturbed");
    vm.request("restart", "Restart")?;
    vm.is_ready()?;
    vm.condition("RestartRequired", "False", "UpToDate")?;
    let xml = vm.host()?.virsh(["dumpxml", &vm.domain()])?;
    ensure!(xml.contains("action='none'") && !xml.contains("<title>"), "the restart did not bring the change:\n{xml}");
    Ok(())
}

fn what_spec_domain_cannot_say_is_named_and_clears(space: &Space) -> Result<()> {
    let vm = space.blank("web").with("spec: {domain: {name: other}}").apply()?;
    let message = vm.condition("Ready", "False", "InvalidDomain")?;
    ensure!(message.starts_with("spec.domain.name:"), "the key is not named: {message}");
    ensure!(vm.domain_state()?.is_empty(), "a domain was made of it");

    // What libvirt refuses is said in its own words.
    vm.patch("{domain: {name: null, devices: {watchdogs: [{model: barking}]}}}")?;
    let message = vm.condition("Ready", "False", "StartFailed")?;
    ensure!(message.contains("failed to validate content"), "{message}");
    vm.patch("{domain: {devices: null}}")?;
    vm.is_ready()?;

    // A running VM goes on, and it is told before its restart that there would be none.
    let qemu = vm.qemu()?;
    vm.patch("{domain: {uuid: 0a000000-0000-4000-8000-000000000001}}")?;
    let message = vm.condition("RestartRequired", "Unknown", "InvalidDomain")?;
    ensure!(message.starts_with("spec.domain.uuid:"), "{message}");
    ensure!(vm.qemu()? == qemu && api::is_true(&vm.get()?, "Ready"), "the running VM was disturbed");
    vm.patch("{domain: {uuid: null, title: Web}}")?;
    let paths = vm.condition("RestartRequired", "True", "SpecChanged")?;
    ensure!(paths.ends_with(": spec.domain.title"), "{paths}");
    Ok(())
}
