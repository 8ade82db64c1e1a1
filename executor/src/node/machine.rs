//! What the host says of itself, for `nodeInfo`.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use nix::sys::utsname;

/// `nodeInfo` of this host. `server` is the API server's version: tools compare a node's with it, and there is no kubelet
/// that could be older.
pub fn info(server: &str) -> NodeSystemInfo {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let system = utsname::uname();
    let kernel = system.map(|system| system.release().to_string_lossy().into_owned()).unwrap_or_default();
    let (machine_id, product) = (read("/etc/machine-id"), read("/sys/class/dmi/id/product_uuid"));
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: concat!("kubevmm://", env!("CARGO_PKG_VERSION")).to_owned(),
        kernel_version: kernel,
        kubelet_version: format!(
            "{}{VERSION_MARK}{}",
            server.split('+').next().unwrap_or(server),
            env!("CARGO_PKG_VERSION")
        ),
        operating_system: "linux".to_owned(),
        os_image: os_image(Path::new("/etc/os-release")),
        system_uuid: if product.is_empty() { machine_id.clone() } else { product },
        machine_id,
        ..NodeSystemInfo::default()
    }
}

/// What the version in the place of a kubelet's has: the Node is an executor's.
pub const VERSION_MARK: &str = "+kubevmm-";

/// Kubernetes' name of this machine's architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The host's own name, as a Node can have it.
pub fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn os_image(release: &Path) -> String {
    let text = fs::read_to_string(release).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_described_as_a_kubelet_would() {
        let info = info("v1.36.3+k3s1");
        assert_eq!(info.kubelet_version, concat!("v1.36.3+kubevmm-", env!("CARGO_PKG_VERSION")));
        assert!(!info.kernel_version.is_empty() && !info.boot_id.is_empty());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("os-release");
        assert_eq!(os_image(&file), "Linux");
        fs::write(&file, "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n").unwrap();
        assert_eq!(os_image(&file), "Debian GNU/Linux 13 (trixie)");
    }
}
