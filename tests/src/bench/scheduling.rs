//! How many placement pods a kube-scheduler binds in a second, with the extender and without it. The hosts are Nodes that
//! only the API server knows.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use kubevmm_api::hypervisor::HypervisorStatus;
use kubevmm_api::requirements::{NetworkNeed, PoolNeed, REQUIREMENTS, Requirements};
use kubevmm_api::{LABEL_VM, SCHEDULER, SYSTEM_NAMESPACE};
use serde_json::json;

use super::Place;
use super::audit::Audit;
use super::place::Running;
use crate::api::{self, Json};
use crate::cluster::work_tree;
use crate::wait::{wait_for, within};

const NAMESPACE: &str = "kubevmm-bench";
/// Requests to the API server at a time.
const AT_A_TIME: usize = 8;
/// Where the scheduler finds its extender.
const EXTENDER: &str = "127.0.0.1:8443";
const HEALTH: &str = "127.0.0.1:8081";
const POOL: &str = "fast";
const POOL_UID: &str = "6a4ec1b0-0000-4000-8000-000000000001";
const NETWORK_UID: &str = "6a4ec1b0-0000-4000-8000-000000000002";

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Hosts.
    pub hosts: usize,
    /// VMs that are placed already.
    pub placed: usize,
    /// Placement pods that wait.
    pub waiting: usize,
    /// How often they are placed, with and without the extender by turns.
    pub rounds: usize,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Pods a second without the extender, of each round.
    pub without: Vec<f64>,
    /// Pods a second with it.
    pub with: Vec<f64>,
    /// The most memory that the extender had, in MiB.
    pub memory: f64,
}

/// Measures on a lab of its own.
///
/// # Errors
/// When a pod is not bound.
pub fn measure(place: &Place, scale: Scale) -> Result<Report> {
    place.api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
    place.api.apply(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": NAMESPACE},
    }))?;
    side_by_side(scale.hosts, |n| host(place, n))?;
    side_by_side(scale.placed, |n| place.api.create(&pod(&format!("placed-{n}"), Some(n % scale.hosts))))?;
    let mut report = Report::default();
    for _ in 0..scale.rounds {
        report.without.push(round(place, scale, &mut None)?);
        let mut memory = Some(0.0);
        report.with.push(round(place, scale, &mut memory)?);
        report.memory = report.memory.max(memory.unwrap_or_default());
    }
    Ok(report)
}

/// Binds the waiting pods; pods a second. With `memory`, the extender is asked, and its memory is told.
fn round(place: &Place, scale: Scale, memory: &mut Option<f64>) -> Result<f64> {
    side_by_side(scale.waiting, |n| place.api.create(&pod(&format!("waiting-{n}"), None)))?;
    let dir = place.dir().join("scheduler");
    fs::create_dir_all(&dir)?;
    let extender = memory.is_some().then(|| start_extender(place, &dir)).transpose()?;
    let audit = Audit::from_now(place.lab)?;
    let config = dir.join("config.yaml");
    fs::write(&config, configuration(place, &dir, extender.is_some())?)?;
    let mut scheduler = place.kubernetes("kube-scheduler", &["--config".as_ref(), config.as_os_str()])?;
    let bound = wait_for("all pods are bound", within(600), || {
        scheduler.must_run();
        let bound = audit.times("create pods/binding")?;
        Ok((bound.len() >= scale.waiting).then_some(bound))
    })?;
    drop(scheduler);
    if let (Some(memory), Some(extender)) = (memory, &extender) {
        *memory = most_memory(extender)?;
    }
    side_by_side(scale.waiting, |n| place.api.delete_now(api::POD, NAMESPACE, &format!("waiting-{n}")))?;
    rate(&bound).context("too few pods were bound to tell how fast")
}

/// Events a second, from the first to the last.
fn rate(times: &[Timestamp]) -> Option<f64> {
    let (first, last) = (times.iter().min()?, times.iter().max()?);
    let seconds = Duration::try_from(last.duration_since(*first)).ok()?.as_secs_f64();
    (seconds > 0.0).then(|| (times.len() - 1) as f64 / seconds)
}

fn start_extender(place: &Place, dir: &Path) -> Result<Running> {
    let tls = dir.join("tls");
    fs::create_dir_all(&tls)?;
    place
        .project("kubevmm-scheduler-extender", &["certificate".as_ref(), "--dir".as_ref(), tls.as_os_str()])?
        .ends_well()?;
    let serve = ["serve", "--address", EXTENDER, "--health-address", HEALTH, "--tls-dir"].map(AsRef::as_ref);
    let extender = place.project("kubevmm-scheduler-extender", &[&serve[..], &[tls.as_os_str()]].concat())?;
    wait_for("the extender knows all hosts", within(120), || {
        let mut stream = TcpStream::connect(HEALTH)?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {HEALTH}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
    })?;
    Ok(extender)
}

/// The configuration that is installed, for a process on this machine.
fn configuration(place: &Place, dir: &Path, with_extender: bool) -> Result<String> {
    let manifests = fs::read_to_string(work_tree().join("yamls/60-scheduler.yaml"))?;
    let documents = api::documents(&manifests)?;
    let map = documents.iter().find(|document| document["kind"] == "ConfigMap").context("no ConfigMap")?;
    let installed = map["data"].as_object().and_then(|data| data.values().next()?.as_str()).context("no data")?;
    let mut configuration: Json = serde_yaml_ng::from_str(installed)?;
    configuration["leaderElection"]["leaderElect"] = false.into();
    // Neither of the two is to wait for its own limit.
    configuration["clientConnection"] = json!({"qps": 5000, "burst": 5000, "kubeconfig": place.lab.kubeconfig()});
    if with_extender {
        configuration["extenders"][0]["tlsConfig"]["caFile"] = json!(dir.join("tls/ca.crt"));
    } else if let Some(all) = configuration.as_object_mut() {
        all.remove("extenders");
    }
    Ok(configuration.to_string())
}

fn most_memory(process: &Running) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// Calls `each` with the numbers below `count`.
fn side_by_side(count: usize, each: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let each = &each;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_A_TIME)
            .map(|first| scope.spawn(move || (first..count).step_by(AT_A_TIME).try_for_each(each)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn node_name(n: usize) -> String {
    format!("sim-{n}")
}

fn host(place: &Place, n: usize) -> Result<()> {
    let name = node_name(n);
    let resources = json!({"cpu": "64", "memory": "256Gi", "pods": "500"});
    place.api.create(&json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }))?;
    // What admission has put there: a new Node is not ready.
    place.api.patch(api::NODE, "", &name, &json!({"spec": {"taints": null}}))?;
    place.api.create(&json!({
        "apiVersion": "kubevmm.io/v1beta1", "kind": "Hypervisor", "metadata": {"name": name}, "spec": {},
    }))?;
    let session = format!("{name}_1");
    place.api.patch_status(api::HYPERVISOR, "", &name, &json!({"status": hypervisor(&session)?}))?;
    place.api.create(&json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": SYSTEM_NAMESPACE},
        // Nobody renews it.
        "spec": {"holderIdentity": session, "leaseDurationSeconds": 36000},
    }))
}

/// A host as libvirt describes one.
fn hypervisor(session: &str) -> Result<Json> {
    let machines: Vec<String> = (0..30).map(|n| format!("pc-q35-{}.{}", n / 3, n % 3)).chain(["q35".into()]).collect();
    let status: HypervisorStatus = serde_json::from_value(json!({
        "session": session, "cpus": 64, "memory": "256Gi",
        "accelerator": {"type": "KVM", "evidence": "a probe"},
        "capabilities": {
            "cpu": {
                "model": "Icelake-Server", "vendor": "Intel",
                "models": (0..60).map(|n| format!("Model-{n}")).collect::<Vec<_>>(),
                "features": (0..60).map(|n| format!("feature-{n}")).collect::<Vec<_>>(),
            },
            "machines": machines, "firmwares": ["bios", "uefi", "uefi-secure-boot"], "tpmBackends": ["emulator"],
        },
        "allocatable": {"cpu": "64", "memory": "250Gi"},
        "used": {"domains": 4, "vcpus": 8, "memory": "9Gi"},
        "pools": [{"name": POOL, "uid": POOL_UID, "ready": true, "capacity": "2Ti", "available": "1Ti"}],
        "networks": [{"kind": "ClusterVirtualMachineNetwork", "name": "lan", "uid": NETWORK_UID, "ready": true}],
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Connected", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }))?;
    Ok(serde_json::to_value(status)?)
}

/// A placement pod as the controller makes it; on its node already, or waiting for one.
fn pod(name: &str, on: Option<usize>) -> Json {
    let needs = Requirements {
        vcpus: 2,
        memory: 2 << 30,
        machine: Some("q35".into()),
        firmware: Some("bios".into()),
        pools: vec![PoolNeed { name: POOL.into(), uid: POOL_UID.into(), bytes: 20 << 30, shared: false }],
        networks: vec![NetworkNeed {
            kind: kubevmm_api::common::NetworkKind::ClusterVirtualMachineNetwork,
            namespace: None,
            name: "lan".into(),
            uid: NETWORK_UID.into(),
            everywhere: false,
        }],
        ..Default::default()
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": NAMESPACE,
            "labels": {LABEL_VM: name}, "annotations": {REQUIREMENTS: needs.to_annotation()},
        },
        "spec": {
            "schedulerName": SCHEDULER,
            "nodeName": on.map(node_name),
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "pause", "image": "kubevmm/pause",
                "resources": {"requests": {"cpu": "200m", "memory": "2Gi"}},
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_steps_between() {
        let times: Vec<Timestamp> = (0..5).map(|n| Timestamp::from_millisecond(1000 + n * 500).unwrap()).collect();
        assert_eq!(rate(&times), Some(2.0));
        assert_eq!(rate(&times[..1]), None);
    }

    #[test]
    fn each_number_is_called_once() {
        let seen = std::sync::Mutex::new(Vec::new());
        let note = |n| {
            seen.lock().unwrap().push(n);
            Ok(())
        };
        side_by_side(20, note).unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }
}
