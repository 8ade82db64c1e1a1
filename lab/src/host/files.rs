//! The files that make a host's disk: written before its first boot, kept over later ones.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{HostName, Options, Result, Timings, address::MAX_HOSTS, error::FileContext as _, pki};

/// Makes the host's disk, unless it has one.
pub(super) fn prepare_disk(options: &Options, host: HostName) -> Result<()> {
    let disk = options.host_disk(host);
    let state = options.host_dir(host);
    fs::create_dir_all(&state).file("create", state)?;
    let done = disk.join("prepared");
    if done.exists() {
        return Ok(());
    }
    for dir in ["upper", "work"] {
        make_dir(&disk.join(dir))?;
    }
    let files = Files { upper: disk.join("upper") };
    files.write("/etc/hostname", &format!("{host}\n"))?;
    files.write("/etc/machine-id", &format!("{}\n", host.machine_id()))?;
    files.write("/etc/hosts", &hosts(options))?;
    // No name server: lab traffic stays on this machine, and a look-up fails at once instead of after 10 s.
    files.write("/etc/resolv.conf", "")?;
    make_dir(&files.upper.join("var/log/libvirt/qemu"))?;
    if host.is_control_plane() {
        make_dir(&disk.join("etcd"))?;
        fs::set_permissions(disk.join("etcd"), fs::Permissions::from_mode(0o700)).file("protect", disk.join("etcd"))?;
    } else {
        // Mounted in every host; where no kubelet runs they stay empty.
        for dir in ["containerd", "kubelet"] {
            make_dir(&disk.join(dir))?;
        }
        make_node_files(options, host, &files)?;
    }
    let log = options.host_dir(host).join("log");
    if !log.is_symlink() {
        symlink(files.upper.join("var/log"), &log).file("create", log)?;
    }
    fs::write(&done, "").file("write", done)
}

fn make_node_files(options: &Options, host: HostName, files: &Files) -> Result<()> {
    if options.has_libvirt(host) {
        let libvirtd = format!("{}host_uuid = \"{}\"\n", include_str!("../../host-files/libvirtd.conf"), host.uuid());
        let qemu =
            format!("{}migration_host = \"{}\"\n", include_str!("../../host-files/qemu.conf"), options.address(host));
        files.write("/etc/libvirt/libvirtd.conf", &libvirtd)?;
        files.write("/etc/libvirt/qemu.conf", &qemu)?;
        let autostarted = [
            ("/etc/libvirt/qemu/networks", include_str!("../../host-files/default-network.xml")),
            ("/etc/libvirt/storage", include_str!("../../host-files/default-pool.xml")),
        ];
        for (dir, text) in autostarted {
            files.write(&format!("{dir}/default.xml"), text)?;
            files.link(&format!("{dir}/autostart/default.xml"), "../default.xml")?;
        }
    }
    if !options.has_kubelet(host) {
        return Ok(());
    }
    files.write("/etc/containerd/config.toml", include_str!("../../host-files/containerd.toml"))?;
    files.write_json("/etc/cni/net.d/10-lab.conflist", &pod_network(options, host))?;
    files.write_json("/etc/kubernetes/kubelet.json", &kubelet(options))?;
    pki::make_node(options, host, &files.upper.join("etc/kubernetes"))
}

/// The upper layer of a host that is not mounted.
struct Files {
    upper: PathBuf,
}

impl Files {
    fn place(&self, path: &str) -> Result<PathBuf> {
        let file = self.upper.join(path.trim_start_matches('/'));
        if let Some(dir) = file.parent() {
            make_dir(dir)?;
        }
        Ok(file)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.place(path)?;
        fs::write(&file, text).file("write", file)
    }

    fn write_json(&self, path: &str, value: &serde_json::Value) -> Result<()> {
        self.write(path, &format!("{value:#}\n"))
    }

    fn link(&self, path: &str, target: &str) -> Result<()> {
        let file = self.place(path)?;
        if file.is_symlink() {
            return Ok(());
        }
        symlink(target, &file).file("create", file)
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).file("create", dir)
}

fn hosts(options: &Options) -> String {
    let mut text = format!("127.0.0.1 localhost\n{} cp\n", options.address(HostName::ControlPlane));
    for host in (1..=MAX_HOSTS).map(HostName::Node) {
        text += &format!("{} {host}\n", options.address(host));
    }
    text
}

fn pod_network(options: &Options, host: HostName) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-ipam",
                    "ranges": [[{"subnet": options.pod_network(host)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kubelet(options: &Options) -> serde_json::Value {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "address": "0.0.0.0",
        "tlsCertFile": "/etc/kubernetes/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "maxPods": options.max_pods,
        // The machine's disk and memory are shared with whatever else runs there: only a shortage is a reason.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    });
    if options.timings == Timings::Short {
        config["nodeStatusUpdateFrequency"] = json!("2s");
        config["nodeLeaseDurationSeconds"] = json!(8);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_upstreams_unless_asked_otherwise() {
        let real = kubelet(&Options::default());
        assert!(real.get("nodeStatusUpdateFrequency").is_none() && real.get("nodeLeaseDurationSeconds").is_none());
        let short = kubelet(&Options { timings: Timings::Short, ..Options::default() });
        assert_eq!(short["nodeLeaseDurationSeconds"], 8);
    }

    #[test]
    fn each_host_knows_all_others() {
        let text = hosts(&Options::default());
        assert!(
            text.contains("10.77.0.254 cp\n") && text.contains("10.77.0.1 h1\n") && text.contains("10.77.0.32 h32\n")
        );
    }
}
