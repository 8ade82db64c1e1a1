//! What is not ours on a host: planted before the stories, compared byte by byte after them.

use anyhow::Result;

use crate::host::Host;
use crate::picture::{Picture, without_sizes};

const DIRECTORY: &str = "/srv/foreign";

/// Plants a domain (paused, so that it costs nothing), a network, a pool and a volume with content on each host.
///
/// # Errors
/// Those of virsh.
pub fn plant(hosts: &[Host]) -> Result<Picture> {
    for host in hosts {
        if host.domains()?.iter().any(|name| name == "foreign") {
            continue;
        }
        host.sh(&format!("mkdir -p {DIRECTORY}"))?;
        host.virsh_xml(
            "pool-define",
            &format!("<pool type='dir'><name>foreign</name><target><path>{DIRECTORY}</path></target></pool>"),
        )?;
        host.virsh(["pool-start", "foreign"])?;
        host.virsh(["vol-create-as", "foreign", "foreign.img", "1M", "--format", "raw"])?;
        host.sh(&format!("head -c 1048576 /dev/urandom >{DIRECTORY}/foreign.img"))?;
        host.virsh_xml(
            "net-define",
            "<network><name>foreign</name><bridge name='foreign0'/>\
             <ip address='192.168.211.1' netmask='255.255.255.0'/></network>",
        )?;
        host.virsh(["net-start", "foreign"])?;
        host.virsh_xml(
            "define",
            &format!(
                "<domain type='qemu'><name>foreign</name><memory unit='MiB'>16</memory>\
                 <os><type arch='x86_64' machine='pc'>hvm</type></os>\
                 <metadata><note xmlns='https://example.org/note'>not of this project</note></metadata>\
                 <devices><disk type='file'><driver name='qemu' type='raw'/><source file='{DIRECTORY}/foreign.img'/>\
                 <target dev='vda' bus='virtio'/></disk>\
                 <interface type='network'><source network='foreign'/></interface></devices></domain>"
            ),
        )?;
        host.virsh(["start", "foreign", "--paused"])?;
    }
    picture(hosts)
}

/// How everything foreign looks now.
///
/// # Errors
/// Those of virsh: also when one of the things is gone.
pub fn picture(hosts: &[Host]) -> Result<Picture> {
    let mut seen = Picture::default();
    for host in hosts {
        let mut note = |what: &str, text: String| seen.note(host, what, text);
        note("domain", host.virsh(["dumpxml", "--inactive", "foreign"])?);
        note("domain's state", host.virsh(["domstate", "foreign"])?);
        note("domain's id", host.virsh(["domid", "foreign"])?);
        note("network", host.virsh(["net-dumpxml", "--inactive", "foreign"])?);
        note("network's state", host.virsh(["net-info", "foreign"])?);
        note("pool", without_sizes(&host.virsh(["pool-dumpxml", "foreign"])?));
        note("pool's state", without_sizes(&host.virsh(["pool-info", "foreign"])?));
        note("files", host.sh(&format!("cd {DIRECTORY} && sha256sum * && stat -c '%n %a %u %g %s %Y' *"))?);
    }
    Ok(seen)
}

/// Starts after a crash of the host what is not ours, as its owner would.
///
/// # Errors
/// Those of virsh.
pub fn start_again(host: &Host) -> Result<()> {
    // libvirt takes a pool for active whose directory is there.
    if !host.virsh(["pool-info", "foreign"])?.contains("running") {
        host.virsh(["pool-start", "foreign"])?;
    }
    host.virsh(["net-start", "foreign"])?;
    host.virsh(["start", "foreign", "--paused"]).map(drop)
}

/// A host has crashed: takes over the one thing that a restart changes.
pub(crate) fn forgive_restart(before: &mut Picture, host: &Host, now: &Picture) {
    before.forgive(host, "domain's id", now);
}
