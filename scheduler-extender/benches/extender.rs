//! How long the extender takes to answer for a large cluster, over HTTPS as kube-scheduler asks it, and how much memory
//! the cluster takes: `make bench-extender`.
//!
//! 5,000 hosts and 20,000 placed VMs are in the cache; each question names all 5,000 hosts. Meanwhile the cluster goes on:
//! Leases are renewed and hosts report, as often as they do. The memory is that of the whole process, with the client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kubevmm_api::Hypervisor;
use kubevmm_api::fit::Policy;
use kubevmm_api::requirements::REQUIREMENTS;
use kubevmm_scheduler_extender::cache::{Cache, Watched};
use kubevmm_scheduler_extender::server::{self, Extender};
use kubevmm_scheduler_extender::tls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const HOSTS: usize = 5_000;
const VMS: usize = 20_000;
/// Different makes of hosts: those of one have the same capabilities.
const MAKES: usize = 50;
const WARM_UP: usize = 50;
const QUESTIONS: usize = 1_000;
/// What is promised.
const MOST: Duration = Duration::from_millis(10);
const MOST_MIB: u64 = 300;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let cache = Arc::new(Cache::default());
    fill(&cache)?;
    let dir = tempfile::tempdir()?;
    tls::make(dir.path())?;
    let listener = server::listen("127.0.0.1:0".parse()?).await?;
    let address = listener.local_addr()?;
    let extender = Arc::new(Extender { cache: Arc::clone(&cache), policy: Policy::Spread });
    tokio::spawn(server::serve(listener, tls::server(dir.path())?, extender));
    tokio::spawn(go_on(Arc::clone(&cache)));
    let mut client = connect(address, &dir.path().join(tls::CA)).await?;

    println!("{HOSTS} hosts, {VMS} VMs, {QUESTIONS} questions of all hosts each, over HTTPS on the loopback\n");
    println!("| question | nodes that fit | p50 | p99 | most | at most |");
    println!("|---|---|---|---|---|---|");
    let mut slow = Vec::new();
    for (what, path, needs) in [
        ("filter", "/filter", usual()),
        ("filter, a device of one host", "/filter", rare()),
        ("prioritize", "/prioritize", usual()),
    ] {
        let body = Bytes::from(question(&needs).to_string());
        let (mut times, mut fit) = (Vec::with_capacity(QUESTIONS), 0);
        for number in 0..WARM_UP + QUESTIONS {
            let started = Instant::now();
            let answer = ask(&mut client, path, body.clone()).await?;
            if number >= WARM_UP {
                times.push(started.elapsed());
            } else if number == 0 {
                fit = fitting(&answer)?;
            }
        }
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100];
        let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
        println!("| {what} | {fit} | {} | {} | {} | p99 {} |", ms(at(50)), ms(at(99)), ms(at(100)), ms(MOST));
        if at(99) > MOST {
            slow.push(what);
        }
    }
    let mib = resident()? / 1024;
    println!("| memory | | | | {mib} MiB | {MOST_MIB} MiB |");
    ensure!(slow.is_empty(), "too slow: {}", slow.join(", "));
    ensure!(mib <= MOST_MIB, "too large: {mib} MiB");
    Ok(())
}

fn object<T: DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

fn host_name(number: usize) -> String {
    format!("worker-{number:04}.rack-{:02}.example.org", number % 100)
}

fn uid(kind: &str, number: usize) -> String {
    format!("{kind:0>8}-0000-4000-8000-{number:012}")
}

/// As its executor reports a busy host: with all that libvirt knows.
fn hypervisor(number: usize, round: usize) -> Result<Hypervisor> {
    let make = number % MAKES;
    let words = |word: &str, count: usize| (0..count).map(|n| format!("{word}-{make}-{n}")).collect::<Vec<_>>();
    let devices: Vec<_> = (0..24)
        .map(|n| {
            json!({
                "name": format!("pci_0000_{n:02x}_00_0"), "bus": "PCI", "address": format!("0000:{n:02x}:00.0"),
                "vendorID": "8086", "productID": format!("{n:04x}"), "description": "Ethernet Controller, dual port",
                "iommuGroup": n,
            })
        })
        .collect();
    let pools: Vec<_> = ["local", "nfs", "scratch"]
        .iter()
        .map(|name| {
            // Two hosts of three have the pool of the VM that is asked for.
            let ready = *name != "local" || !number.is_multiple_of(3);
            json!({
                "name": name, "uid": uid(name, 0), "ready": ready, "reason": "PoolInactive",
                "message": "the pool is not active", "capacity": "4Ti", "available": format!("{}Gi", 500 + round),
            })
        })
        .collect();
    let networks: Vec<_> = (0..4)
        .map(|n| json!({"kind": "ClusterVirtualMachineNetwork", "name": format!("lan-{n}"), "uid": uid("lan", n), "ready": true}))
        .collect();
    let images: Vec<_> = (0..8)
        .map(|n| {
            let image = (number + n) % 16;
            json!({
                "kind": "ClusterVirtualMachineImage", "name": format!("image-{image}"), "uid": uid("image", image),
                "poolName": "local", "volumeName": format!("image..image-{image}.qcow2"), "state": "Downloaded",
            })
        })
        .collect();
    object(json!({
        "apiVersion": "kubevmm.io/v1beta1", "kind": "Hypervisor", "metadata": {"name": host_name(number)}, "spec": {},
        "status": {
            "session": format!("{}_{}", host_name(number), uid("s", number)), "cpus": 64, "memory": "256Gi",
            "accelerator": {"type": "KVM", "evidence": "guest code ran"},
            "capabilities": {
                "cpu": {"model": format!("Model-{make}"), "models": words("cpu", 90), "features": words("feature", 120)},
                "machines": words("pc-q35", 60).into_iter().chain(["q35".to_owned()]).collect::<Vec<_>>(),
                "firmwares": ["bios", "uefi", "uefi-secure-boot"], "tpmBackends": ["emulator", "passthrough"],
            },
            "devices": devices,
            "allocatable": {"vcpus": 256, "cpu": "62", "memory": "250Gi"},
            "used": {"domains": 4, "vcpus": 8 + number % 64, "memory": "32Gi"},
            "unmanaged": {"domains": 0, "vcpus": 0, "memory": "0"},
            "pools": pools, "networks": networks, "images": images,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Connected", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        },
    }))
}

fn lease(number: usize, version: usize) -> Result<Lease> {
    object(json!({
        "metadata": {"name": host_name(number), "resourceVersion": version.to_string()},
        "spec": {"holderIdentity": format!("{}_s", host_name(number)), "leaseDurationSeconds": 40},
    }))
}

/// What an ordinary VM needs.
fn usual() -> Value {
    json!({
        "lastNode": host_name(7), "vcpus": 4, "memory": 4_u64 << 30,
        "pools": [{"name": "local", "uid": uid("local", 0), "bytes": 20_u64 << 30}],
        "images": [{"kind": "ClusterVirtualMachineImage", "name": "image-3", "pool": "local"}],
        "networks": [{"kind": "ClusterVirtualMachineNetwork", "name": "lan-1", "uid": uid("lan", 1)}],
        "machine": "q35", "firmware": "bios",
    })
}

/// What all hosts but one refuse in the end.
fn rare() -> Value {
    let mut needs = usual();
    needs["localDisks"] = json!([{"name": "data", "node": host_name(1)}]);
    needs["devices"] = json!([{"bus": "PCI", "address": "0000:03:00.0"}]);
    needs
}

fn pod(number: usize) -> Result<Pod> {
    object(json!({
        "metadata": {
            "name": format!("kubevmm-vm-{number}-0123abcd"), "namespace": format!("team-{}", number % 200),
            "uid": uid("pod", number), "labels": {"kubevmm.io/vm": format!("vm-{number}")},
            "annotations": {REQUIREMENTS: usual().to_string()},
        },
        "spec": {"containers": [], "nodeName": host_name(number % HOSTS)},
        "status": {"phase": "Running"},
    }))
}

fn fill(cache: &Cache) -> Result<()> {
    for number in 0..HOSTS {
        let (host, lease) = (hypervisor(number, 0)?, lease(number, number + 1)?);
        cache.change(|state| {
            state.put_hypervisor(&host);
            state.put_lease(Watched::Leases, &lease, Instant::now())
        })?;
    }
    for number in 0..VMS {
        let pod = pod(number)?;
        cache.change(|state| state.put_pod(&pod));
    }
    Watched::ALL.into_iter().for_each(|kind| cache.listed(kind));
    Ok(())
}

/// What the watches bring: each Lease is renewed every 10 seconds, and each host reports once a minute.
async fn go_on(cache: Arc<Cache>) -> Result<()> {
    let mut every = tokio::time::interval(Duration::from_millis(20));
    for round in 0.. {
        every.tick().await;
        for n in 0..10 {
            let number = round * 10 + n;
            let lease = lease(number % HOSTS, HOSTS + number + 1)?;
            cache.change(|state| state.put_lease(Watched::Leases, &lease, Instant::now()))?;
        }
        for n in 0..2 {
            let host = hypervisor((round * 2 + n) % HOSTS, round)?;
            cache.change(|state| state.put_hypervisor(&host));
        }
    }
    Ok(())
}

fn question(needs: &Value) -> Value {
    let annotations = json!({REQUIREMENTS: needs.to_string()});
    json!({
        "Pod": {"metadata": {"name": "kubevmm-web-0123abcd", "namespace": "shop", "uid": "own", "annotations": annotations},
            "spec": {"containers": [{"name": "pause", "image": "kubevmm/pause:0.1.0"}]}},
        "Nodes": null,
        "NodeNames": (0..HOSTS).map(host_name).collect::<Vec<_>>(),
    })
}

async fn connect(address: std::net::SocketAddr, ca: &std::path::Path) -> Result<SendRequest<Full<Bytes>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(client: &mut SendRequest<Full<Bytes>>, path: &str, body: Bytes) -> Result<Bytes> {
    client.ready().await?;
    let answer = client.send_request(Request::post(path).body(Full::new(body))?).await?;
    ensure!(answer.status().is_success(), "{path} answers {}", answer.status());
    Ok(answer.into_body().collect().await?.to_bytes())
}

/// How many nodes an answer leaves, or scores.
fn fitting(answer: &[u8]) -> Result<usize> {
    let answer: Value = serde_json::from_slice(answer)?;
    answer["NodeNames"].as_array().or(answer.as_array()).map(Vec::len).context("no nodes in the answer")
}

/// Resident memory of this process in KiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
