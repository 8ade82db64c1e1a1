//! What a VM's task does with libvirt.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use kubevmm_analyser::Tree;
use kubevmm_analyser::mark::{MARK_NAMESPACE, Mark};
use kubevmm_analyser::read::{DomainInfo, read_domain};
use kubevmm_api::vm::DomainState;
use uuid::Uuid;

use super::decide::{Found, Seen};
use crate::libvirt::{
    self, AddressSource, Connection, Domain, Error, ErrorCode, GuestInterface, GuestRequest, Impact, Result,
    StartOptions, UndefineOptions, XmlOptions,
};

/// Name of the guest agent's channel.
const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";

/// Which domain a VM's is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// `<namespace>.<name>`.
    pub name: String,
    /// UUID of the domain.
    pub uuid: Uuid,
    /// Identity of the cluster.
    pub cluster: String,
    /// Uid of the VM.
    pub uid: String,
}

/// What only the XML of a running domain tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    /// The guest agent's channel is open on the guest's side.
    pub agent_connected: bool,
    /// Target names (`vda`) of the disks by their aliases.
    pub targets: BTreeMap<String, String>,
}

/// What can be asked of a domain without changing anything.
pub(super) trait Reading: Send + Sync + 'static {
    /// The domain with this UUID, whosever it is.
    fn observe(&self, uuid: Uuid) -> BoxFuture<'_, Result<Option<Observed>>>;
    /// The guest's addresses, as one source knows them.
    fn addresses<'a>(
        &'a self,
        identity: &'a Identity,
        source: AddressSource,
    ) -> BoxFuture<'a, Result<Vec<GuestInterface>>>;
}

/// A domain that is only watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// State.
    pub state: DomainState,
    /// What its XML tells.
    pub info: DomainInfo,
    /// The guest agent's channel is open on the guest's side.
    pub agent_connected: bool,
}

/// The domain of a VM, on this host's libvirt.
pub(super) trait Domains: Reading {
    /// What is there under the name and the UUID.
    fn look<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<Seen>>;
    /// Defines the domain, or replaces its definition.
    fn define<'a>(&'a self, identity: &'a Identity, xml: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Starts it.
    fn create<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<()>>;
    /// Asks the guest to shut down.
    fn shutdown<'a>(&'a self, identity: &'a Identity, how: GuestRequest) -> BoxFuture<'a, Result<()>>;
    /// Ends QEMU.
    fn destroy<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<()>>;
    /// Removes the definition and what belongs to the domain alone.
    fn undefine<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<()>>;
    /// What the XML of the running domain tells.
    fn details<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<Details>>;
}

/// The real ones.
pub(super) struct LibvirtDomains(pub libvirt::Hypervisor);

impl LibvirtDomains {
    /// The domain, which must be there.
    async fn domain(&self, identity: &Identity) -> Result<Domain> {
        self.0.connection()?.lookup_domain(identity.uuid).await?.ok_or_else(|| Error {
            code: ErrorCode::NoDomain,
            domain: 0,
            message: "it is not there any more".into(),
            operation: "virDomainLookupByUUID",
            object: format!("domain {}", identity.name),
        })
    }
}

impl Domains for LibvirtDomains {
    fn look<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            match look(&self.0.connection()?, identity).await {
                // It went between two calls.
                Err(error) if error.code == ErrorCode::NoDomain => Ok(Seen::Absent),
                seen => seen,
            }
        })
    }

    fn define<'a>(&'a self, identity: &'a Identity, xml: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.connection()?.define_domain(&identity.name, xml).await.map(drop) })
    }

    fn create<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.domain(identity).await?.create(StartOptions::default()).await })
    }

    fn shutdown<'a>(&'a self, identity: &'a Identity, how: GuestRequest) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.domain(identity).await?.shutdown(how).await })
    }

    fn destroy<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.domain(identity).await?.destroy(false).await })
    }

    fn undefine<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.domain(identity).await?.undefine(UndefineOptions::everything()).await })
    }

    fn details<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<Details>> {
        Box::pin(async move {
            let xml = self.domain(identity).await?.xml(XmlOptions::default()).await?;
            Ok(details(&xml))
        })
    }
}

impl Reading for LibvirtDomains {
    fn observe(&self, uuid: Uuid) -> BoxFuture<'_, Result<Option<Observed>>> {
        Box::pin(async move {
            let Some(domain) = self.0.connection()?.lookup_domain(uuid).await? else { return Ok(None) };
            let state = domain.state().await?.into();
            let xml = domain.xml(XmlOptions::default()).await?;
            let info = read_domain(&xml).map_err(|error| Error {
                code: ErrorCode::Internal,
                domain: 0,
                message: error.to_string(),
                operation: "virDomainGetXMLDesc",
                object: format!("domain {}", domain.name()),
            })?;
            Ok(Some(Observed { state, info, agent_connected: details(&xml).agent_connected }))
        })
    }

    fn addresses<'a>(
        &'a self,
        identity: &'a Identity,
        source: AddressSource,
    ) -> BoxFuture<'a, Result<Vec<GuestInterface>>> {
        Box::pin(async move { self.domain(identity).await?.interface_addresses(source).await })
    }
}

async fn look(connection: &Connection, identity: &Identity) -> Result<Seen> {
    let Some(domain) = connection.lookup_domain(identity.uuid).await? else {
        let same_name = connection.lookup_domain_by_name(&identity.name).await?;
        return Ok(same_name.map_or(Seen::Absent, |domain| {
            Seen::Foreign(format!(
                "the host has a domain {} of its own (UUID {}): rename or undefine it, or choose another name for the VM",
                domain.name(),
                domain.uuid()
            ))
        }));
    };
    let mark = domain.metadata(MARK_NAMESPACE, Impact::Current).await?;
    match mark.as_deref().map(Mark::from_metadata) {
        Some(Ok(mark)) if mark.cluster == identity.cluster && mark.uid == identity.uid => {
            let state = domain.state().await?.into();
            Ok(Seen::Ours(Found { epoch: mark.epoch, generation: mark.generation, state }))
        }
        Some(Ok(mark)) => Ok(Seen::Foreign(format!(
            "the domain {} with the UUID {} belongs to the VirtualMachine {}/{} with uid {}",
            domain.name(),
            identity.uuid,
            mark.namespace,
            mark.name,
            mark.uid
        ))),
        Some(Err(error)) => {
            Ok(Seen::Foreign(format!("the mark of the domain {} cannot be read: {error}", domain.name())))
        }
        None => Ok(Seen::Foreign(format!(
            "the host has a domain {} of its own with the UUID {}: undefine it, or give the VM another spec.firmware.uuid",
            domain.name(),
            identity.uuid
        ))),
    }
}

/// libvirt's state in the words of the API.
impl From<libvirt::DomainState> for DomainState {
    fn from(state: libvirt::DomainState) -> Self {
        match state {
            libvirt::DomainState::Running(_) | libvirt::DomainState::Blocked => Self::Running,
            libvirt::DomainState::Paused(_) => Self::Paused,
            libvirt::DomainState::ShuttingDown => Self::ShuttingDown,
            libvirt::DomainState::PmSuspended => Self::Suspended,
            libvirt::DomainState::Crashed(_) => Self::Crashed,
            libvirt::DomainState::Shutoff(_) | libvirt::DomainState::NoState => Self::Shutoff,
            // A state that only a newer libvirt knows: nothing may be started over it.
            libvirt::DomainState::Other(_) => Self::Paused,
        }
    }
}

/// What cannot be read is left out: it is only for people.
fn details(xml: &str) -> Details {
    let agent_connected = Tree::from_xml(xml).is_ok_and(|tree| {
        let devices = tree.root.find("devices");
        let targets = devices.iter().flat_map(|devices| devices.all("channel")).filter_map(|c| c.find("target"));
        let mut agents = targets.filter(|target| target.attribute("name") == Some(AGENT_CHANNEL));
        agents.any(|target| target.attribute("state") == Some("connected"))
    });
    let disks = read_domain(xml).map(|domain| domain.disks).unwrap_or_default();
    let targets = disks.into_iter().filter_map(|disk| Some((disk.alias?, disk.target))).collect();
    Details { agent_connected, targets }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_of_a_running_domain() {
        let xml = |state: &str| {
            format!(
                "<domain type='kvm' id='3'><name>shop.web</name><uuid>b3a1c7d2-0000-4000-8000-000000000001</uuid>\
                 <devices><disk type='file' device='disk'><source file='/p/v'/><target dev='vda' bus='virtio'/>\
                 <alias name='ua-disk-root'/></disk><channel type='unix'><target type='virtio' \
                 name='org.qemu.guest_agent.0' state='{state}'/></channel></devices></domain>"
            )
        };
        let connected = details(&xml("connected"));
        assert!(connected.agent_connected);
        assert_eq!(connected.targets, BTreeMap::from([("ua-disk-root".into(), "vda".into())]));
        assert!(!details(&xml("disconnected")).agent_connected);
        assert_eq!(details("no xml"), Details::default());
    }

    #[test]
    fn an_unknown_state_is_not_off() {
        assert!(DomainState::from(libvirt::DomainState::Other(99)).is_active());
        assert!(!DomainState::from(libvirt::DomainState::NoState).is_active());
    }
}
