//! Everything that a domain needs, made real on this host, and the domain's XML.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{try_join_all, try_join3};
use kubevmm_analyser::lower::{DiskLocation, Format, HostFacts, NicSource};
use kubevmm_analyser::mark::Mark;
use kubevmm_analyser::spec::{Connections, host_facts, lower_spec};
use kubevmm_analyser::{Element, lower};
use kubevmm_api::VirtualMachine;
use kubevmm_api::common::Accelerator;
use kubevmm_api::effective::{EffectiveNetwork, EffectiveSpec, MergeError, merge};
use serde_json::Value as Json;

use super::cluster::{Cluster, name_of};
use super::domains::Identity;
use super::user_data::{Secrets, user_data};
use crate::host::{DiskOnHost, Networks, NotYet, Retry, SeedInput, Seeds, Storage};

/// Bound of `spec.domain`, which stands in the status once more: an object of more than 1.5 MB cannot be stored.
const MAX_OVER_BYTES: usize = 256 << 10;

/// A domain that can be defined.
pub(super) struct Prepared {
    /// The merged spec that it was made from.
    pub effective: EffectiveSpec,
    /// What it is connected to.
    pub connections: Connections,
    /// Its XML.
    pub xml: String,
}

/// What makes things real.
#[derive(Clone)]
pub(super) struct Makers {
    pub storage: Arc<dyn Storage>,
    pub networks: Arc<dyn Networks>,
    pub seeds: Arc<dyn Seeds>,
    /// Where the Secrets of placement pods are.
    pub secrets: Secrets,
}

/// The spec merged with its class.
pub(super) fn effective(cluster: &dyn Cluster, vm: &VirtualMachine) -> Result<EffectiveSpec, NotYet> {
    let (_, name) = name_of(vm);
    let uid = vm.metadata.uid.as_deref().unwrap_or_default();
    let class = match vm.spec.class_name.as_deref() {
        None => None,
        Some(class) => Some(cluster.class(class).ok_or_else(|| {
            NotYet::on_change(
                "ClassNotFound",
                format!("there is no VirtualMachineClass {class}: create it, or correct spec.className"),
            )
        })?),
    };
    let merged = merge(name, uid, &vm.spec, class.as_ref(), cluster.default_network().as_deref());
    let effective = merged.map_err(|error| {
        let reason = match error {
            MergeError::NoDefaultNetwork(_) => "NoDefaultNetwork",
            MergeError::NoMemory | MergeError::Quantity(..) => "InvalidSpec",
        };
        NotYet::on_change(reason, error.to_string())
    })?;
    if !effective.domain.is_empty() {
        rehearse(cluster, vm, &effective)?;
    }
    Ok(effective)
}

/// Whether `spec.domain` can lie over the rest: asked before anything is made real, and while a domain runs that is not
/// of this spec yet. It depends on names alone, so that any paths, networks and identity will do.
fn rehearse(cluster: &dyn Cluster, vm: &VirtualMachine, effective: &EffectiveSpec) -> Result<(), NotYet> {
    check_size(effective)?;
    let identity = Identity { name: "-".into(), ..Identity::default() };
    let anywhere = DiskOnHost { location: DiskLocation::File("/".into()), format: Format::Raw, read_only: false };
    let connections = Connections {
        disks: vec![anywhere; effective.disks.len()],
        nics: vec![NicSource::Network("-".into()); effective.networks.len()],
        seed: vm.spec.cloud_init.as_ref().map(|_| "/".into()),
    };
    let host = cluster.machine().unwrap_or_else(|| host_facts(Accelerator::KVM, "x86_64"));
    lowered(effective, &host, &connections, &identity, mark(vm, &identity)).map(drop)
}

/// Whether `spec.domain` can be stored.
pub(super) fn check_size(effective: &EffectiveSpec) -> Result<(), NotYet> {
    let bytes = Json::Object(effective.domain.clone()).to_string().len();
    if bytes > MAX_OVER_BYTES {
        let message =
            format!("spec.domain: {bytes} bytes of JSON are too many: at most {MAX_OVER_BYTES} can be stored");
        return Err(NotYet::on_change("InvalidDomain", message));
    }
    Ok(())
}

/// The domain, with `spec.domain` over it.
pub(super) fn lowered(
    effective: &EffectiveSpec,
    host: &HostFacts,
    connections: &Connections,
    identity: &Identity,
    mark: Mark,
) -> Result<Element, NotYet> {
    let identity =
        lower::Identity { name: Some(identity.name.clone()), uuid: Some(identity.uuid.to_string()), mark: Some(mark) };
    lower_spec(effective, host, connections, &identity)
        .map_err(|error| NotYet::on_change("InvalidDomain", format!("spec.{error}")))
}

/// How guests' CPUs run on this host, and its architecture.
pub(super) fn machine(cluster: &dyn Cluster) -> Result<HostFacts, NotYet> {
    cluster.machine().ok_or_else(|| {
        let message = "the host's capabilities are being read";
        NotYet { retry: Retry::After(Duration::from_millis(200)), ..NotYet::backoff("Starting", message) }
    })
}

/// Makes disks, networks and seed real, all at once, and lowers the VM onto them.
pub(super) async fn prepare(
    cluster: &dyn Cluster,
    makers: &Makers,
    vm: &VirtualMachine,
    identity: &Identity,
) -> Result<Prepared, NotYet> {
    let effective = effective(cluster, vm)?;
    let (namespace, _) = name_of(vm);
    let host = machine(cluster)?;
    let disks = effective.disks.iter().map(|disk| &disk.disk_name);
    let disks = try_join_all(disks.map(|name| makers.storage.ensure_disk(namespace, name, &identity.uid)));
    let nics = try_join_all(effective.networks.iter().map(|nic| network(makers, namespace, nic)));
    let (disks, nics, seed) = try_join3(disks, nics, seed(makers, vm, identity)).await?;
    let connections = Connections { disks, nics, seed };
    let xml = lowered(&effective, &host, &connections, identity, mark(vm, identity))?.to_xml();
    Ok(Prepared { effective, connections, xml })
}

/// The mark of a definition that is made of the VM as it is now.
pub(super) fn mark(vm: &VirtualMachine, identity: &Identity) -> Mark {
    let (namespace, name) = name_of(vm);
    let placement = vm.status.as_ref().and_then(|status| status.placement.as_ref());
    Mark {
        cluster: identity.cluster.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: identity.uid.clone(),
        epoch: placement.map_or(0, |placement| placement.epoch),
        generation: vm.metadata.generation.unwrap_or_default(),
    }
}

async fn network(makers: &Makers, namespace: &str, nic: &EffectiveNetwork) -> Result<NicSource, NotYet> {
    makers.networks.ensure(nic.kind, namespace, &nic.network_name).await
}

async fn seed(makers: &Makers, vm: &VirtualMachine, identity: &Identity) -> Result<Option<String>, NotYet> {
    let Some(cloud_init) = &vm.spec.cloud_init else { return Ok(None) };
    let (namespace, name) = name_of(vm);
    let (user_data, network_data) = user_data(&makers.secrets, vm, cloud_init).await?;
    let (namespace, name, uid) = (namespace.to_owned(), name.to_owned(), identity.uid.clone());
    makers.seeds.put(&SeedInput { namespace, name, uid, user_data, network_data }).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::fakes::Fake;
    use uuid::Uuid;

    const POD: &str = "b3a1c7d2-0000-4000-8000-000000000001";

    fn vm(yaml: &str) -> VirtualMachine {
        serde_yaml_ng::from_str(yaml).unwrap()
    }

    /// What a host makes of a VM.
    async fn prepared(vm: &VirtualMachine) -> Result<Prepared, NotYet> {
        let fake = Fake::default();
        let uuid = Uuid::parse_str(POD).unwrap();
        let identity =
            Identity { name: "shop.web".into(), uuid, cluster: "c".into(), uid: POD.into(), existing: false };
        prepare(&fake, &fake.hands().makers, vm, &identity).await
    }

    fn with_domain(domain: &str) -> VirtualMachine {
        vm(&format!(
            "{{metadata: {{name: web, namespace: shop}}, spec: {{memory: {{size: 1Gi}}, domain: {domain}, \
             disks: [{{name: root, diskName: d}}], networks: [{{name: lan, network: {{name: n}}}}], cloudInit: {{userData: x}}}}}}"
        ))
    }

    /// The first block of that language in a page of the documentation.
    fn block<'a>(page: &'a str, language: &str) -> &'a str {
        page.split_once(&format!("```{language}\n")).unwrap().1.split_once("```").unwrap().0
    }

    #[tokio::test]
    async fn the_worked_example_of_the_documentation_is_true() {
        let page = include_str!("../../../docs/domain.md");
        let prepared = prepared(&vm(block(page, "yaml"))).await.unwrap_or_else(|why| panic!("{why:?}"));
        let mut lines = prepared.xml.lines().map(str::trim);
        for line in block(page, "xml").lines().map(str::trim) {
            assert!(
                lines.any(|made| made == line),
                "{line} is not in, or stands before the one above:\n{}",
                prepared.xml
            );
        }
        assert!(!prepared.xml.contains("<rng"), "null removes:\n{}", prepared.xml);
        assert_eq!(prepared.effective.domain["title"], "The books of the shop");
    }

    #[tokio::test]
    async fn what_lies_over_the_domain_may_mean_the_vms_own_disks_and_networks() {
        let domain = "{devices: {disks: [{alias: {name: ua-disk-root}, serial: '0042'}], \
                      interfaces: [{alias: {name: ua-nic-lan}, mtu: {size: 9000}}]}}";
        let xml = prepared(&with_domain(domain)).await.unwrap_or_else(|why| panic!("{why:?}")).xml;
        assert!(xml.contains("<serial>0042</serial>") && xml.contains("<mtu size='9000'/>"), "{xml}");
        assert_eq!((xml.matches("<disk ").count(), xml.matches("<interface ").count()), (2, 1), "{xml}");
    }

    #[tokio::test]
    async fn what_cannot_be_said_of_a_domain_is_named_by_its_path() {
        let long = format!("{{title: {}}}", "x".repeat(MAX_OVER_BYTES));
        for (domain, message) in [
            ("{name: other}", "spec.domain.name: cannot be set here: it is made from the object's namespace and name"),
            ("{uuid: x}", "spec.domain.uuid: cannot be set here: use spec.firmware.uuid"),
            (
                "{metadata: {'k:object': {'xmlns:k': 'https://kubevmm.io/libvirt/1', uid: x}}}",
                "spec.domain.metadata.k:object: is the mark of ownership and cannot be set here",
            ),
            (
                "{devices: {disks: [{alias: {name: ua-disk-gone}, serial: x}]}}",
                "spec.domain.devices.disks[0]: there is no such device in the VM's disks: correct the alias",
            ),
            (
                "{devices: {disks: [{alias: {name: ua-disk-root}, source: {file: /etc/shadow}}]}}",
                "spec.domain.devices.disks[ua-disk-root].source.file: cannot be changed here: it is what the VM's disks say",
            ),
            (long.as_str(), "spec.domain: 262156 bytes of JSON are too many: at most 262144 can be stored"),
            ("{vcpu: {value: 1.5}}", "spec.domain.vcpu.value: 1.5 may change on its way: write it in quotes"),
        ] {
            let vm = with_domain(domain);
            let refused = prepared(&vm).await.map(|prepared| prepared.xml).unwrap_err();
            assert_eq!(refused, NotYet::on_change("InvalidDomain", message), "{domain}");
            let before = effective(&Fake::default(), &vm).unwrap_err();
            assert_eq!(before, refused, "known before anything is made");
        }
    }
}
