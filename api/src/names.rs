//! Names that are derived from objects: of pods, of what lies on a host.

use sha2::{Digest, Sha256};

/// The longest name that the project derives: a DNS label.
pub const MAX_NAME: usize = 63;

/// The first `chars` hexadecimal digits of the SHA-256 of `text`.
pub fn short_hash(text: &str, chars: usize) -> String {
    let mut digest = hex::encode(Sha256::digest(text.as_bytes()));
    digest.truncate(chars);
    digest
}

/// `name` when it fits a DNS label; otherwise its first 54 characters, `-` and 8 digits of its hash.
pub fn fit(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let cut = (0..=54).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    format!("{}-{}", &name[..cut], short_hash(name, 8))
}

/// The VirtualMachineDisk of a VM's disk template.
pub fn disk_of_template(vm: &str, disk: &str) -> String {
    fit(&format!("{vm}-{disk}"))
}

/// The placement pod of a VM (`uid`) at one epoch. Deterministic: it is found again after a crash and created once.
pub fn placement_pod(vm: &str, uid: &str, epoch: i64) -> String {
    let hash = short_hash(&format!("{uid}/{epoch}"), 8);
    // "kubevmm-" + name + "-" + hash within one label.
    let room = MAX_NAME - "kubevmm-".len() - 1 - hash.len();
    let name = if vm.len() <= room { vm.to_owned() } else { vm[..room].trim_end_matches('-').to_owned() };
    format!("kubevmm-{name}-{hash}")
}

/// The pod that reserves the memory of a host's domains without a placement pod.
pub fn reservation_pod(host: &str) -> String {
    fit(&format!("kubevmm-reservation-{host}"))
}

/// The libvirt domain of a VM.
pub fn domain(namespace: &str, name: &str) -> String {
    format!("{namespace}.{name}")
}

/// The libvirt network of a VirtualMachineNetwork, or of a ClusterVirtualMachineNetwork (`namespace` is `None`).
pub fn network(namespace: Option<&str>, name: &str) -> String {
    format!("{}.{name}", namespace.unwrap_or_default())
}

/// The libvirt storage pool of a VirtualMachineStoragePool.
pub fn pool(name: &str) -> String {
    format!("kubevmm.{name}")
}

/// The volume of a VirtualMachineDisk.
pub fn disk_volume(namespace: &str, name: &str, uid: &str, format: &str) -> String {
    format!("{namespace}.{name}.{}.{format}", uid_prefix(uid))
}

/// The cached copy of an image in a pool. `namespace` is `None` for a cluster-wide image.
pub fn image_volume(namespace: Option<&str>, name: &str, uid: &str, format: &str) -> String {
    format!("image.{}.{name}.{}.{format}", namespace.unwrap_or_default(), uid_prefix(uid))
}

/// Whether a volume bears the name of some image's cached copy: see [`image_volume`].
pub fn is_image_volume(volume: &str) -> bool {
    let hash = |part: &str| part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(volume.splitn(5, '.').collect::<Vec<_>>()[..], ["image", _, _, uid, _] if hash(uid))
}

/// The NoCloud seed of a VM in the pool `kubevmm-system`.
pub fn seed_volume(uid: &str) -> String {
    format!("{uid}.seed.img")
}

/// The MAC address of a NIC without one of its own: locally administered, from the VM's UID and the NIC's name, so
/// that it is the same on every host and after every restart.
pub fn mac_address(uid: &str, nic: &str) -> String {
    let digest = Sha256::digest(format!("{uid}/{nic}").as_bytes());
    // 0x02: locally administered; bit 0 clear: unicast.
    let first = (digest[0] & 0xfc) | 0x02;
    format!("{first:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", digest[1], digest[2], digest[3], digest[4], digest[5])
}

fn uid_prefix(uid: &str) -> &str {
    uid.get(..8).unwrap_or(uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_name_is_cut_and_told_apart() {
        let (a, b) = ("a".repeat(70), format!("{}b", "a".repeat(69)));
        assert_eq!(fit(&a).len(), 63);
        assert_ne!(fit(&a), fit(&b));
        assert_eq!(fit("short"), "short");
    }

    #[test]
    fn names_on_a_host() {
        assert_eq!(domain("shop", "web"), "shop.web");
        assert_eq!(network(None, "lan"), ".lan");
        assert_eq!(network(Some("shop"), "lan"), "shop.lan");
        assert_eq!(disk_volume("shop", "web-root", "0123456789ab", "qcow2"), "shop.web-root.01234567.qcow2");
        assert_eq!(image_volume(None, "debian", "0123456789ab", "qcow2"), "image..debian.01234567.qcow2");
        assert!(is_image_volume("image..debian.01234567.qcow2") && is_image_volume("image.shop.a.01234567.ab.img"));
        assert!(!is_image_volume("image.debian.qcow2") && !is_image_volume("shop.web-root.01234567.qcow2"));
    }

    proptest! {
        #[test]
        fn a_pod_name_is_a_dns_label(vm in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?", epoch in 1i64..1_000_000) {
            let name = placement_pod(&vm, "b3a1c7d2-0000-4000-8000-000000000001", epoch);
            prop_assert!(name.len() <= MAX_NAME);
            prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        }

        #[test]
        fn a_mac_is_unicast_and_locally_administered(nic in "[a-z]{1,10}") {
            let first = u8::from_str_radix(&mac_address("uid", &nic)[..2], 16).unwrap();
            prop_assert_eq!(first & 3, 2);
        }
    }
}
