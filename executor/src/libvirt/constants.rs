//! libvirt's enumerations as Rust enums. Each variant's documentation is the name of libvirt's constant.

use virt::sys;

/// Declares an enum whose variants are constants of libvirt, and `Other` for those of a libvirt newer than this program.
macro_rules! libvirt_enum {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $constant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", stringify!($constant), "`.")] $variant,)*
            /// A number that this program does not know.
            Other(i32),
        }

        impl $name {
            pub(super) fn from_raw(raw: i32) -> Self {
                $(if i64::from(raw) == i64::from(sys::$constant) { return Self::$variant; })*
                Self::Other(raw)
            }
        }
    };
}
pub(super) use libvirt_enum;

libvirt_enum! {
    /// Why a domain runs (`virDomainRunningReason`).
    RunningReason {
        Unknown = VIR_DOMAIN_RUNNING_UNKNOWN,
        Booted = VIR_DOMAIN_RUNNING_BOOTED,
        Migrated = VIR_DOMAIN_RUNNING_MIGRATED,
        Restored = VIR_DOMAIN_RUNNING_RESTORED,
        FromSnapshot = VIR_DOMAIN_RUNNING_FROM_SNAPSHOT,
        Unpaused = VIR_DOMAIN_RUNNING_UNPAUSED,
        MigrationCanceled = VIR_DOMAIN_RUNNING_MIGRATION_CANCELED,
        SaveCanceled = VIR_DOMAIN_RUNNING_SAVE_CANCELED,
        Wakeup = VIR_DOMAIN_RUNNING_WAKEUP,
        Crashed = VIR_DOMAIN_RUNNING_CRASHED,
        PostCopy = VIR_DOMAIN_RUNNING_POSTCOPY,
        PostCopyFailed = VIR_DOMAIN_RUNNING_POSTCOPY_FAILED,
    }
}

libvirt_enum! {
    /// Why a domain is paused (`virDomainPausedReason`).
    PausedReason {
        Unknown = VIR_DOMAIN_PAUSED_UNKNOWN,
        User = VIR_DOMAIN_PAUSED_USER,
        Migration = VIR_DOMAIN_PAUSED_MIGRATION,
        Save = VIR_DOMAIN_PAUSED_SAVE,
        Dump = VIR_DOMAIN_PAUSED_DUMP,
        IoError = VIR_DOMAIN_PAUSED_IOERROR,
        Watchdog = VIR_DOMAIN_PAUSED_WATCHDOG,
        FromSnapshot = VIR_DOMAIN_PAUSED_FROM_SNAPSHOT,
        ShuttingDown = VIR_DOMAIN_PAUSED_SHUTTING_DOWN,
        Snapshot = VIR_DOMAIN_PAUSED_SNAPSHOT,
        Crashed = VIR_DOMAIN_PAUSED_CRASHED,
        StartingUp = VIR_DOMAIN_PAUSED_STARTING_UP,
        PostCopy = VIR_DOMAIN_PAUSED_POSTCOPY,
        PostCopyFailed = VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
        ApiError = VIR_DOMAIN_PAUSED_API_ERROR,
    }
}

libvirt_enum! {
    /// Why a domain is off (`virDomainShutoffReason`). `Shutdown` is both the guest's own and a host's request: only the
    /// event's detail ([`super::ShutdownDetail`]) tells them apart.
    ShutoffReason {
        Unknown = VIR_DOMAIN_SHUTOFF_UNKNOWN,
        Shutdown = VIR_DOMAIN_SHUTOFF_SHUTDOWN,
        Destroyed = VIR_DOMAIN_SHUTOFF_DESTROYED,
        Crashed = VIR_DOMAIN_SHUTOFF_CRASHED,
        Migrated = VIR_DOMAIN_SHUTOFF_MIGRATED,
        Saved = VIR_DOMAIN_SHUTOFF_SAVED,
        Failed = VIR_DOMAIN_SHUTOFF_FAILED,
        FromSnapshot = VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT,
        Daemon = VIR_DOMAIN_SHUTOFF_DAEMON,
    }
}

libvirt_enum! {
    /// Why a domain counts as crashed (`virDomainCrashedReason`).
    CrashedReason {
        Unknown = VIR_DOMAIN_CRASHED_UNKNOWN,
        Panicked = VIR_DOMAIN_CRASHED_PANICKED,
    }
}

/// What a domain is doing (`virDomainState`), with libvirt's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DomainState {
    /// `VIR_DOMAIN_NOSTATE`.
    NoState,
    /// `VIR_DOMAIN_RUNNING`.
    Running(RunningReason),
    /// `VIR_DOMAIN_BLOCKED`: running, waiting for a resource.
    Blocked,
    /// `VIR_DOMAIN_PAUSED`.
    Paused(PausedReason),
    /// `VIR_DOMAIN_SHUTDOWN`: shutting down, QEMU still there.
    ShuttingDown,
    /// `VIR_DOMAIN_SHUTOFF`.
    Shutoff(ShutoffReason),
    /// `VIR_DOMAIN_CRASHED`.
    Crashed(CrashedReason),
    /// `VIR_DOMAIN_PMSUSPENDED`: suspended by the guest's power management.
    PmSuspended,
    /// A state that this program does not know.
    Other(i32),
}

impl DomainState {
    pub(super) fn from_raw(state: i32, reason: i32) -> Self {
        match u32::try_from(state) {
            Ok(sys::VIR_DOMAIN_NOSTATE) => Self::NoState,
            Ok(sys::VIR_DOMAIN_RUNNING) => Self::Running(RunningReason::from_raw(reason)),
            Ok(sys::VIR_DOMAIN_BLOCKED) => Self::Blocked,
            Ok(sys::VIR_DOMAIN_PAUSED) => Self::Paused(PausedReason::from_raw(reason)),
            Ok(sys::VIR_DOMAIN_SHUTDOWN) => Self::ShuttingDown,
            Ok(sys::VIR_DOMAIN_SHUTOFF) => Self::Shutoff(ShutoffReason::from_raw(reason)),
            Ok(sys::VIR_DOMAIN_CRASHED) => Self::Crashed(CrashedReason::from_raw(reason)),
            Ok(sys::VIR_DOMAIN_PMSUSPENDED) => Self::PmSuspended,
            _ => Self::Other(state),
        }
    }

    /// Is there a QEMU process? A crashed domain has one only if its XML says `preserve`, so it counts as off here; ask
    /// [`super::Domain::is_active`] where it matters.
    #[must_use]
    pub fn has_process(self) -> bool {
        matches!(self, Self::Running(_) | Self::Blocked | Self::Paused(_) | Self::ShuttingDown | Self::PmSuspended)
    }
}

libvirt_enum! {
    /// What a storage pool is doing (`virStoragePoolState`).
    StoragePoolState {
        Inactive = VIR_STORAGE_POOL_INACTIVE,
        Building = VIR_STORAGE_POOL_BUILDING,
        Running = VIR_STORAGE_POOL_RUNNING,
        Degraded = VIR_STORAGE_POOL_DEGRADED,
        Inaccessible = VIR_STORAGE_POOL_INACCESSIBLE,
    }
}

libvirt_enum! {
    /// What a volume is (`virStorageVolType`).
    StorageVolType {
        File = VIR_STORAGE_VOL_FILE,
        Block = VIR_STORAGE_VOL_BLOCK,
        Dir = VIR_STORAGE_VOL_DIR,
        Network = VIR_STORAGE_VOL_NETWORK,
        NetDir = VIR_STORAGE_VOL_NETDIR,
        Ploop = VIR_STORAGE_VOL_PLOOP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_carry_their_reason_and_unknown_numbers_are_kept() {
        assert_eq!(DomainState::from_raw(5, 1), DomainState::Shutoff(ShutoffReason::Shutdown));
        assert_eq!(DomainState::from_raw(1, 1), DomainState::Running(RunningReason::Booted));
        assert_eq!(DomainState::from_raw(1, 77), DomainState::Running(RunningReason::Other(77)));
        assert_eq!(DomainState::from_raw(42, 0), DomainState::Other(42));
        assert_eq!(DomainState::from_raw(-3, 0), DomainState::Other(-3));
    }
}
