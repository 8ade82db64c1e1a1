//! Typed errors: libvirt's code, domain and message, with the operation and the object that it was about.

use std::ffi::CStr;
use std::fmt;

use virt::sys;

/// Why a call failed. libvirt's numbers that the executor acts on have a variant; the rest is [`ErrorCode::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// `VIR_ERR_NO_DOMAIN`: there is no such domain.
    NoDomain,
    /// `VIR_ERR_NO_DOMAIN_METADATA`: the domain has no metadata of this namespace.
    NoDomainMetadata,
    /// `VIR_ERR_NO_NETWORK`: there is no such network.
    NoNetwork,
    /// `VIR_ERR_NO_STORAGE_POOL`: there is no such storage pool.
    NoStoragePool,
    /// `VIR_ERR_NO_STORAGE_VOL`: there is no such volume.
    NoStorageVol,
    /// `VIR_ERR_NO_NODE_DEVICE`: the host has no such device.
    NoNodeDevice,
    /// `VIR_ERR_STORAGE_VOL_EXIST`: a volume of this name is there already.
    StorageVolExists,
    /// `VIR_ERR_STORAGE_POOL_BUILT`: the pool has been built before.
    StoragePoolBuilt,
    /// `VIR_ERR_OPERATION_INVALID`: not possible in the object's present state.
    OperationInvalid,
    /// `VIR_ERR_OPERATION_FAILED`: libvirt tried and failed; also a name or UUID that another object holds.
    OperationFailed,
    /// `VIR_ERR_OPERATION_TIMEOUT`: libvirt gave up, mostly because another job holds the domain.
    OperationTimeout,
    /// `VIR_ERR_OPERATION_UNSUPPORTED`, `VIR_ERR_NO_SUPPORT`: this driver cannot do it.
    Unsupported,
    /// `VIR_ERR_OPERATION_ABORTED`: somebody cancelled it.
    Aborted,
    /// `VIR_ERR_AGENT_UNRESPONSIVE`, `…_UNSYNCED`, `…_COMMAND_TIMEOUT`: the guest agent does not answer (now).
    AgentUnresponsive,
    /// `VIR_ERR_AGENT_COMMAND_FAILED`: the guest agent answered with an error.
    AgentCommandFailed,
    /// `VIR_ERR_CONFIG_UNSUPPORTED`: the XML asks for what this host cannot do.
    ConfigUnsupported,
    /// `VIR_ERR_XML_ERROR`, `…_XML_DETAIL`, `…_XML_INVALID_SCHEMA`: the XML is not what libvirt expects.
    XmlInvalid,
    /// `VIR_ERR_INVALID_ARG` and its kin, and arguments that cannot be passed on (a NUL in a string).
    InvalidArgument,
    /// `VIR_ERR_DOM_EXIST`, `VIR_ERR_NETWORK_EXIST`: a running object of this name is there already.
    Exists,
    /// `VIR_ERR_RESOURCE_BUSY`: something else uses it.
    ResourceBusy,
    /// `VIR_ERR_ACCESS_DENIED`, `VIR_ERR_AUTH_…`, `VIR_ERR_OPERATION_DENIED`: libvirtd refuses this user.
    AccessDenied,
    /// `VIR_ERR_SYSTEM_ERROR`: a system call of libvirtd failed (no space, no permission).
    SystemError,
    /// `VIR_ERR_INTERNAL_ERROR`: anything that libvirt has no code for, QEMU's own messages among it.
    Internal,
    /// The connection to libvirtd is gone, or could not be made.
    ConnectionLost,
    /// The call did not return within our time limit. It may still take effect: read the state before trying again.
    Timeout,
    /// Too many calls that timed out still hang inside libvirt; none more is started until some return.
    Busy,
    /// Any other of libvirt's codes (`virErrorNumber`).
    Other(i32),
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure it is.
    pub code: ErrorCode,
    /// libvirt's `virErrorDomain`: the part of libvirt that raised it; 0 for errors of our own.
    pub domain: i32,
    /// libvirt's message, or ours.
    pub message: String,
    /// The libvirt call, for instance `virDomainCreate`.
    pub operation: &'static str,
    /// What the call was about, for instance `domain shop.web`.
    pub object: String,
}

/// The outcome of a call to libvirt.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Is the object that the call names not there?
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::NoDomain
                | ErrorCode::NoNetwork
                | ErrorCode::NoStoragePool
                | ErrorCode::NoStorageVol
                | ErrorCode::NoNodeDevice
        )
    }

    /// Is the connection gone? Then the manager reconnects, and the caller resyncs.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        self.code == ErrorCode::ConnectionLost
    }

    /// Might the same call succeed later, without anything else being done?
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::ConnectionLost
                | ErrorCode::Timeout
                | ErrorCode::Busy
                | ErrorCode::OperationTimeout
                | ErrorCode::ResourceBusy
                | ErrorCode::SystemError
        )
    }

    /// What a person can do about it, where that can be said in general.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self.code {
            ErrorCode::ConnectionLost => {
                "check that libvirtd (or virtqemud) runs on the host and its socket is mounted"
            }
            ErrorCode::Timeout | ErrorCode::Busy | ErrorCode::OperationTimeout => {
                "see `virsh domjobinfo` and libvirtd's log for what holds it"
            }
            ErrorCode::AgentUnresponsive => "check that qemu-guest-agent runs in the guest",
            ErrorCode::AccessDenied => "check the permissions of libvirt's socket and its access policy",
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}: {}", self.operation, self.object, self.message)?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, " ({remedy})"))
    }
}

impl std::error::Error for Error {}

/// What a C call left behind, before it is known what it was about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    pub(super) domain: i32,
    pub(super) message: String,
}

impl Failure {
    /// The error of the C call that has just failed on this thread.
    pub(super) fn last() -> Self {
        // SAFETY: virGetLastError returns this thread's own error object or NULL; it stays valid until the next libvirt
        // call on this thread, and its message is NULL or a NUL-terminated string.
        unsafe {
            let error = sys::virGetLastError();
            let Some(error) = error.as_ref() else {
                return Self::new(ErrorCode::Internal, "libvirt reported a failure without a message");
            };
            let message = match error.message.is_null() {
                true => "(no message)".to_owned(),
                false => CStr::from_ptr(error.message).to_string_lossy().into_owned(),
            };
            Self { code: code(error.code, error.domain), domain: error.domain, message }
        }
    }

    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, domain: 0, message: message.into() }
    }

    pub(super) fn on(self, operation: &'static str, object: &str) -> Error {
        let Self { code, domain, message } = self;
        Error { code, domain, message, operation, object: object.to_owned() }
    }
}

/// The variant for libvirt's number. The RPC layer has no code for a dead socket: what it raises as a system, internal
/// or RPC error is one.
fn code(number: i32, domain: i32) -> ErrorCode {
    let Ok(number_unsigned) = u32::try_from(number) else { return ErrorCode::Other(number) };
    let from_rpc = u32::try_from(domain) == Ok(sys::VIR_FROM_RPC);
    match number_unsigned {
        sys::VIR_ERR_SYSTEM_ERROR | sys::VIR_ERR_INTERNAL_ERROR | sys::VIR_ERR_RPC if from_rpc => {
            ErrorCode::ConnectionLost
        }
        sys::VIR_ERR_NO_CONNECT | sys::VIR_ERR_INVALID_CONN | sys::VIR_ERR_LIBSSH | sys::VIR_ERR_SSH => {
            ErrorCode::ConnectionLost
        }
        sys::VIR_ERR_NO_DOMAIN => ErrorCode::NoDomain,
        sys::VIR_ERR_NO_DOMAIN_METADATA => ErrorCode::NoDomainMetadata,
        sys::VIR_ERR_NO_NETWORK => ErrorCode::NoNetwork,
        sys::VIR_ERR_NO_STORAGE_POOL => ErrorCode::NoStoragePool,
        sys::VIR_ERR_NO_STORAGE_VOL => ErrorCode::NoStorageVol,
        sys::VIR_ERR_NO_NODE_DEVICE => ErrorCode::NoNodeDevice,
        sys::VIR_ERR_STORAGE_VOL_EXIST => ErrorCode::StorageVolExists,
        sys::VIR_ERR_STORAGE_POOL_BUILT => ErrorCode::StoragePoolBuilt,
        sys::VIR_ERR_OPERATION_INVALID => ErrorCode::OperationInvalid,
        sys::VIR_ERR_OPERATION_FAILED => ErrorCode::OperationFailed,
        sys::VIR_ERR_OPERATION_TIMEOUT => ErrorCode::OperationTimeout,
        sys::VIR_ERR_OPERATION_UNSUPPORTED | sys::VIR_ERR_NO_SUPPORT | sys::VIR_ERR_ARGUMENT_UNSUPPORTED => {
            ErrorCode::Unsupported
        }
        sys::VIR_ERR_OPERATION_ABORTED => ErrorCode::Aborted,
        sys::VIR_ERR_AGENT_UNRESPONSIVE | sys::VIR_ERR_AGENT_UNSYNCED | sys::VIR_ERR_AGENT_COMMAND_TIMEOUT => {
            ErrorCode::AgentUnresponsive
        }
        sys::VIR_ERR_AGENT_COMMAND_FAILED => ErrorCode::AgentCommandFailed,
        sys::VIR_ERR_CONFIG_UNSUPPORTED => ErrorCode::ConfigUnsupported,
        sys::VIR_ERR_XML_ERROR | sys::VIR_ERR_XML_DETAIL | sys::VIR_ERR_XML_INVALID_SCHEMA => ErrorCode::XmlInvalid,
        sys::VIR_ERR_INVALID_ARG
        | sys::VIR_ERR_INVALID_DOMAIN
        | sys::VIR_ERR_INVALID_NETWORK
        | sys::VIR_ERR_INVALID_STORAGE_POOL
        | sys::VIR_ERR_INVALID_STORAGE_VOL
        | sys::VIR_ERR_INVALID_STREAM
        | sys::VIR_ERR_INVALID_MAC => ErrorCode::InvalidArgument,
        sys::VIR_ERR_DOM_EXIST | sys::VIR_ERR_NETWORK_EXIST => ErrorCode::Exists,
        sys::VIR_ERR_RESOURCE_BUSY => ErrorCode::ResourceBusy,
        sys::VIR_ERR_ACCESS_DENIED
        | sys::VIR_ERR_AUTH_FAILED
        | sys::VIR_ERR_AUTH_CANCELLED
        | sys::VIR_ERR_AUTH_UNAVAILABLE
        | sys::VIR_ERR_OPERATION_DENIED => ErrorCode::AccessDenied,
        sys::VIR_ERR_SYSTEM_ERROR => ErrorCode::SystemError,
        sys::VIR_ERR_INTERNAL_ERROR => ErrorCode::Internal,
        _ => ErrorCode::Other(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RPC: i32 = sys::VIR_FROM_RPC as i32;
    const QEMU: i32 = sys::VIR_FROM_QEMU as i32;

    #[test]
    fn a_dead_socket_is_told_from_a_failed_system_call_by_its_domain() {
        assert_eq!(code(sys::VIR_ERR_SYSTEM_ERROR as i32, RPC), ErrorCode::ConnectionLost);
        assert_eq!(code(sys::VIR_ERR_INTERNAL_ERROR as i32, RPC), ErrorCode::ConnectionLost);
        assert_eq!(code(sys::VIR_ERR_SYSTEM_ERROR as i32, QEMU), ErrorCode::SystemError);
        assert_eq!(code(sys::VIR_ERR_NO_DOMAIN as i32, QEMU), ErrorCode::NoDomain);
        assert_eq!(code(9999, QEMU), ErrorCode::Other(9999));
        assert_eq!(code(-1, QEMU), ErrorCode::Other(-1));
    }

    #[test]
    fn the_message_names_the_call_the_object_and_the_way_out() {
        let error = Failure::new(ErrorCode::ConnectionLost, "end of file").on("virDomainCreate", "domain shop.web");
        assert_eq!(
            error.to_string(),
            "virDomainCreate on domain shop.web: end of file (check that libvirtd (or virtqemud) runs on the host and its \
             socket is mounted)"
        );
    }
}
