//! The image that every host has: busybox, also as the sandbox of pods.

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

/// Writes the image as an archive that containerd imports, from a static busybox.
pub(crate) fn write(busybox: &Path, archive: &Path) -> Result<()> {
    let program = fs::read(busybox).file("read", busybox)?;
    let archived = layer(&program).and_then(|layer| docker_archive(&layer)).file("write", archive)?;
    fs::write(archive, archived).file("write", archive)
}

fn layer(busybox: &[u8]) -> io::Result<Vec<u8>> {
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

fn docker_archive(layer: &[u8]) -> io::Result<Vec<u8>> {
    let digest = |data: &[u8]| hex::encode(Sha256::digest(data));
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(layer))]},
        "history": [{"created_by": "lab"}],
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest = json!([{"Config": config_name, "RepoTags": NAMES, "Layers": ["layer.tar"]}]).to_string();
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
        let layer = layer(b"program").unwrap();
        let archive = docker_archive(&layer).unwrap();
        assert_eq!(archive, docker_archive(&layer).unwrap());
        let mut config = String::new();
        let mut tar = tar::Archive::new(archive.as_slice());
        tar.entries().unwrap().next().unwrap().unwrap().read_to_string(&mut config).unwrap();
        assert!(config.contains(&hex::encode(Sha256::digest(&layer))));
    }
}
