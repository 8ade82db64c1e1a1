//! How long an executor takes to know a host with many domains.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kubevmm_lab::HostName;
use uuid::Uuid;

use super::Place;
use crate::api;
use crate::host::Host;
use crate::wait::{wait_for, within};

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// From the start of the process to the Hypervisor that tells of all domains.
    pub executor: Duration,
    /// One virsh that lists the domains and reads the XML of each.
    pub virsh: Duration,
}

/// Measures on the host of `place`, with `domains` that are defined and off.
///
/// # Errors
/// When a domain cannot be defined, or the executor does not report.
pub fn measure(place: &Place, domains: usize) -> Result<Report> {
    let name = HostName::Node(1);
    let host = Host::new(place.lab, name);
    let node = name.to_string();
    define(&host, domains)?;
    place.node(&node)?;
    let virsh = read_all(&host)?;
    let uri = format!("qemu+unix:///system?socket={}", place.lab.libvirt_socket(name).display());
    let start = Instant::now();
    let running = place.executor(&node, &uri)?;
    let told = |status: &api::Json| status["domains"].as_array().map_or(0, Vec::len);
    wait_for("the executor has told of all domains", within(60), || {
        let hypervisor = place.api.get(api::HYPERVISOR, "", &node)?.context("no Hypervisor")?;
        let lease = place.api.get(api::LEASE, "kubevmm-system", &node)?.unwrap_or_default();
        let session = &hypervisor["status"]["session"];
        let current = session.is_string() && *session == lease["spec"]["holderIdentity"];
        Ok((current && told(&hypervisor["status"]) >= domains).then_some(()))
    })?;
    let executor = start.elapsed();
    drop(running);
    Ok(Report { executor, virsh })
}

/// Domains without devices: their number is what counts.
fn define(host: &Host, domains: usize) -> Result<()> {
    let xml = |n: usize| {
        format!(
            "<domain type='qemu'><name>bench-{n}</name><uuid>{}</uuid><memory>65536</memory><os><type>hvm</type></os></domain>",
            Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("bench-{n}").as_bytes())
        )
    };
    let files: String = (0..domains).map(|n| format!("echo \"{}\" >/run/bench-{n}.xml\n", xml(n))).collect();
    let commands: String = (0..domains).map(|n| format!("define /run/bench-{n}.xml\n")).collect();
    host.sh(&format!("{files}virsh -q <<'END'\n{commands}END\nrm /run/bench-*.xml")).map(drop)
}

fn read_all(host: &Host) -> Result<Duration> {
    let names = host.virsh(["list", "--all", "--name"])?;
    let commands: String = names.split_whitespace().map(|name| format!("dumpxml {name}\n")).collect();
    let script = format!("virsh -q >/dev/null <<'END'\nlist --all\n{commands}END");
    let start = Instant::now();
    host.sh(&script)?;
    Ok(start.elapsed())
}
