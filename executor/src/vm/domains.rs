//! What a VM's task does with libvirt.

use std::borrow::Cow;
use std::collections::BTreeMap;

use futures::future::BoxFuture;
use kubevmm_analyser::mark::{MARK_NAMESPACE, MARK_PREFIX, Mark};
use kubevmm_analyser::read::{DiskSource, DomainInfo, read_domain};
use kubevmm_analyser::{Element, Tree};
use kubevmm_api::vm::{DomainState, HostVolume};
use uuid::Uuid;

use super::decide::{Existing, Found, Seen};
use crate::libvirt::{
    self, AddressSource, Connection, Disposal, Domain, Error, ErrorCode, GuestInterface, GuestRequest, Impact, Result,
    StartOptions, UndefineOptions, XmlOptions,
};

/// Name of the guest agent's channel.
const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";

/// Which domain a VM's is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// `<namespace>.<name>`, or what the domain is called that the VM took over.
    pub name: String,
    /// UUID of the domain.
    pub uuid: Uuid,
    /// Identity of the cluster.
    pub cluster: String,
    /// Uid of the VM.
    pub uid: String,
    /// The domain was there before its VM: one without a mark may become it.
    pub existing: bool,
}

/// What only the XML of a domain tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    /// The guest agent's channel is open on the guest's side.
    pub agent_connected: bool,
    /// Target names (`vda`) of the disks by their aliases.
    pub targets: BTreeMap<String, String>,
    /// The XML of what runs.
    pub live: Option<String>,
    /// The XML of the definition.
    pub definition: String,
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
    /// libvirt starts it with the host.
    pub autostart: bool,
    /// It is defined, and not only running.
    pub defined: bool,
    /// The XML of its next start.
    pub definition: String,
    /// The volumes of its disks, by their paths. What no active pool has is not in it.
    pub volumes: BTreeMap<String, HostVolume>,
}

impl Observed {
    /// Whether it bears the mark of a VM of this cluster, where it runs or where it is defined.
    pub(super) fn is_marked(&self, identity: &Identity) -> bool {
        // libvirt remembers what a domain was that is not defined any more.
        let definition = read_domain(&self.definition).ok().filter(|_| self.defined).map(|domain| domain.mark);
        [Some(&self.info.mark), definition.as_ref()]
            .into_iter()
            .flatten()
            .any(|mark| mark.as_ref().is_ok_and(|mark| mark.as_ref().is_some_and(|mark| identity.is_of(mark))))
    }
}

impl Identity {
    fn is_of(&self, mark: &Mark) -> bool {
        mark.cluster == self.cluster && mark.uid == self.uid
    }
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
    /// Marks the domain, what runs and what is defined, and defines it first if it is not; `takes_autostart`: then libvirt
    /// does not start it by itself any more. What runs is not touched.
    fn mark<'a>(&'a self, identity: &'a Identity, mark: &'a Mark, takes_autostart: bool) -> BoxFuture<'a, Result<()>>;
    /// Takes the mark off, and sets libvirt's autostart if it was on. What runs is not touched.
    fn give_back<'a>(&'a self, identity: &'a Identity, autostart: bool) -> BoxFuture<'a, Result<()>>;
    /// Removes the definition and what belongs to the domain alone; of one that was there before its VM, the UEFI
    /// variables and the TPM's state stay.
    fn undefine<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<()>>;
    /// What the XML tells.
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

    /// The volumes of a domain's disks, by their paths.
    async fn volumes(&self, info: &DomainInfo) -> Result<BTreeMap<String, HostVolume>> {
        let connection = self.0.connection()?;
        let mut volumes = BTreeMap::new();
        for disk in &info.disks {
            let Some(DiskSource::File(path) | DiskSource::Block(path)) = &disk.source else { continue };
            if let Some(volume) = connection.lookup_volume_by_path(path).await? {
                let libvirt_pool = volume.storage_pool().await?.name().to_owned();
                volumes.insert(path.clone(), HostVolume { libvirt_pool, name: volume.name().to_owned() });
            }
        }
        Ok(volumes)
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
        Box::pin(async move {
            let connection = self.0.connection()?;
            let there = if identity.existing { connection.lookup_domain(identity.uuid).await? } else { None };
            let xml = match there {
                Some(domain) => {
                    Cow::Owned(with_passwords(xml, &domain.xml(XmlOptions { inactive: true, secure: true }).await?))
                }
                None => Cow::Borrowed(xml),
            };
            connection.define_domain(&identity.name, &xml).await.map(drop)
        })
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
        let everything = UndefineOptions::everything();
        let options = if identity.existing {
            UndefineOptions { nvram: Disposal::Keep, tpm: Disposal::Keep, ..everything }
        } else {
            everything
        };
        Box::pin(async move { self.domain(identity).await?.undefine(options).await })
    }

    fn mark<'a>(&'a self, identity: &'a Identity, mark: &'a Mark, takes_autostart: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let domain = self.domain(identity).await?;
            let active = domain.is_active().await?;
            if active && !domain.is_persistent().await? {
                // With its secrets: what is left out would be lost.
                let xml = domain.xml(XmlOptions { inactive: true, secure: true }).await?;
                self.0.connection()?.define_domain(domain.name(), &xml).await?;
            }
            let impact = if active { Impact::LiveAndConfig } else { Impact::Config };
            domain.set_metadata(MARK_NAMESPACE, MARK_PREFIX, Some(&mark.to_metadata()), impact).await?;
            if takes_autostart && domain.autostart().await? { domain.set_autostart(false).await } else { Ok(()) }
        })
    }

    fn give_back<'a>(&'a self, identity: &'a Identity, autostart: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let domain = self.domain(identity).await?;
            let (active, defined) = (domain.is_active().await?, domain.is_persistent().await?);
            if autostart && defined {
                domain.set_autostart(true).await?;
            }
            let impact = match (active, defined) {
                (true, true) => Impact::LiveAndConfig,
                (true, false) => Impact::Live,
                (false, _) => Impact::Config,
            };
            domain.set_metadata(MARK_NAMESPACE, MARK_PREFIX, None, impact).await
        })
    }

    fn details<'a>(&'a self, identity: &'a Identity) -> BoxFuture<'a, Result<Details>> {
        Box::pin(async move {
            let domain = self.domain(identity).await?;
            let definition = domain.xml(XmlOptions { inactive: true, ..Default::default() }).await?;
            let live = if domain.is_active().await? { Some(domain.xml(XmlOptions::default()).await?) } else { None };
            Ok(details(live, definition))
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
            let defined = domain.is_persistent().await?;
            let definition = domain.xml(XmlOptions { inactive: true, ..Default::default() }).await?;
            Ok(Some(Observed {
                state,
                volumes: self.volumes(&info).await?,
                info,
                agent_connected: agent_connected(&xml),
                // libvirt knows it of what is defined alone.
                autostart: defined && domain.autostart().await?,
                defined,
                definition,
            }))
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

/// The domain with the passwords of its displays: they are in no spec and no status, and a definition without them would
/// take them away.
fn with_passwords(xml: &str, secure: &str) -> String {
    let (Ok(mut made), Ok(there)) = (Tree::from_xml(xml), Tree::from_xml(secure)) else { return xml.to_owned() };
    let mut old: Vec<&Element> = there.root.all("devices").flat_map(|devices| devices.all("graphics")).collect();
    for devices in made.root.elements_mut().filter(|element| element.name() == "devices") {
        for display in devices.elements_mut().filter(|element| element.name() == "graphics") {
            let kind = display.attribute("type").map(str::to_owned);
            let Some(at) = old.iter().position(|it| it.attribute("type").map(str::to_owned) == kind) else { continue };
            let known = old.remove(at);
            for attribute in ["passwd", "passwdValidTo", "connected"] {
                if let (None, Some(value)) = (display.attribute(attribute), known.attribute(attribute)) {
                    display.set_attribute(attribute, value);
                }
            }
        }
    }
    made.to_xml()
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
    let state = DomainState::from(domain.state().await?);
    let defined = !state.is_active() || domain.is_persistent().await?;
    let read = async |impact| {
        let mark = domain.metadata(MARK_NAMESPACE, impact).await?;
        Result::Ok(mark.as_deref().map(Mark::from_metadata))
    };
    let running = read(Impact::Current).await?;
    // What runs has no mark if it was saved before it was taken over; a definition has none that somebody made anew.
    let definition = if state.is_active() && defined { read(Impact::Config).await? } else { running.clone() };
    let is_ours = |mark: &Option<_>| matches!(mark, Some(Ok(mark)) if identity.is_of(mark));
    if let Some(mark) = [&running, &definition].into_iter().flatten().flatten().find(|mark| identity.is_of(mark)) {
        let autostart = identity.existing && defined && domain.autostart().await?;
        return Ok(Seen::Ours(Found {
            epoch: mark.epoch,
            generation: mark.generation,
            state,
            name: domain.name().to_owned(),
            defined,
            marked: is_ours(&running) && is_ours(&definition),
            autostart,
        }));
    }
    match running {
        None | Some(Ok(_)) if identity.existing => Ok(Seen::Existing(Existing {
            state,
            name: domain.name().to_owned(),
            autostart: defined && domain.autostart().await?,
            defined,
            mark: [running, definition].into_iter().flatten().find_map(std::result::Result::ok),
        })),
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
fn details(live: Option<String>, definition: String) -> Details {
    let disks = live.as_deref().and_then(|live| Some(read_domain(live).ok()?.disks)).unwrap_or_default();
    let targets = disks.into_iter().filter_map(|disk| Some((disk.alias?, disk.target))).collect();
    Details { agent_connected: live.as_deref().is_some_and(agent_connected), targets, live, definition }
}

fn agent_connected(xml: &str) -> bool {
    Tree::from_xml(xml).is_ok_and(|tree| {
        let devices = tree.root.find("devices");
        let targets = devices.iter().flat_map(|devices| devices.all("channel")).filter_map(|c| c.find("target"));
        let mut agents = targets.filter(|target| target.attribute("name") == Some(AGENT_CHANNEL));
        agents.any(|target| target.attribute("state") == Some("connected"))
    })
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
        let details = |live: &str| details(Some(live.into()), String::new());
        let connected = details(&xml("connected"));
        assert!(connected.agent_connected);
        assert_eq!(connected.targets, BTreeMap::from([("ua-disk-root".into(), "vda".into())]));
        assert!(!details(&xml("disconnected")).agent_connected);
        assert_eq!(details("no xml").targets, BTreeMap::new());
    }

    #[test]
    fn the_password_of_a_display_outlives_a_new_definition() {
        let domain = |displays: &str| format!("<domain type='kvm'><devices>{displays}</devices></domain>");
        let there = domain(
            "<graphics type='spice' passwd='a'/><graphics type='vnc' passwd='b' passwdValidTo='2030-01-01T00:00:00'/>",
        );
        let made = with_passwords(&domain("<graphics type='vnc' port='-1'/><graphics type='sdl'/>"), &there);
        assert!(
            made.contains("<graphics type='vnc' port='-1' passwd='b' passwdValidTo='2030-01-01T00:00:00'/>"),
            "{made}"
        );
        assert!(!made.contains("passwd='a'"), "{made}");
        let chosen = domain("<graphics type='vnc' passwd='mine'/>");
        assert!(with_passwords(&chosen, &there).contains("passwd='mine'"));
    }

    #[test]
    fn an_unknown_state_is_not_off() {
        assert!(DomainState::from(libvirt::DomainState::Other(99)).is_active());
        assert!(!DomainState::from(libvirt::DomainState::NoState).is_active());
    }
}
