//! Domains.

use std::time::Duration;

use uuid::Uuid;
use virt::sys;

use super::connection::{Connection, Patience};
use super::constants::DomainState;
use super::error::{ErrorCode, Result};
use super::ffi::{c_string, c_string_or_null, check, check_bool, pointer, take_string};
use super::handle::{defined_calls, named_handle, owned_pointer, unless_missing};

owned_pointer!(RawDomain, _virDomain, virDomainFree);

named_handle!(
    /// A domain (`virDomainPtr`). It need not exist any more: then its calls fail with [`ErrorCode::NoDomain`].
    Domain: "domain", RawDomain, _virDomain, NoDomain, virDomainGetUUID, virDomainGetName
);

defined_calls!(Domain, virDomainIsActive, virDomainIsPersistent, virDomainGetAutostart, virDomainSetAutostart);

/// Which domains to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DomainFilter {
    /// All of them.
    #[default]
    All,
    /// Those with a QEMU process.
    Active,
    /// Those without.
    Inactive,
    /// Those that are defined.
    Persistent,
    /// Those that vanish when they stop.
    Transient,
}

impl DomainFilter {
    fn flags(self) -> u32 {
        match self {
            Self::All => 0,
            Self::Active => sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE,
            Self::Inactive => sys::VIR_CONNECT_LIST_DOMAINS_INACTIVE,
            Self::Persistent => sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT,
            Self::Transient => sys::VIR_CONNECT_LIST_DOMAINS_TRANSIENT,
        }
    }
}

/// How to start a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// `VIR_DOMAIN_START_PAUSED`: leave its vCPUs standing.
    pub paused: bool,
    /// `VIR_DOMAIN_START_FORCE_BOOT`: boot anew and drop a managed save, if there is one.
    pub force_boot: bool,
}

/// How to ask a guest to shut down or reboot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestRequest {
    /// The way that libvirt prefers.
    #[default]
    Default,
    /// The ACPI power button.
    Acpi,
    /// The guest's agent.
    Agent,
}

/// What to do with a file that belongs to a domain when it is undefined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disposal {
    /// No flag: libvirt refuses or decides.
    #[default]
    Unspecified,
    /// Delete it.
    Remove,
    /// Leave it.
    Keep,
}

/// How to undefine a domain (`virDomainUndefineFlags`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UndefineOptions {
    /// Delete its managed save.
    pub managed_save: bool,
    /// Forget its snapshots; their data stays in the images.
    pub snapshots_metadata: bool,
    /// Forget its checkpoints.
    pub checkpoints_metadata: bool,
    /// Its UEFI variables.
    pub nvram: Disposal,
    /// Its TPM's state.
    pub tpm: Disposal,
}

impl UndefineOptions {
    /// Everything goes that belongs to the domain alone, but not its disks.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            managed_save: true,
            snapshots_metadata: true,
            checkpoints_metadata: true,
            nvram: Disposal::Remove,
            tpm: Disposal::Remove,
        }
    }

    fn flags(self) -> u32 {
        let flag = |on, flag| if on { flag } else { 0 };
        let disposal = |disposal, remove, keep| match disposal {
            Disposal::Unspecified => 0,
            Disposal::Remove => remove,
            Disposal::Keep => keep,
        };
        flag(self.managed_save, sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
            | flag(self.snapshots_metadata, sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
            | flag(self.checkpoints_metadata, sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
            | disposal(self.nvram, sys::VIR_DOMAIN_UNDEFINE_NVRAM, sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
            | disposal(self.tpm, sys::VIR_DOMAIN_UNDEFINE_TPM, sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM)
    }
}

/// Which of a domain's two descriptions to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XmlOptions {
    /// `VIR_DOMAIN_XML_INACTIVE`: what the next start uses, not what runs.
    pub inactive: bool,
    /// `VIR_DOMAIN_XML_SECURE`: with passwords.
    pub secure: bool,
}

/// Which of a domain's two descriptions to change (`virDomainModificationImpact`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Impact {
    /// The running one if it runs, else the other.
    #[default]
    Current,
    /// What runs.
    Live,
    /// What the next start uses.
    Config,
    /// Both.
    LiveAndConfig,
}

impl Impact {
    fn flags(self) -> u32 {
        match self {
            Self::Current => sys::VIR_DOMAIN_AFFECT_CURRENT,
            Self::Live => sys::VIR_DOMAIN_AFFECT_LIVE,
            Self::Config => sys::VIR_DOMAIN_AFFECT_CONFIG,
            Self::LiveAndConfig => sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_AFFECT_CONFIG,
        }
    }
}

/// A domain's state, size and CPU time (`virDomainInfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// What it is doing; libvirt gives no reason here.
    pub state: DomainState,
    /// The most memory that it can have now, in bytes.
    pub max_memory_bytes: u64,
    /// The memory that it has now, in bytes.
    pub memory_bytes: u64,
    /// Its vCPUs now.
    pub vcpus: u32,
    /// The CPU time that it has used since its start.
    pub cpu_time: Duration,
}

// SAFETY of the calls: the connection lives, and so does what the pointers lead to.
impl Connection {
    /// `virConnectListAllDomains`.
    pub async fn list_domains(&self, filter: DomainFilter) -> Result<Vec<Domain>> {
        self.list("virConnectListAllDomains", move |conn, array| unsafe {
            sys::virConnectListAllDomains(conn, array, filter.flags())
        })
        .await
    }

    /// `virDomainLookupByUUID`; `None` if there is no such domain.
    pub async fn lookup_domain(&self, uuid: Uuid) -> Result<Option<Domain>> {
        self.by_uuid("virDomainLookupByUUID", uuid, |conn, uuid| unsafe { sys::virDomainLookupByUUID(conn, uuid) })
            .await
    }

    /// `virDomainLookupByName`; `None` if there is no such domain.
    pub async fn lookup_domain_by_name(&self, name: &str) -> Result<Option<Domain>> {
        self.by_name("virDomainLookupByName", name, |conn, name| unsafe { sys::virDomainLookupByName(conn, name) })
            .await
    }

    /// `virDomainDefineXMLFlags` with `VIR_DOMAIN_DEFINE_VALIDATE`: creates or replaces a persistent domain. `name` is
    /// for the error's text.
    pub async fn define_domain(&self, name: &str, xml: &str) -> Result<Domain> {
        self.make("virDomainDefineXMLFlags", Patience::Long, name, xml, |conn, xml| unsafe {
            sys::virDomainDefineXMLFlags(conn, xml, sys::VIR_DOMAIN_DEFINE_VALIDATE)
        })
        .await
    }
}

impl Domain {
    /// `virDomainGetID`: the number of the running domain; `None` while it is off.
    pub async fn id(&self) -> Result<Option<u32>> {
        self.call("virDomainGetID", Patience::Short, |domain| {
            // The number in the handle is from when it was made, so the domain is looked up again.
            let mut bytes = [0_u8; 16];
            // SAFETY: `domain` lives; `fresh` is a reference of ours.
            unsafe {
                check(sys::virDomainGetUUID(domain, bytes.as_mut_ptr()))?;
                let fresh =
                    RawDomain::adopt(sys::virDomainLookupByUUID(sys::virDomainGetConnect(domain), bytes.as_ptr()))?;
                let id = sys::virDomainGetID(fresh.as_ptr());
                Ok((id != u32::MAX).then_some(id))
            }
        })
        .await
    }

    /// `virDomainCreateWithFlags`: starts a defined domain.
    pub async fn create(&self, options: StartOptions) -> Result<()> {
        let mut flags = 0;
        if options.paused {
            flags |= sys::VIR_DOMAIN_START_PAUSED;
        }
        if options.force_boot {
            flags |= sys::VIR_DOMAIN_START_FORCE_BOOT;
        }
        // SAFETY: `call` passes a live domain (here and below).
        self.act("virDomainCreateWithFlags", Patience::Long, move |domain| unsafe {
            sys::virDomainCreateWithFlags(domain, flags)
        })
        .await
    }

    /// `virDomainSuspend`: its vCPUs stand still.
    pub async fn suspend(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virDomainSuspend", Patience::Long, |domain| unsafe { sys::virDomainSuspend(domain) }).await
    }

    /// `virDomainResume`.
    pub async fn resume(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virDomainResume", Patience::Long, |domain| unsafe { sys::virDomainResume(domain) }).await
    }

    /// `virDomainShutdownFlags`: asks the guest to shut down. It may ignore that; the event tells when it is done.
    pub async fn shutdown(&self, how: GuestRequest) -> Result<()> {
        let flags = match how {
            GuestRequest::Default => sys::VIR_DOMAIN_SHUTDOWN_DEFAULT,
            GuestRequest::Acpi => sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
            GuestRequest::Agent => sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT,
        };
        // SAFETY: as above.
        self.act("virDomainShutdownFlags", Patience::Long, move |domain| unsafe {
            sys::virDomainShutdownFlags(domain, flags)
        })
        .await
    }

    /// `virDomainReboot`: asks the guest to reboot.
    pub async fn reboot(&self, how: GuestRequest) -> Result<()> {
        let flags = match how {
            GuestRequest::Default => sys::VIR_DOMAIN_REBOOT_DEFAULT,
            GuestRequest::Acpi => sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN,
            GuestRequest::Agent => sys::VIR_DOMAIN_REBOOT_GUEST_AGENT,
        };
        // SAFETY: as above.
        self.act("virDomainReboot", Patience::Long, move |domain| unsafe { sys::virDomainReboot(domain, flags) }).await
    }

    /// `virDomainReset`: as the reset button.
    pub async fn reset(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virDomainReset", Patience::Long, |domain| unsafe { sys::virDomainReset(domain, 0) }).await
    }

    /// `virDomainDestroyFlags`: ends QEMU. `graceful` only sends SIGTERM, and fails if QEMU does not end in time.
    pub async fn destroy(&self, graceful: bool) -> Result<()> {
        let flags = if graceful { sys::VIR_DOMAIN_DESTROY_GRACEFUL } else { sys::VIR_DOMAIN_DESTROY_DEFAULT };
        // SAFETY: as above.
        self.act("virDomainDestroyFlags", Patience::Long, move |domain| unsafe {
            sys::virDomainDestroyFlags(domain, flags)
        })
        .await
    }

    /// `virDomainUndefineFlags`. A running domain becomes transient.
    pub async fn undefine(&self, options: UndefineOptions) -> Result<()> {
        let flags = options.flags();
        // SAFETY: as above.
        self.act("virDomainUndefineFlags", Patience::Long, move |domain| unsafe {
            sys::virDomainUndefineFlags(domain, flags)
        })
        .await
    }

    /// `virDomainGetState`.
    pub async fn state(&self) -> Result<DomainState> {
        self.call("virDomainGetState", Patience::Short, |domain| {
            let (mut state, mut reason) = (0, 0);
            // SAFETY: both are written to.
            check(unsafe { sys::virDomainGetState(domain, &raw mut state, &raw mut reason, 0) })?;
            Ok(DomainState::from_raw(state, reason))
        })
        .await
    }

    /// `virDomainGetXMLDesc`.
    pub async fn xml(&self, options: XmlOptions) -> Result<String> {
        let mut flags = 0;
        if options.inactive {
            flags |= sys::VIR_DOMAIN_XML_INACTIVE;
        }
        if options.secure {
            flags |= sys::VIR_DOMAIN_XML_SECURE;
        }
        self.call("virDomainGetXMLDesc", Patience::Short, move |domain| {
            // SAFETY: the result is ours to free.
            unsafe { take_string(sys::virDomainGetXMLDesc(domain, flags)) }
        })
        .await
    }

    /// `virDomainHasManagedSaveImage`.
    pub async fn has_managed_save(&self) -> Result<bool> {
        // SAFETY: as above.
        let call = |domain| check_bool(unsafe { sys::virDomainHasManagedSaveImage(domain, 0) });
        self.call("virDomainHasManagedSaveImage", Patience::Short, call).await
    }

    /// `virDomainGetMetadata`: the metadata element of the XML namespace `uri`, as XML; `None` if there is none.
    pub async fn metadata(&self, uri: &str, impact: Impact) -> Result<Option<String>> {
        let uri = c_string(uri);
        let call = move |domain| {
            let uri = uri?;
            let (kind, flags) = (sys::VIR_DOMAIN_METADATA_ELEMENT as i32, impact.flags());
            // SAFETY: the URI lives during the call; the result is ours to free.
            unsafe { take_string(sys::virDomainGetMetadata(domain, kind, uri.as_ptr(), flags)) }
        };
        let element = self.call("virDomainGetMetadata", Patience::Short, call).await;
        unless_missing(element, ErrorCode::NoDomainMetadata)
    }

    /// `virDomainSetMetadata`: sets or (with `None`) removes the metadata element of the XML namespace `uri`, written
    /// with `prefix`.
    pub async fn set_metadata(&self, uri: &str, prefix: &str, element: Option<&str>, impact: Impact) -> Result<()> {
        let (uri, prefix, element) = (c_string(uri), c_string(prefix), c_string_or_null(element));
        let call = move |domain| {
            let (uri, prefix, element) = (uri?, prefix?, element?);
            let (kind, flags) = (sys::VIR_DOMAIN_METADATA_ELEMENT as i32, impact.flags());
            let (element, prefix, uri) = (pointer(&element), prefix.as_ptr(), uri.as_ptr());
            // SAFETY: the strings live during the call.
            check(unsafe { sys::virDomainSetMetadata(domain, kind, element, prefix, uri, flags) }).map(drop)
        };
        self.call("virDomainSetMetadata", Patience::Short, call).await
    }

    /// `virDomainGetInfo`.
    pub async fn info(&self) -> Result<DomainInfo> {
        self.call("virDomainGetInfo", Patience::Short, |domain| {
            // SAFETY: the struct is plain data, for which zeros are valid; libvirt fills it.
            unsafe {
                let mut info: sys::_virDomainInfo = std::mem::zeroed();
                check(sys::virDomainGetInfo(domain, &raw mut info))?;
                Ok(DomainInfo {
                    state: DomainState::from_raw(info.state.into(), 0),
                    max_memory_bytes: info.maxMem.saturating_mul(1024),
                    memory_bytes: info.memory.saturating_mul(1024),
                    vcpus: info.nrVirtCpu.into(),
                    cpu_time: Duration::from_nanos(info.cpuTime),
                })
            }
        })
        .await
    }
}
