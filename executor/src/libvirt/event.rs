//! What libvirt reports by itself, as one typed enum on one bounded channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;
use uuid::Uuid;
use virt::sys;

use super::constants::libvirt_enum;

/// What happened. [`Event::Connected`] and [`Event::Lost`] ask for the same: read everything anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The manager has a (new) connection: read everything anew, then follow the events. Generations count from 1.
    Connected {
        /// The number of this connection.
        generation: u64,
    },
    /// The connection ended; calls fail until the next [`Event::Connected`].
    Disconnected {
        /// The number of the connection that ended.
        generation: u64,
        /// Why it ended.
        reason: CloseReason,
    },
    /// The reader was too slow and events were dropped, any number of them: read everything anew.
    Lost,
    /// Something about a domain.
    Domain {
        /// Which one.
        domain: ObjectRef,
        /// What.
        event: DomainEvent,
    },
    /// Something about a storage pool.
    StoragePool {
        /// Which one.
        pool: ObjectRef,
        /// What.
        event: StoragePoolEvent,
    },
    /// Something about a network.
    Network {
        /// Which one.
        network: ObjectRef,
        /// What.
        event: NetworkEvent,
    },
    /// A device of the host came, went or changed (`VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE`, `…_UPDATE`): read it anew.
    NodeDevice {
        /// Its name.
        name: String,
    },
}

/// The identity of a libvirt object, as it was when the event happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
}

libvirt_enum! {
    /// Why a connection ended (`virConnectCloseReason`).
    CloseReason {
        Error = VIR_CONNECT_CLOSE_REASON_ERROR,
        EndOfFile = VIR_CONNECT_CLOSE_REASON_EOF,
        Keepalive = VIR_CONNECT_CLOSE_REASON_KEEPALIVE,
        Client = VIR_CONNECT_CLOSE_REASON_CLIENT,
    }
}

/// An event of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainEvent {
    /// `VIR_DOMAIN_EVENT_ID_LIFECYCLE`.
    Lifecycle(Lifecycle),
    /// `VIR_DOMAIN_EVENT_ID_REBOOT`: the guest reset itself, or was reset; QEMU is the same process.
    Reboot,
    /// `VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE`: the guest agent came or went.
    Agent {
        /// Is it there now?
        connected: bool,
        /// Why.
        reason: AgentReason,
    },
    /// `VIR_DOMAIN_EVENT_ID_DEVICE_ADDED`.
    DeviceAdded {
        /// The device's alias.
        alias: String,
    },
    /// `VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED`: the guest has let go of it.
    DeviceRemoved {
        /// The device's alias.
        alias: String,
    },
    /// `VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED`: the guest refused.
    DeviceRemovalFailed {
        /// The device's alias.
        alias: String,
    },
    /// `VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2`: a block job ended or is ready.
    BlockJob {
        /// The disk's target, such as `vda`.
        disk: String,
        /// What the job does.
        kind: BlockJobType,
        /// How it stands.
        status: BlockJobStatus,
    },
    /// `VIR_DOMAIN_EVENT_ID_JOB_COMPLETED`: a migration, save or backup ended.
    JobCompleted {
        /// `VIR_DOMAIN_JOB_SUCCESS`, where libvirt says.
        success: Option<bool>,
        /// `VIR_DOMAIN_JOB_ERRMSG`, where libvirt says.
        error: Option<String>,
    },
    /// `VIR_DOMAIN_EVENT_ID_TRAY_CHANGE`: the guest opened or closed a CD-ROM's tray.
    TrayChange {
        /// The device's alias.
        alias: String,
        /// Is it open now?
        open: bool,
    },
    /// `VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE`.
    BalloonChange {
        /// The guest's memory now, in bytes.
        bytes: u64,
    },
    /// `VIR_DOMAIN_EVENT_ID_METADATA_CHANGE`: its title, its description or an element of its metadata.
    MetadataChange {
        /// XML namespace of the element.
        namespace: Option<String>,
    },
    /// `VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD`: a disk's image has grown past a limit that was set.
    BlockThreshold {
        /// The disk's target, such as `vda` or `vda[1]`.
        disk: String,
        /// The image's path, if it has one.
        path: Option<String>,
        /// The limit, in bytes.
        threshold: u64,
        /// How far past it, in bytes.
        excess: u64,
    },
}

/// `virDomainEventType` with its detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// `VIR_DOMAIN_EVENT_DEFINED`.
    Defined(DefinedDetail),
    /// `VIR_DOMAIN_EVENT_UNDEFINED`.
    Undefined(UndefinedDetail),
    /// `VIR_DOMAIN_EVENT_STARTED`.
    Started(StartedDetail),
    /// `VIR_DOMAIN_EVENT_SUSPENDED`: its vCPUs stand still.
    Suspended(SuspendedDetail),
    /// `VIR_DOMAIN_EVENT_RESUMED`.
    Resumed(ResumedDetail),
    /// `VIR_DOMAIN_EVENT_STOPPED`: QEMU is gone.
    Stopped(StoppedDetail),
    /// `VIR_DOMAIN_EVENT_SHUTDOWN`: QEMU is about to end; says who asked. [`Lifecycle::Stopped`] follows.
    Shutdown(ShutdownDetail),
    /// `VIR_DOMAIN_EVENT_PMSUSPENDED`: suspended by the guest's power management.
    PmSuspended(PmSuspendedDetail),
    /// `VIR_DOMAIN_EVENT_CRASHED`: the guest's kernel panicked.
    Crashed(CrashedDetail),
    /// A type that this program does not know.
    Other {
        /// libvirt's type.
        kind: i32,
        /// libvirt's detail.
        detail: i32,
    },
}

impl Lifecycle {
    pub(super) fn from_raw(kind: i32, detail: i32) -> Self {
        match u32::try_from(kind) {
            Ok(sys::VIR_DOMAIN_EVENT_DEFINED) => Self::Defined(DefinedDetail::from_raw(detail)),
            Ok(sys::VIR_DOMAIN_EVENT_UNDEFINED) => Self::Undefined(UndefinedDetail::from_raw(detail)),
            Ok(sys::VIR_DOMAIN_EVENT_STARTED) => Self::Started(StartedDetail::from_raw(detail)),
            Ok(sys::VIR_DOMAIN_EVENT_SUSPENDED) => Self::Suspended(SuspendedDetail::from_raw(detail)),
            Ok(sys::VIR_DOMAIN_EVENT_RESUMED) => Self::Resumed(ResumedDetail::from_raw(detail)),
            Ok(sys::VIR_DOMAIN_EVENT_STOPPED) => Self::Stopped(StoppedDetail::from_raw(detail)),
            Ok(sys::VIR_DOMAIN_EVENT_SHUTDOWN) => Self::Shutdown(ShutdownDetail::from_raw(detail)),
            Ok(sys::VIR_DOMAIN_EVENT_PMSUSPENDED) => Self::PmSuspended(PmSuspendedDetail::from_raw(detail)),
            Ok(sys::VIR_DOMAIN_EVENT_CRASHED) => Self::Crashed(CrashedDetail::from_raw(detail)),
            _ => Self::Other { kind, detail },
        }
    }
}

libvirt_enum! {
    /// Why a domain was defined.
    DefinedDetail {
        Added = VIR_DOMAIN_EVENT_DEFINED_ADDED,
        Updated = VIR_DOMAIN_EVENT_DEFINED_UPDATED,
        Renamed = VIR_DOMAIN_EVENT_DEFINED_RENAMED,
        FromSnapshot = VIR_DOMAIN_EVENT_DEFINED_FROM_SNAPSHOT,
    }
}

libvirt_enum! {
    /// Why a domain was undefined.
    UndefinedDetail {
        Removed = VIR_DOMAIN_EVENT_UNDEFINED_REMOVED,
        Renamed = VIR_DOMAIN_EVENT_UNDEFINED_RENAMED,
    }
}

libvirt_enum! {
    /// How a domain came to run.
    StartedDetail {
        Booted = VIR_DOMAIN_EVENT_STARTED_BOOTED,
        Migrated = VIR_DOMAIN_EVENT_STARTED_MIGRATED,
        Restored = VIR_DOMAIN_EVENT_STARTED_RESTORED,
        FromSnapshot = VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT,
        Wakeup = VIR_DOMAIN_EVENT_STARTED_WAKEUP,
        Recreated = VIR_DOMAIN_EVENT_STARTED_RECREATED,
    }
}

libvirt_enum! {
    /// Why a domain was paused.
    SuspendedDetail {
        Paused = VIR_DOMAIN_EVENT_SUSPENDED_PAUSED,
        Migrated = VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED,
        IoError = VIR_DOMAIN_EVENT_SUSPENDED_IOERROR,
        Watchdog = VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG,
        Restored = VIR_DOMAIN_EVENT_SUSPENDED_RESTORED,
        FromSnapshot = VIR_DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT,
        ApiError = VIR_DOMAIN_EVENT_SUSPENDED_API_ERROR,
        PostCopy = VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY,
        PostCopyFailed = VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED,
        GuestShutdown = VIR_DOMAIN_EVENT_SUSPENDED_GUEST_SHUTDOWN,
    }
}

libvirt_enum! {
    /// Why a domain was resumed.
    ResumedDetail {
        Unpaused = VIR_DOMAIN_EVENT_RESUMED_UNPAUSED,
        Migrated = VIR_DOMAIN_EVENT_RESUMED_MIGRATED,
        FromSnapshot = VIR_DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT,
        PostCopy = VIR_DOMAIN_EVENT_RESUMED_POSTCOPY,
        PostCopyFailed = VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED,
    }
}

libvirt_enum! {
    /// Why QEMU is gone. `Shutdown`: see the [`ShutdownDetail`] that came before.
    StoppedDetail {
        Shutdown = VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN,
        Destroyed = VIR_DOMAIN_EVENT_STOPPED_DESTROYED,
        Crashed = VIR_DOMAIN_EVENT_STOPPED_CRASHED,
        Migrated = VIR_DOMAIN_EVENT_STOPPED_MIGRATED,
        Saved = VIR_DOMAIN_EVENT_STOPPED_SAVED,
        Failed = VIR_DOMAIN_EVENT_STOPPED_FAILED,
        FromSnapshot = VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT,
        Recreated = VIR_DOMAIN_EVENT_STOPPED_RECREATED,
    }
}

libvirt_enum! {
    /// Who asked for the shutdown: `Guest` from inside, `Host` by a signal to QEMU, `Finished` unknown.
    ShutdownDetail {
        Finished = VIR_DOMAIN_EVENT_SHUTDOWN_FINISHED,
        Guest = VIR_DOMAIN_EVENT_SHUTDOWN_GUEST,
        Host = VIR_DOMAIN_EVENT_SHUTDOWN_HOST,
    }
}

libvirt_enum! {
    /// How the guest suspended itself.
    PmSuspendedDetail {
        Memory = VIR_DOMAIN_EVENT_PMSUSPENDED_MEMORY,
        Disk = VIR_DOMAIN_EVENT_PMSUSPENDED_DISK,
    }
}

libvirt_enum! {
    /// How the guest crashed.
    CrashedDetail {
        Panicked = VIR_DOMAIN_EVENT_CRASHED_PANICKED,
        CrashLoaded = VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED,
    }
}

libvirt_enum! {
    /// Why the agent's state changed (`virConnectDomainEventAgentLifecycleReason`).
    AgentReason {
        Unknown = VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_REASON_UNKNOWN,
        DomainStarted = VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_REASON_DOMAIN_STARTED,
        Channel = VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_REASON_CHANNEL,
    }
}

libvirt_enum! {
    /// What a block job does (`virDomainBlockJobType`).
    BlockJobType {
        Unknown = VIR_DOMAIN_BLOCK_JOB_TYPE_UNKNOWN,
        Pull = VIR_DOMAIN_BLOCK_JOB_TYPE_PULL,
        Copy = VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
        Commit = VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT,
        ActiveCommit = VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT,
        Backup = VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP,
    }
}

libvirt_enum! {
    /// How a block job stands (`virConnectDomainEventBlockJobStatus`).
    BlockJobStatus {
        Completed = VIR_DOMAIN_BLOCK_JOB_COMPLETED,
        Failed = VIR_DOMAIN_BLOCK_JOB_FAILED,
        Canceled = VIR_DOMAIN_BLOCK_JOB_CANCELED,
        Ready = VIR_DOMAIN_BLOCK_JOB_READY,
    }
}

/// An event of one storage pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoragePoolEvent {
    /// `VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE`.
    Lifecycle(StoragePoolLifecycle),
    /// `VIR_STORAGE_POOL_EVENT_ID_REFRESH`: its list of volumes or its sizes may have changed.
    Refresh,
}

libvirt_enum! {
    /// What happened to a storage pool (`virStoragePoolEventLifecycleType`).
    StoragePoolLifecycle {
        Defined = VIR_STORAGE_POOL_EVENT_DEFINED,
        Undefined = VIR_STORAGE_POOL_EVENT_UNDEFINED,
        Started = VIR_STORAGE_POOL_EVENT_STARTED,
        Stopped = VIR_STORAGE_POOL_EVENT_STOPPED,
        Created = VIR_STORAGE_POOL_EVENT_CREATED,
        Deleted = VIR_STORAGE_POOL_EVENT_DELETED,
    }
}

libvirt_enum! {
    /// What happened to a network (`virNetworkEventLifecycleType`).
    NetworkEvent {
        Defined = VIR_NETWORK_EVENT_DEFINED,
        Undefined = VIR_NETWORK_EVENT_UNDEFINED,
        Started = VIR_NETWORK_EVENT_STARTED,
        Stopped = VIR_NETWORK_EVENT_STOPPED,
    }
}

/// A bounded channel of events that never blocks its sender: when it is full, one [`Event::Lost`] stands for all that
/// comes until the reader has taken it.
pub(super) fn channel(capacity: usize) -> (EventSender, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared { capacity, queued: AtomicUsize::new(0), lost: AtomicBool::new(false) });
    (EventSender { sender, shared: Arc::clone(&shared) }, Events { receiver, shared })
}

struct Shared {
    capacity: usize,
    queued: AtomicUsize,
    /// Is an [`Event::Lost`] in the queue?
    lost: AtomicBool,
}

/// The sending side; used from libvirt's event loop.
#[derive(Clone)]
pub(super) struct EventSender {
    sender: mpsc::UnboundedSender<Event>,
    shared: Arc<Shared>,
}

impl EventSender {
    /// Sends, or drops the event and marks the loss.
    pub(super) fn send(&self, event: Event) {
        if self.shared.lost.load(Ordering::SeqCst) {
            return;
        }
        if self.shared.queued.load(Ordering::SeqCst) >= self.shared.capacity {
            if !self.shared.lost.swap(true, Ordering::SeqCst) {
                self.send_always(Event::Lost);
            }
            return;
        }
        self.send_always(event);
    }

    /// Sends whatever the queue's length; for the few events of the manager itself.
    pub(super) fn send_always(&self, event: Event) {
        self.shared.queued.fetch_add(1, Ordering::SeqCst);
        // Nobody listens any more when the receiver is gone.
        drop(self.sender.send(event));
    }
}

/// The receiving side: libvirt's events in their order.
pub struct Events {
    receiver: mpsc::UnboundedReceiver<Event>,
    shared: Arc<Shared>,
}

impl Events {
    /// The next event; `None` when the manager and all its connections are gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        let event = self.receiver.recv().await?;
        self.shared.queued.fetch_sub(1, Ordering::SeqCst);
        if event == Event::Lost {
            self.shared.lost.store(false, Ordering::SeqCst);
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reboot(number: u128) -> Event {
        let domain = ObjectRef { uuid: Uuid::from_u128(number), name: number.to_string() };
        Event::Domain { domain, event: DomainEvent::Reboot }
    }

    #[tokio::test]
    async fn a_full_queue_loses_events_but_not_the_fact() {
        let (sender, mut events) = channel(2);
        (0..5).for_each(|number| sender.send(reboot(number)));
        sender.send_always(Event::Connected { generation: 2 });
        assert_eq!(events.recv().await, Some(reboot(0)));
        assert_eq!(events.recv().await, Some(reboot(1)));
        sender.send(reboot(5));
        assert_eq!(events.recv().await, Some(Event::Lost));
        sender.send(reboot(6));
        assert_eq!(events.recv().await, Some(Event::Connected { generation: 2 }));
        assert_eq!(events.recv().await, Some(reboot(6)));
        drop(sender);
        assert_eq!(events.recv().await, None);
    }

    #[test]
    fn the_detail_tells_who_asked_for_a_shutdown() {
        assert_eq!(Lifecycle::from_raw(6, 1), Lifecycle::Shutdown(ShutdownDetail::Guest));
        assert_eq!(Lifecycle::from_raw(6, 2), Lifecycle::Shutdown(ShutdownDetail::Host));
        assert_eq!(Lifecycle::from_raw(5, 1), Lifecycle::Stopped(StoppedDetail::Destroyed));
        assert_eq!(Lifecycle::from_raw(2, 99), Lifecycle::Started(StartedDetail::Other(99)));
        assert_eq!(Lifecycle::from_raw(99, 1), Lifecycle::Other { kind: 99, detail: 1 });
    }
}
