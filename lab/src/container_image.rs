//! The images that every host has: busybox, also as the sandbox of pods, and Kubernetes' scheduler.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{Result, error::FileContext as _};

/// The sandbox image of the lab's containerd.
pub(crate) const SANDBOX: &str = "localhost/pause:1";
const NAMES: [&str; 2] = [SANDBOX, "localhost/busybox:1"];
/// The name under which the project's manifests expect the scheduler of the cluster.
const SCHEDULER: &str = concat!("kubevmm/kube-scheduler:", env!("CARGO_PKG_VERSION"));
const APPLETS: &[&str] = &[
    "cat",
    "chmod",
    "cp",
    "date",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "ls",
    "mkdir",
    "mount",
    "mv",
    "nc",
    "ps",
    "rm",
    "sed",
    "sh",
    "sha256sum",
    "sleep",
    "stat",
    "sync",
    "tail",
    "touch",
    "true",
    "umount",
    "vi",
    "wget",
];

/// Writes busybox as an archive that containerd imports, from a static program.
pub(crate) fn write_busybox(busybox: &Path, archive: &Path) -> Result<()> {
    let program = fs::read(busybox).file("read", busybox)?;
    let command = ["/bin/sleep", "2147483647"];
    let archived = busybox_layer(&program).and_then(|layer| docker_archive(&layer, &NAMES, &command));
    fs::write(archive, archived.file("write", archive)?).file("write", archive)
}

/// Writes the scheduler as such an archive, from the program that holds all components.
pub(crate) fn write_scheduler(kubernetes: &Path, archive: &Path) -> Result<()> {
    let program = fs::read(kubernetes).file("read", kubernetes)?;
    let archived = program_layer(&program, "usr/local/bin/kube-scheduler")
        .and_then(|layer| docker_archive(&layer, &[SCHEDULER], &["kube-scheduler"]));
    fs::write(archive, archived.file("write", archive)?).file("write", archive)
}

/// A layer with one program, where Kubernetes' own images have theirs.
fn program_layer(program: &[u8], path: &str) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    tar.append_data(&mut header(EntryType::Directory, 0o1777, 0), "tmp/", io::empty())?;
    tar.append_data(&mut header(EntryType::Regular, 0o755, program.len()), path, program)?;
    tar.into_inner()
}

fn busybox_layer(busybox: &[u8]) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (name, mode) in [("bin/", 0o755), ("tmp/", 0o1777)] {
        let mut header = header(EntryType::Directory, mode, 0);
        tar.append_data(&mut header, name, io::empty())?;
    }
    tar.append_data(&mut header(EntryType::Regular, 0o755, busybox.len()), "bin/busybox", busybox)?;
    for applet in APPLETS {
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()
}

fn docker_archive(layer: &[u8], names: &[&str], command: &[&str]) -> io::Result<Vec<u8>> {
    let digest = |data: &[u8]| hex::encode(Sha256::digest(data));
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/usr/local/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(layer))]},
        "history": [{"created_by": "lab"}],
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest = json!([{"Config": config_name, "RepoTags": names, "Layers": ["layer.tar"]}]).to_string();
    let mut tar = Builder::new(Vec::new());
    for (name, data) in
        [(config_name.as_str(), config.as_bytes()), ("layer.tar", layer), ("manifest.json", manifest.as_bytes())]
    {
        tar.append_data(&mut header(EntryType::Regular, 0o644, data.len()), name, data)?;
    }
    let mut archive = tar.into_inner()?;
    archive.flush()?;
    Ok(archive)
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn the_archive_names_its_layer_by_digest_and_is_the_same_each_time() {
        let layer = busybox_layer(b"program").unwrap();
        let make = || docker_archive(&layer, &NAMES, &["/bin/sleep"]).unwrap();
        let archive = make();
        assert_eq!(archive, make());
        let mut config = String::new();
        let mut tar = tar::Archive::new(archive.as_slice());
        tar.entries().unwrap().next().unwrap().unwrap().read_to_string(&mut config).unwrap();
        assert!(config.contains(&hex::encode(Sha256::digest(&layer))));
    }
}
