//! How long it takes from `kubectl apply` to a running domain, beside what libvirt itself takes.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kubevmm_lab::{HostName, Lab};
use serde_json::json;

use crate::api::{self, ApiServer, Json};
use crate::host::Host;
use crate::wait::{wait_for, within};

/// How often each is done.
const RUNS: usize = 5;
const NAMESPACE: &str = "kubevmm-bench";
const DOMAIN: &str = "kubevmm-bench-by-virsh";

/// What was measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// From the apply of a VirtualMachine to libvirt's "started", the image being on the host already.
    pub apply: Vec<Duration>,
    /// `virsh define` and `virsh start` of the same domain.
    pub virsh: Vec<Duration>,
}

impl Report {
    /// The median from apply to started.
    pub fn median(&self) -> Duration {
        median(&self.apply)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:34} {}  median", "seconds", (1..=RUNS).map(|n| format!("{n:>6}")).collect::<String>())?;
        let mut row = |what: &str, times: &[Duration]| {
            let all: String = times.iter().map(|time| format!("{:6.2}", time.as_secs_f32())).collect();
            writeln!(f, "{what:34} {all}  {:6.2}", median(times).as_secs_f32())
        };
        row("kubectl apply -> libvirt started", &self.apply)?;
        row("virsh define + virsh start", &self.virsh)
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Measures on a lab that is up, with the project and its defaults installed; `image` names a ClusterVirtualMachineImage.
///
/// # Errors
/// When a VM does not start.
pub fn measure(lab: &'static Lab, image: &str) -> Result<Report> {
    let api = ApiServer::open(&lab.kubeconfig())?;
    api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
    let node = ready_host(&api, lab)?;
    let measured = runs(&api, lab, node, image);
    api.delete(api::NAMESPACE, "", NAMESPACE)?;
    api.wait_gone(api::NAMESPACE, "", NAMESPACE, within(120))?;
    measured
}

fn runs(api: &ApiServer, lab: &'static Lab, node: HostName, image: &str) -> Result<Report> {
    let host = Host::new(lab, node);
    let mut report = Report { apply: Vec::new(), virsh: Vec::new() };
    // The first one brings the image to the host, and is not counted.
    for run in 0..=RUNS {
        let name = format!("run-{run}");
        let took = apply_to_started(api, node, &name, image)?;
        if run > 0 {
            let xml = host.virsh(["dumpxml", "--inactive", &format!("{NAMESPACE}.{name}")])?;
            halt(api, &name)?;
            report.apply.push(took);
            report.virsh.push(define_and_start(&host, &by_another_name(&xml)?)?);
        }
        api.delete(api::VM, NAMESPACE, &name)?;
        api.wait_gone(api::VM, NAMESPACE, &name, within(60))?;
    }
    Ok(report)
}

fn ready_host(api: &ApiServer, lab: &Lab) -> Result<HostName> {
    let ready = |host: &HostName| {
        let hypervisor = api.get(api::HYPERVISOR, "", &host.to_string()).ok().flatten();
        hypervisor.is_some_and(|hypervisor| api::is_true(&hypervisor, "Ready"))
    };
    wait_for("a hypervisor is ready", within(60), || Ok(lab.options().node_names().into_iter().find(ready)))
}

fn apply_to_started(api: &ApiServer, node: HostName, name: &str, image: &str) -> Result<Duration> {
    let manifest = json!({
        "apiVersion": "kubevmm.io/v1beta1", "kind": "VirtualMachine",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "memory": {"size": "128Mi"},
            "terminationGracePeriodSeconds": 0,
            "networks": [{"name": "lan"}],
            "disks": [{"name": "root", "template": {"source": {"image": {
                "kind": "ClusterVirtualMachineImage", "name": image,
            }}}}],
            "placement": {"nodeSelector": {"kubernetes.io/hostname": node.to_string()}},
        },
    });
    let start = Instant::now();
    api.apply(&manifest)?;
    let runs = |vm: &Json| vm["status"]["domain"]["state"] == "Running";
    loop {
        if api.get(api::VM, NAMESPACE, name)?.as_ref().is_some_and(runs) {
            return Ok(start.elapsed());
        }
        if start.elapsed() > within(120) {
            bail!("{name} has not started: {}", api.get(api::VM, NAMESPACE, name)?.unwrap_or_default()["status"]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two QEMUs cannot have one disk.
fn halt(api: &ApiServer, name: &str) -> Result<()> {
    api.patch(api::VM, NAMESPACE, name, &json!({"spec": {"runStrategy": "Halted"}}))?;
    api.wait(api::VM, NAMESPACE, name, "is off", within(60), |vm| vm["status"]["printableStatus"] == "Stopped")?;
    Ok(())
}

/// A domain by hand.
fn define_and_start(host: &Host, xml: &str) -> Result<Duration> {
    let path = format!("/run/{DOMAIN}.xml");
    host.sh(&format!("cat >{path} <<'XML'\n{xml}\nXML"))?;
    let start = Instant::now();
    let started = host.sh(&format!("virsh -q define {path} && virsh -q start {DOMAIN}"));
    let took = start.elapsed();
    let removed = host.sh(&format!("virsh -q destroy {DOMAIN}; virsh -q undefine {DOMAIN} && rm {path}"));
    started.and(removed).map(|_| took)
}

/// A domain without name, UUID and metadata, so that it is nobody's.
fn by_another_name(xml: &str) -> Result<String> {
    let (name, uuid) = (between(xml, "<name>", "</name>")?, between(xml, "<uuid>", "</uuid>")?);
    let metadata = between(xml, "<metadata>", "</metadata>").unwrap_or_default();
    let plain = xml.replace(&format!("<name>{name}</name>"), &format!("<name>{DOMAIN}</name>"));
    let plain = plain.replace(&format!("<uuid>{uuid}</uuid>"), "");
    Ok(plain.replace(&format!("<metadata>{metadata}</metadata>"), ""))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Result<&'a str> {
    let after = text.split_once(start).with_context(|| format!("no {start} in the domain"))?.1;
    Ok(after.split_once(end).with_context(|| format!("no {end} in the domain"))?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_all_runs_and_the_median() {
        let seconds = |times: [f32; 5]| times.map(Duration::from_secs_f32).to_vec();
        let report = Report { apply: seconds([3.0, 1.0, 2.0, 5.0, 4.0]), virsh: seconds([0.1, 0.2, 0.3, 0.4, 0.5]) };
        assert_eq!(
            report.to_string(),
            "seconds                                 1     2     3     4     5  median\n\
             kubectl apply -> libvirt started     3.00  1.00  2.00  5.00  4.00    3.00\n\
             virsh define + virsh start           0.10  0.20  0.30  0.40  0.50    0.30\n"
        );
    }

    #[test]
    fn the_domain_by_hand_is_nobodys() {
        let xml = "<domain><name>a.b</name><uuid>1</uuid><metadata>\n<x/></metadata><os/></domain>";
        assert_eq!(by_another_name(xml).unwrap(), format!("<domain><name>{DOMAIN}</name><os/></domain>"));
    }
}
