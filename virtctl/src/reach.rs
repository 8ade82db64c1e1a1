//! How to reach a VM that runs: its address, and the ssh command. Pure.

use std::fmt::Write as _;

use kubevmm_api::VirtualMachine;

/// What is known beside the VM.
#[derive(Debug, Default)]
pub(crate) struct Hints<'a> {
    /// Login name in the guest.
    pub(crate) user: Option<&'a str>,
    /// File of the private key.
    pub(crate) identity: Option<&'a str>,
    /// The first NIC's network is nat: its addresses are known on its host only.
    pub(crate) nat: bool,
}

/// Says how to reach `vm`.
pub(crate) fn text(vm: &VirtualMachine, hints: &Hints<'_>, program: &str) -> String {
    let name = vm.metadata.name.as_deref().unwrap_or_default();
    let namespace = vm.metadata.namespace.as_deref().unwrap_or_default();
    let status = vm.status.clone().unwrap_or_default();
    let node = status.node_name.as_deref().unwrap_or_default();
    let mut out = format!("{name} is running on {node}\n");
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(out, "  {:<9}{value}", label);
    };
    let known = status.interfaces.iter().filter(|nic| !nic.addresses.is_empty());
    for nic in known.clone() {
        line("address", &format!("{} ({})", nic.addresses.join(", "), nic.name));
    }
    match known.clone().next().and_then(|nic| nic.addresses.first()) {
        Some(address) => {
            let identity = hints.identity.map_or(String::new(), |file| format!("-i {file} "));
            let user = hints.user.map_or(String::new(), |user| format!("{user}@"));
            line("ssh", &format!("ssh {identity}{user}{address}"));
            if hints.nat {
                line("note", &format!("the network is nat: the address is reachable from {node} only"));
            }
        }
        None => line("address", "none: the VM has no network"),
    }
    line("more", &format!("{program} describe -n {namespace} {name}"));
    out
}

/// The login of the distribution's own cloud images, by the image's name.
pub(crate) fn usual_user(image: &str) -> Option<&'static str> {
    let image = image.to_ascii_lowercase();
    [
        ("debian", "debian"),
        ("ubuntu", "ubuntu"),
        ("fedora", "fedora"),
        ("alma", "almalinux"),
        ("rocky", "rocky"),
        ("centos", "cloud-user"),
        ("rhel", "cloud-user"),
        ("alpine", "alpine"),
        ("arch", "arch"),
        ("cirros", "cirros"),
    ]
    .into_iter()
    .find_map(|(name, user)| image.contains(name).then_some(user))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{golden, vms};

    #[test]
    fn a_vm_with_an_address() {
        let hints = Hints { user: Some("debian"), identity: Some("/home/me/.ssh/id_ed25519"), nat: true };
        golden("reach.txt", &text(&vms()[0], &hints, "virtctl"));
    }

    #[test]
    fn a_vm_without_a_network() {
        let mut vm = vms().remove(0);
        vm.status.as_mut().unwrap().interfaces.clear();
        assert!(text(&vm, &Hints::default(), "kubectl virt").contains("none: the VM has no network"));
    }

    #[test]
    fn logins_of_usual_images() {
        assert_eq!(usual_user("Debian-12-generic"), Some("debian"));
        assert_eq!(usual_user("my-own"), None);
    }
}
