//! The objects that `run` creates. Pure.

use kubevmm_api::common::{ImageRef, NetworkRef};
use kubevmm_api::disk::DiskSource;
use kubevmm_api::image::{HttpSource, ImageSource};
use kubevmm_api::vm::{CloudInit, Cpu, DEFAULT_GRACE_SECONDS, Disk, Memory, NetworkInterface};
use kubevmm_api::{
    Quantity, VirtualMachine, VirtualMachineDiskSpec, VirtualMachineImage, VirtualMachineImageSpec, VirtualMachineSpec,
    names,
};
use serde_yaml_ng::Value;

/// Memory of a VM that names neither memory nor class.
pub(crate) const DEFAULT_MEMORY: &str = "1Gi";

/// What the VM shall be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Name of the VM.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Image of its root disk.
    pub(crate) image: Option<ImageRef>,
    /// Its CPUs.
    pub(crate) cpus: Option<u32>,
    /// Its memory.
    pub(crate) memory: Option<Quantity>,
    /// Size of its root disk.
    pub(crate) disk: Option<Quantity>,
    /// Pool of its root disk.
    pub(crate) pool: Option<String>,
    /// Its networks; `None` is the default one.
    pub(crate) networks: Vec<Option<NetworkRef>>,
    /// Its class.
    pub(crate) class: Option<String>,
    /// cloud-init user data.
    pub(crate) user_data: Option<String>,
    /// Secret with cloud-init user data.
    pub(crate) user_data_secret: Option<String>,
}

/// The VirtualMachine.
pub(crate) fn vm(wanted: &Wanted) -> VirtualMachine {
    let memory = wanted.memory.clone().or_else(|| wanted.class.is_none().then(|| Quantity(DEFAULT_MEMORY.into())));
    let networks = wanted.networks.iter().enumerate().map(|(index, network)| NetworkInterface {
        name: format!("net{index}"),
        network: network.clone(),
        ..Default::default()
    });
    let mut vm = VirtualMachine::new(
        &wanted.name,
        VirtualMachineSpec {
            class_name: wanted.class.clone(),
            cpu: wanted.cpus.map(|cores| Cpu { cores: Some(cores), request: None }),
            memory: memory.map(|size| Memory { size: Some(size) }),
            disks: vec![Disk {
                name: "root".into(),
                template: Some(VirtualMachineDiskSpec {
                    size: wanted.disk.clone(),
                    pool_name: wanted.pool.clone(),
                    source: DiskSource { image: wanted.image.clone(), ..Default::default() },
                    ..Default::default()
                }),
                ..Default::default()
            }],
            networks: networks.collect(),
            cloud_init: (wanted.user_data.is_some() || wanted.user_data_secret.is_some()).then(|| CloudInit {
                user_data: wanted.user_data.clone(),
                user_data_secret_name: wanted.user_data_secret.clone(),
                network_data: None,
            }),
            termination_grace_period_seconds: DEFAULT_GRACE_SECONDS,
            ..Default::default()
        },
    );
    vm.metadata.namespace = Some(wanted.namespace.clone());
    vm
}

/// The VirtualMachineImage of a URL. Its name follows from what it holds, so that VMs of the same image share it.
pub(crate) fn image(namespace: &str, url: &str, checksum: Option<&str>) -> VirtualMachineImage {
    let spec = VirtualMachineImageSpec {
        source: ImageSource { http: HttpSource { url: url.into() } },
        checksum: checksum.map(Into::into),
        format: None,
    };
    let mut image = VirtualMachineImage::new(&image_name(url, checksum), spec);
    image.metadata.namespace = Some(namespace.into());
    image
}

fn image_name(url: &str, checksum: Option<&str>) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let file = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let stem = file.trim_end_matches(".gz").trim_end_matches(".xz");
    let stem = [".qcow2", ".img", ".raw"].iter().find_map(|suffix| stem.strip_suffix(suffix)).unwrap_or(stem);
    let label: String =
        stem.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    let label =
        label.trim_matches('-').get(..40.min(label.trim_matches('-').len())).unwrap_or_default().trim_matches('-');
    let hash = names::short_hash(&format!("{url}\n{}", checksum.unwrap_or_default()), 8);
    if label.is_empty() { format!("image-{hash}") } else { format!("{label}-{hash}") }
}

/// Checks and completes `--checksum`: `sha256:` and 64 digits, or the digits alone.
pub(crate) fn checksum(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    if digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        Ok(format!("sha256:{digits}"))
    } else {
        Err("is no SHA-256: give sha256: and 64 hexadecimal digits, as sha256sum prints them".into())
    }
}

/// User data that lets the owners of `keys` in: `given`, completed, or a new `#cloud-config`.
pub(crate) fn user_data(given: Option<&str>, keys: &[String]) -> Result<Option<String>, String> {
    if keys.is_empty() {
        return Ok(given.map(Into::into));
    }
    let mut config = match given {
        None => serde_yaml_ng::Mapping::new(),
        Some(text) if text.lines().next().is_some_and(|line| line.trim_end() == "#cloud-config") => {
            match serde_yaml_ng::from_str(text).map_err(|error| format!("is no YAML: {error}"))? {
                Value::Mapping(config) => config,
                Value::Null => serde_yaml_ng::Mapping::new(),
                _ => return Err("is no mapping: a #cloud-config has keys such as packages:".into()),
            }
        }
        Some(_) => {
            return Err("is no #cloud-config, so that --ssh-key cannot be added to it: put the key into it and leave \
                        out --ssh-key"
                .into());
        }
    };
    let entry = config.entry("ssh_authorized_keys".into()).or_insert_with(|| Value::Sequence(Vec::new()));
    let Value::Sequence(list) = entry else {
        return Err("has an ssh_authorized_keys that is no list".into());
    };
    list.extend(keys.iter().filter(|key| !key.is_empty()).map(|key| Value::from(key.as_str())));
    let yaml = serde_yaml_ng::to_string(&config).map_err(|error| error.to_string())?;
    Ok(Some(format!("#cloud-config\n{yaml}")))
}

/// The public keys in a file of `--ssh-key`.
pub(crate) fn public_keys(text: &str) -> Result<Vec<String>, String> {
    if text.contains("PRIVATE KEY-----") {
        return Err("is a private key: give the public one, which ends in .pub".into());
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = lines.map(Into::into).collect();
    let looks_right = |key: &String| {
        let kind = key.split_whitespace().next().unwrap_or_default();
        key.split_whitespace().count() >= 2
            && ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|prefix| kind.starts_with(prefix))
    };
    if keys.is_empty() || !keys.iter().all(looks_right) {
        return Err(
            "is no OpenSSH public key: make one with ssh-keygen -t ed25519, and give the file that ends in .pub".into(),
        );
    }
    Ok(keys)
}

/// `documents` as one YAML stream.
pub(crate) fn yaml(documents: &[serde_json::Value]) -> Result<String, serde_yaml_ng::Error> {
    let parts: Result<Vec<_>, _> = documents.iter().map(serde_yaml_ng::to_string).collect();
    Ok(parts?.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::golden;
    use kubevmm_api::common::{ImageKind, NetworkKind};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB me@desk";

    #[test]
    fn a_vm_from_a_url() {
        let url = "https://cloud.example.org/images/Debian_12.generic-amd64.qcow2?x=1";
        let image = image("shop", url, Some(&format!("sha256:{}", "0".repeat(64))));
        let vm = vm(&Wanted {
            name: "web".into(),
            namespace: "shop".into(),
            image: Some(ImageRef { kind: ImageKind::default(), name: image.metadata.name.clone().unwrap() }),
            cpus: Some(2),
            disk: Some(Quantity("20Gi".into())),
            networks: vec![None],
            user_data: user_data(None, &[KEY.into()]).unwrap(),
            ..Default::default()
        });
        let documents = [serde_json::to_value(image).unwrap(), serde_json::to_value(vm).unwrap()];
        golden("run-url.yaml", &yaml(&documents).unwrap());
    }

    #[test]
    fn a_vm_of_a_class_from_an_image_of_the_cluster() {
        let network = |kind, name: &str| Some(NetworkRef { kind, name: name.into() });
        let vm = vm(&Wanted {
            name: "web".into(),
            namespace: "shop".into(),
            image: Some(ImageRef { kind: ImageKind::ClusterVirtualMachineImage, name: "debian-12".into() }),
            class: Some("small".into()),
            pool: Some("fast".into()),
            networks: vec![
                network(NetworkKind::ClusterVirtualMachineNetwork, "lan"),
                network(NetworkKind::VirtualMachineNetwork, "back"),
            ],
            user_data_secret: Some("web-cloudinit".into()),
            ..Default::default()
        });
        golden("run-class.yaml", &yaml(&[serde_json::to_value(vm).unwrap()]).unwrap());
    }

    #[test]
    fn an_image_is_named_by_what_it_holds() {
        for (url, stem) in [
            ("https://example.org/debian-12.qcow2", "debian-12-"),
            ("https://example.org/Fedora_40.x86_64.img/", "fedora-40-x86-64-"),
            ("https://example.org/?id=3", "example-org-"),
            ("https://example.org/%%%", "image-"),
            ("https://example.org/äöü.raw", "image-"),
        ] {
            let name = image_name(url, None);
            assert!(name.starts_with(stem) && name.len() == stem.len() + 8, "{url}: {name}");
        }
        assert!(image_name(&format!("https://example.org/{}", "a-".repeat(60)), None).len() <= names::MAX_NAME);
        let url = "https://example.org/debian-12.qcow2";
        assert_ne!(image_name(url, None), image_name(url, Some("sha256:00")));
    }

    #[test]
    fn keys_join_the_given_user_data() {
        let given = "#cloud-config\npackages: [nginx]\nssh_authorized_keys: [ssh-rsa AAAA a]\n";
        let merged = user_data(Some(given), &[KEY.into()]).unwrap().unwrap();
        assert_eq!(
            merged,
            format!("#cloud-config\npackages:\n- nginx\nssh_authorized_keys:\n- ssh-rsa AAAA a\n- {KEY}\n")
        );
        assert_eq!(user_data(Some("#!/bin/sh\n"), &[]).unwrap().as_deref(), Some("#!/bin/sh\n"));
        assert_eq!(user_data(None, &[]).unwrap(), None);
        for wrong in
            ["#!/bin/sh\n", "#cloud-config\n- a\n", "#cloud-config\na: [\n", "#cloud-config\nssh_authorized_keys: 1\n"]
        {
            assert!(user_data(Some(wrong), &[KEY.into()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_public_keys_are_taken() {
        assert_eq!(public_keys(&format!("# mine\n{KEY}\n\n")).unwrap(), [KEY]);
        for wrong in ["", "hello", "-----BEGIN OPENSSH PRIVATE KEY-----\nx", "ssh-ed25519"] {
            assert!(public_keys(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn checksums() {
        let digits = "0123456789abcdef".repeat(4);
        assert_eq!(checksum(&digits.to_uppercase()), Ok(format!("sha256:{digits}")));
        assert_eq!(checksum(&format!("sha256:{digits}")), Ok(format!("sha256:{digits}")));
        for wrong in ["", "md5:00", "sha256:00", &"g".repeat(64)] {
            assert!(checksum(wrong).is_err(), "{wrong}");
        }
    }
}
