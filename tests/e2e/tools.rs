//! virtctl, as a person uses it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use kubevmm_tests::{Space, api};

kubevmm_tests::stories! { alone: false;
    virtctl_runs_lists_and_stops,
    virtctl_says_what_is_wrong,
    virtctl_is_a_plugin_of_kubectl,
}

/// Built beside this test.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.ancestors().nth(2).context("target directory")?.join("virtctl"))
}

/// virtctl, in the story's namespace.
pub(crate) fn command(space: &Space, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.args(["--kubeconfig", &space.cluster.lab.kubeconfig().to_string_lossy(), "-n", &space.namespace]);
    command.args(arguments);
    Ok(command)
}

fn virtctl(space: &Space, arguments: &[&str]) -> Result<Output> {
    command(space, arguments)?.output().context("run virtctl: `cargo build --bin virtctl`")
}

/// The standard output of a virtctl that ends well.
pub(crate) fn succeeds(space: &Space, arguments: &[&str]) -> Result<String> {
    let output = virtctl(space, arguments)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "virtctl {arguments:?}: {}: {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// What a virtctl that fails says of it.
pub(crate) fn fails(space: &Space, arguments: &[&str]) -> Result<String> {
    let output = virtctl(space, arguments)?;
    ensure!(!output.status.success(), "virtctl {arguments:?} succeeds");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn virtctl_runs_lists_and_stops(space: &Space) -> Result<()> {
    let key = space.cluster.state().join("id_ed25519.pub");
    let url = space.cluster.url(&format!("tiny.qcow2?story={}", space.namespace));
    let run = [
        "run",
        "web",
        "--image",
        &url,
        "--memory",
        "192Mi",
        "--cpus",
        "1",
        "--ssh-key",
        &key.to_string_lossy(),
        "--timeout",
        "3m",
    ];
    let said = succeeds(space, &run)?;
    let vm = space.vm("web");
    let address = vm.address()?;
    ensure!(said.contains(&address), "it does not say how to reach the VM:\n{said}");
    ensure!(vm.ssh("true").is_ok(), "the key did not reach the guest");
    ensure!(succeeds(space, &["list"])?.contains("web"), "the VM is not listed");
    let described = succeeds(space, &["describe", "web"])?;
    ensure!(described.contains(&address), "the address is not described:\n{described}");

    succeeds(space, &["stop", "web", "--wait"])?;
    vm.is_off()?;
    ensure!(vm.get()?["spec"]["runStrategy"] == "Halted", "stop on Always sets Halted");
    succeeds(space, &["start", "web", "--wait"])?;
    vm.is_ready()?;
    vm.vanishes()?;
    Ok(())
}

fn virtctl_says_what_is_wrong(space: &Space) -> Result<()> {
    let missing = virtctl(space, &["start", "nobody"])?;
    let error = String::from_utf8_lossy(&missing.stderr).into_owned();
    ensure!(missing.status.code() == Some(3), "a missing VM: {}: {error}", missing.status);
    ensure!(error.trim().lines().count() == 1 && error.contains("nobody"), "{error}");

    let vm =
        space.blank("nowhere").with("spec: {placement: {nodeSelector: {story: none}}, runStrategy: Halted}").apply()?;
    vm.is_off()?;
    let late = virtctl(space, &["start", "nowhere", "--wait", "--timeout", "5s"])?;
    let error = String::from_utf8_lossy(&late.stderr).into_owned();
    ensure!(late.status.code() == Some(4), "a time-out: {}: {error}", late.status);
    vm.condition("Scheduled", "False", "")?;

    let dry = succeeds(space, &["run", "dry", "--image", "tiny", "--dry-run=client", "-o", "yaml"])?;
    space.cluster.lab.kubectl_with_input(["-n", &space.namespace, "apply", "--dry-run=server", "-f", "-"], &dry)?;
    ensure!(space.get(api::VM, "dry")?.is_none(), "a dry run made a VM");
    Ok(())
}

fn virtctl_is_a_plugin_of_kubectl(space: &Space) -> Result<()> {
    let plugins = space.cluster.state().join("plugins");
    fs::create_dir_all(&plugins)?;
    let plugin = plugins.join("kubectl-virt");
    if plugin.is_symlink() {
        fs::remove_file(&plugin)?;
    }
    std::os::unix::fs::symlink(program()?, &plugin)?;
    let mut paths = vec![plugins];
    paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(paths)?;
    let kubectl = |arguments: &[&str]| -> Result<(Option<i32>, String, String)> {
        let output = space.cluster.lab.kubectl_command().env("PATH", &path).arg("virt").args(arguments).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.code(), text(output.stdout), text(output.stderr)))
    };
    let namespace = space.namespace.as_str();
    let vm = space.blank("web").with("spec: {runStrategy: Halted}").apply()?;
    vm.is_off()?;
    let (code, said, error) = kubectl(&["-n", namespace, "start", "web", "--wait"])?;
    ensure!(code == Some(0), "{code:?}: {said}{error}");
    vm.is_ready()?;
    let (code, said, error) = kubectl(&["-n", namespace, "list", "-o", "name"])?;
    ensure!(code == Some(0) && said.contains("web"), "{code:?}: {said}{error}");
    // Its exit codes and its name reach whoever called kubectl.
    let (code, _, error) = kubectl(&["-n", namespace, "start", "nobody"])?;
    ensure!(code == Some(3) && error.contains("nobody"), "{code:?}: {error}");
    let (code, said, error) = kubectl(&["--help"])?;
    ensure!(code == Some(0) && said.contains("kubectl virt"), "{code:?}: {said}{error}");
    Ok(())
}
