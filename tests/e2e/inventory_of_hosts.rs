//! What a Hypervisor tells of its host: what guests can be given there, how full it is, and what an administrator keeps.

use anyhow::{Context, Result, bail, ensure};
use kubevmm_api::{Quantity, SYSTEM_NAMESPACE};
use kubevmm_tests::{Json, Space, api, wait_for, within};
use serde_json::json;

use crate::tools::succeeds;

kubevmm_tests::stories! { alone: false;
    a_host_tells_what_guests_can_be_given,
    kubectl_and_virtctl_tell_how_full_and_healthy_hosts_are,
}

/// The words of a list.
fn words(list: &Json) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Json::as_str).collect()
}

fn a_host_tells_what_guests_can_be_given(space: &Space) -> Result<()> {
    for host in space.cluster.libvirt_hosts() {
        let name = host.name.to_string();
        let complete = |hypervisor: &Json| hypervisor["status"]["capabilities"].is_object();
        let told = space.api().wait(api::HYPERVISOR, "", &name, "tells what it offers", within(30), complete)?;
        let status = &told["status"];
        let found = &status["capabilities"];
        // The test asks virsh the same questions.
        let usable = host.sh("virsh domcapabilities --virttype qemu --machine q35 | grep -c \"usable='yes'\"")?;
        if status["accelerator"]["type"] == "TCG" {
            ensure!(words(&found["cpu"]["models"]).len().to_string() == usable.trim(), "{}", found["cpu"]);
        }
        ensure!(found["cpu"]["model"].is_string() && found["cpu"]["vendor"].is_string(), "{}", found["cpu"]);
        ensure!(words(&found["cpu"]["features"]).contains(&"fpu"), "what the model implies: {}", found["cpu"]);
        let machines = words(&found["machines"]);
        let known = host.sh("virsh domcapabilities --machine q35 | sed -n 's|.*<machine>\\(.*\\)</machine>|\\1|p'")?;
        ensure!(machines.contains(&"q35") && machines.contains(&known.trim()), "{machines:?}");
        ensure!(words(&found["firmwares"]) == ["bios", "uefi", "uefi-secure-boot"], "{}", found["firmwares"]);
        ensure!(found["migration"]["live"] == true, "{}", found["migration"]);
        ensure!(status["driver"] == "QEMU" && status["numa"][0]["cpus"].is_string(), "{status}");
        let devices = host.sh("virsh nodedev-list --cap pci | grep -c pci_")?;
        let told = status["devices"].as_array().map_or(0, Vec::len);
        ensure!(told > 0 && told <= devices.trim().parse()?, "{told} of {devices} devices: bridges are not told");
    }
    Ok(())
}

fn kubectl_and_virtctl_tell_how_full_and_healthy_hosts_are(space: &Space) -> Result<()> {
    let table = space.cluster.kubectl(["get", "hv"])?;
    let headers = "NAME READY REASON MAINTENANCE VMS VCPUS MEMORY ACCELERATOR ORPHANS FOREIGN AGE";
    let seen: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(seen.join(" ") == headers, "{table}");
    ensure!(table.lines().all(|line| line.trim_end().len() <= 140), "{table}");
    let line = table.lines().find(|line| line.starts_with("h1 ")).unwrap_or_default();
    ensure!(line.contains("%)") && line.contains("Connected"), "{table}");

    let listed = succeeds(space, &["node", "list"])?;
    ensure!(listed.lines().any(|line| line.starts_with("h1 ") && line.contains("Ready")), "{listed}");
    ensure!(listed.contains("LibvirtUnavailable"), "the host without libvirt has a problem: {listed}");
    let described = succeeds(space, &["node", "describe", "h1"])?;
    for label in ["CPU models:", "Machines:", "Firmware:", "Resources:", "Pools:", "Devices:", "Conditions:"] {
        ensure!(described.contains(label), "{label}\n{described}");
    }
    Ok(())
}

/// Stories that count what runs on a host.
pub(crate) mod alone {
    use super::*;

    kubevmm_tests::stories! { alone: true;
        a_foreign_domain_counts_for_its_host,
        what_an_administrator_keeps_cannot_be_promised,
    }

    fn counted(status: &Json) -> Option<(i64, i64, u64)> {
        let usage = &status["unmanaged"];
        let memory = Quantity(usage["memory"].as_str()?.into()).bytes().ok()?;
        Some((usage["domains"].as_i64()?, usage["vcpus"].as_i64()?, memory))
    }

    fn a_foreign_domain_counts_for_its_host(space: &Space) -> Result<()> {
        let host = space.cluster.host("h2");
        let known = |hypervisor: &Json| counted(&hypervisor["status"]).is_some();
        let before = space.api().wait(api::HYPERVISOR, "", "h2", "tells what is unmanaged", within(30), known)?;
        let (domains, vcpus, memory) = counted(&before["status"]).unwrap_or_default();
        host.virsh_xml(
            "create",
            "<domain type='qemu'><name>visitor</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>",
        )?;
        let told = |hypervisor: &Json| {
            counted(&hypervisor["status"]).is_some_and(|(now, cpus, bytes)| {
                // Of the memory, QEMU's own is a part.
                (now, cpus) == (domains + 1, vcpus + 2) && bytes > memory + (64 << 20)
            })
        };
        let there = space.api().wait(api::HYPERVISOR, "", "h2", "tells of the domain", within(30), told);
        let full = space.cluster.kubectl(["get", "hv", "h2"]);
        host.virsh(["destroy", "visitor"])?;
        let used = there?["status"]["used"]["vcpus"].clone();
        ensure!(full?.contains(&format!(" {used}/")), "kubectl does not show {used} virtual CPUs");
        let gone = |hypervisor: &Json| counted(&hypervisor["status"]) == Some((domains, vcpus, memory));
        space.api().wait(api::HYPERVISOR, "", "h2", "forgets the domain", within(30), gone).map(drop)
    }

    fn what_an_administrator_keeps_cannot_be_promised(space: &Space) -> Result<()> {
        let hypervisor = |what: &str, fits: &dyn Fn(&Json) -> bool| {
            space.api().wait(api::HYPERVISOR, "", "h2", what, within(20), |hypervisor| fits(&hypervisor["status"]))
        };
        let plain = hypervisor("says what can be promised", &|status| status["allocatable"]["memory"].is_string())?;
        let before = requested(space)?;
        let spec = json!({"spec": {"maintenance": true, "overcommit": {"cpu": 3},
                                   "systemReserved": {"cpu": "500m", "memory": "1Gi"}}});
        space.api().patch(api::HYPERVISOR, "", "h2", &spec)?;
        let cpus = plain["status"]["cpus"].as_i64().unwrap_or(0);
        let kept = hypervisor("keeps what is reserved", &|status| {
            status["allocatable"]["vcpus"] == (cpus * 1000 - 500) * 3 / 1000
                && status["allocatable"]["memory"] != plain["status"]["allocatable"]["memory"]
        });
        let listed = succeeds(space, &["node", "list"]);
        let withheld = requests(space, "the node's scheduler hears of it", ("500m", before.1 + (1 << 30)));
        let nothing = json!({"spec": {"maintenance": null, "overcommit": null, "systemReserved": null}});
        space.api().patch(api::HYPERVISOR, "", "h2", &nothing)?;
        kept?;
        withheld?;
        let listed = listed?;
        ensure!(listed.contains("Ready,Maintenance"), "{listed}");
        let as_before = |status: &Json| status["allocatable"] == plain["status"]["allocatable"];
        hypervisor("promises all again", &as_before)?;
        requests(space, "its pod keeps as much as before", (&before.0, before.1))?;
        let pod = kubevmm_api::names::reservation_pod("h2");
        let runs = |pod: &Json| pod["status"]["phase"] == "Running";
        space.api().wait(api::POD, SYSTEM_NAMESPACE, &pod, "runs again", within(60), runs).map(drop)
    }

    /// CPU and bytes of memory that the pod requests which keeps room on h2; none for no CPU.
    fn requested(space: &Space) -> Result<(String, u64)> {
        let name = kubevmm_api::names::reservation_pod("h2");
        let pod = space.api().get(api::POD, SYSTEM_NAMESPACE, &name)?.context("no pod keeps room on h2")?;
        let requests = &pod["spec"]["containers"][0]["resources"]["requests"];
        let memory = Quantity(requests["memory"].as_str().context("it keeps no memory")?.to_owned()).bytes()?;
        Ok((requests["cpu"].as_str().unwrap_or_default().to_owned(), memory))
    }

    fn requests(space: &Space, what: &str, (cpu, memory): (&str, u64)) -> Result<()> {
        wait_for(what, within(60), || {
            let now = requested(space)?;
            if now == (cpu.to_owned(), memory) { Ok(Some(())) } else { bail!("it requests {now:?}") }
        })
    }
}
