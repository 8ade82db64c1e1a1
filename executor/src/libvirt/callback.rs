//! The C functions that libvirt's event loop calls, and their registration. They run on the event thread, so they only
//! copy what they are given and hand it to the channel; they never call back into libvirt but for local getters.

use std::ffi::{c_char, c_int, c_ulonglong, c_void};
use std::mem::transmute;
use std::ptr;
use std::sync::Arc;

use tokio::sync::watch;
use virt::sys;

use super::error::{ErrorCode, Failure};
use super::event::{
    AgentReason, BlockJobStatus, BlockJobType, CloseReason, DomainEvent, Event, EventSender, Lifecycle, NetworkEvent,
    ObjectRef, StoragePoolEvent, StoragePoolLifecycle,
};
use super::ffi::{self, TypedValue, copy_string};

/// The callback numbers of one connection, to be deregistered before it is closed.
#[derive(Default)]
pub(super) struct Registrations {
    domain: Vec<c_int>,
    network: Vec<c_int>,
    storage_pool: Vec<c_int>,
    node_device: Vec<c_int>,
    /// Nobody on this host answers for its devices.
    pub(super) without_node_devices: bool,
}

/// Registers every event of interest (`virConnectDomainEventRegisterAny`, `virConnectNetworkEventRegisterAny`,
/// `virConnectStoragePoolEventRegisterAny`, `virConnectNodeDeviceEventRegisterAny`). An event that the driver does not know
/// is left out, and so are those of devices if the host has no daemon for them.
///
/// # Safety
/// `conn` is an open connection.
pub(super) unsafe fn register(conn: sys::virConnectPtr, events: &EventSender) -> Result<Registrations, Failure> {
    type Domain = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
    type Network = unsafe extern "C" fn(sys::virConnectPtr, sys::virNetworkPtr, *mut c_void);
    type Pool = unsafe extern "C" fn(sys::virConnectPtr, sys::virStoragePoolPtr, *mut c_void);
    type Device = unsafe extern "C" fn(sys::virConnectPtr, sys::virNodeDevicePtr, *mut c_void);
    // SAFETY: each function has exactly the signature that libvirt documents for its event id; libvirt casts it back
    // before it calls it.
    let (domain, network, pool, device) = unsafe {
        let domain = [
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, transmute::<*const (), Domain>(on_lifecycle as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot as Domain),
            (sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, transmute::<*const (), Domain>(on_agent as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, transmute::<*const (), Domain>(on_device_added as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, transmute::<*const (), Domain>(on_device_removed as *const ())),
            (
                sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
                transmute::<*const (), Domain>(on_device_removal_failed as *const ()),
            ),
            (sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, transmute::<*const (), Domain>(on_block_job as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, transmute::<*const (), Domain>(on_job_completed as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_TRAY_CHANGE, transmute::<*const (), Domain>(on_tray_change as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, transmute::<*const (), Domain>(on_balloon_change as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, transmute::<*const (), Domain>(on_metadata_change as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD, transmute::<*const (), Domain>(on_block_threshold as *const ())),
        ];
        let network = [(sys::VIR_NETWORK_EVENT_ID_LIFECYCLE, transmute::<*const (), Network>(on_network as *const ()))];
        let pool = [
            (sys::VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, transmute::<*const (), Pool>(on_pool_lifecycle as *const ())),
            (sys::VIR_STORAGE_POOL_EVENT_ID_REFRESH, on_pool_refresh as Pool),
        ];
        let device = [
            (sys::VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE, transmute::<*const (), Device>(on_device_lifecycle as *const ())),
            (sys::VIR_NODE_DEVICE_EVENT_ID_UPDATE, on_device_update as Device),
        ];
        (domain, network, pool, device)
    };
    let mut registrations = Registrations::default();
    // SAFETY: `conn` is open; a NULL object means all objects; `opaque` is a boxed sender that `free` frees.
    unsafe {
        for (id, callback) in domain {
            registrations.domain.extend(attempt(events, |opaque, free| {
                sys::virConnectDomainEventRegisterAny(conn, ptr::null_mut(), id as c_int, Some(callback), opaque, free)
            })?);
        }
        for (id, callback) in network {
            registrations.network.extend(attempt(events, |opaque, free| {
                sys::virConnectNetworkEventRegisterAny(conn, ptr::null_mut(), id as c_int, Some(callback), opaque, free)
            })?);
        }
        for (id, callback) in pool {
            registrations.storage_pool.extend(attempt(events, |opaque, free| {
                let id = id as c_int;
                sys::virConnectStoragePoolEventRegisterAny(conn, ptr::null_mut(), id, Some(callback), opaque, free)
            })?);
        }
        for (id, callback) in device {
            registrations.add_node_device(attempt(events, |opaque, free| {
                let id = id as c_int;
                sys::virConnectNodeDeviceEventRegisterAny(conn, ptr::null_mut(), id, Some(callback), opaque, free)
            }));
        }
    }
    Ok(registrations)
}

/// One registration; `None` if the driver does not support it.
fn attempt(
    events: &EventSender,
    register: impl FnOnce(*mut c_void, sys::virFreeCallback) -> c_int,
) -> Result<Option<c_int>, Failure> {
    let opaque = Box::into_raw(Box::new(events.clone()));
    match ffi::check(register(opaque.cast(), Some(free_sender))) {
        Ok(id) => Ok(Some(id)),
        Err(failure) => {
            // SAFETY: libvirt does not keep `opaque` of a registration that fails.
            drop(unsafe { Box::from_raw(opaque) });
            if failure.code == ErrorCode::Unsupported { Ok(None) } else { Err(failure) }
        }
    }
}

impl Registrations {
    /// virtqemud opens virtnodedevd only now, and answers as if its own socket were dead where a host has none. If it is our
    /// connection that has died, its close callback tells.
    fn add_node_device(&mut self, registered: Result<Option<c_int>, Failure>) {
        match registered {
            Ok(id) => self.node_device.extend(id),
            Err(failure) => {
                tracing::warn!(
                    error = failure.message,
                    "libvirt knows no devices of this host: start virtnodedevd, and then the executor anew, if guests \
                     shall have some"
                );
                self.without_node_devices = true;
            }
        }
    }

    /// # Safety
    /// `conn` is the connection that [`register`] got, and not closed yet.
    pub(super) unsafe fn deregister(self, conn: sys::virConnectPtr) {
        // SAFETY: by this function's contract. Failures do not matter: the connection is closed next.
        unsafe {
            for id in self.domain {
                sys::virConnectDomainEventDeregisterAny(conn, id);
            }
            for id in self.network {
                sys::virConnectNetworkEventDeregisterAny(conn, id);
            }
            for id in self.storage_pool {
                sys::virConnectStoragePoolEventDeregisterAny(conn, id);
            }
            for id in self.node_device {
                sys::virConnectNodeDeviceEventDeregisterAny(conn, id);
            }
        }
    }
}

/// Is a connection closed, and why.
pub(super) type Closed = watch::Sender<Option<CloseReason>>;

/// `virConnectRegisterCloseCallback`: notes the reason when the connection ends.
///
/// # Safety
/// `conn` is an open connection.
pub(super) unsafe fn register_close(conn: sys::virConnectPtr, closed: &Arc<Closed>) -> Result<(), Failure> {
    let opaque = Arc::into_raw(Arc::clone(closed));
    // SAFETY: `opaque` is an Arc that `free_closed` gives back; `on_close` matches virConnectCloseFunc.
    let result = unsafe {
        sys::virConnectRegisterCloseCallback(conn, Some(on_close), opaque.cast_mut().cast(), Some(free_closed))
    };
    match ffi::check(result) {
        Ok(_) => Ok(()),
        Err(failure) => {
            // SAFETY: libvirt does not keep `opaque` of a registration that fails.
            drop(unsafe { Arc::from_raw(opaque) });
            if failure.code == ErrorCode::Unsupported { Ok(()) } else { Err(failure) }
        }
    }
}

/// `virConnectUnregisterCloseCallback`.
///
/// # Safety
/// `conn` is not closed yet.
pub(super) unsafe fn unregister_close(conn: sys::virConnectPtr) {
    // SAFETY: by this function's contract.
    unsafe { sys::virConnectUnregisterCloseCallback(conn, Some(on_close)) };
}

unsafe extern "C" fn free_sender(opaque: *mut c_void) {
    // SAFETY: `opaque` is the box of `attempt`; libvirt calls this once, after the last use.
    drop(unsafe { Box::from_raw(opaque.cast::<EventSender>()) });
}

unsafe extern "C" fn free_closed(opaque: *mut c_void) {
    // SAFETY: `opaque` is the Arc of `register_close`; libvirt calls this once, after the last use.
    drop(unsafe { Arc::from_raw(opaque.cast::<Closed>()) });
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` is the Arc of `register_close`, alive until `free_closed`.
    let closed = unsafe { &*opaque.cast::<Closed>() };
    closed.send_replace(Some(CloseReason::from_raw(reason)));
}

/// # Safety
/// As libvirt calls a domain event callback: `domain` lives during the call, `opaque` is the box of `attempt`.
unsafe fn emit(domain: sys::virDomainPtr, opaque: *mut c_void, event: DomainEvent) {
    // SAFETY: by this function's contract; both getters are local.
    unsafe {
        let uuid = ffi::uuid(|bytes| sys::virDomainGetUUID(domain, bytes));
        let name = copy_string(sys::virDomainGetName(domain));
        if let (Ok(uuid), Some(name)) = (uuid, name) {
            let domain = ObjectRef { uuid, name };
            (*opaque.cast::<EventSender>()).send(Event::Domain { domain, event });
        }
    }
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    kind: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: the arguments are libvirt's.
    unsafe { emit(domain, opaque, DomainEvent::Lifecycle(Lifecycle::from_raw(kind, detail))) };
    0
}

unsafe extern "C" fn on_reboot(_: sys::virConnectPtr, domain: sys::virDomainPtr, opaque: *mut c_void) {
    // SAFETY: the arguments are libvirt's.
    unsafe { emit(domain, opaque, DomainEvent::Reboot) };
}

unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    state: c_int,
    reason: c_int,
    opaque: *mut c_void,
) {
    let connected = i64::from(state) == i64::from(sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED);
    // SAFETY: the arguments are libvirt's.
    unsafe { emit(domain, opaque, DomainEvent::Agent { connected, reason: AgentReason::from_raw(reason) }) };
}

/// Defines a callback for an event that brings nothing but a device's alias.
macro_rules! device_callback {
    ($function:ident, $event:ident) => {
        unsafe extern "C" fn $function(
            _: sys::virConnectPtr,
            domain: sys::virDomainPtr,
            alias: *const c_char,
            opaque: *mut c_void,
        ) {
            // SAFETY: the arguments are libvirt's.
            unsafe {
                let alias = copy_string(alias).unwrap_or_default();
                emit(domain, opaque, DomainEvent::$event { alias });
            }
        }
    };
}

device_callback!(on_device_added, DeviceAdded);
device_callback!(on_device_removed, DeviceRemoved);
device_callback!(on_device_removal_failed, DeviceRemovalFailed);

unsafe extern "C" fn on_block_job(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    disk: *const c_char,
    kind: c_int,
    status: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: the arguments are libvirt's.
    unsafe {
        let disk = copy_string(disk).unwrap_or_default();
        let (kind, status) = (BlockJobType::from_raw(kind), BlockJobStatus::from_raw(status));
        emit(domain, opaque, DomainEvent::BlockJob { disk, kind, status });
    }
}

unsafe extern "C" fn on_job_completed(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    params: sys::virTypedParameterPtr,
    count: c_int,
    opaque: *mut c_void,
) {
    let field = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    // SAFETY: the arguments are libvirt's.
    unsafe {
        let params = ffi::typed_params(params, count);
        let success = match params.get(&field(sys::VIR_DOMAIN_JOB_SUCCESS)) {
            Some(TypedValue::Boolean(success)) => Some(*success),
            _ => None,
        };
        let error = match params.get(&field(sys::VIR_DOMAIN_JOB_ERRMSG)) {
            Some(TypedValue::String(error)) => Some(error.clone()),
            _ => None,
        };
        emit(domain, opaque, DomainEvent::JobCompleted { success, error });
    }
}

unsafe extern "C" fn on_tray_change(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    reason: c_int,
    opaque: *mut c_void,
) {
    let open = i64::from(reason) == i64::from(sys::VIR_DOMAIN_EVENT_TRAY_CHANGE_OPEN);
    // SAFETY: the arguments are libvirt's.
    unsafe {
        let alias = copy_string(alias).unwrap_or_default();
        emit(domain, opaque, DomainEvent::TrayChange { alias, open });
    }
}

unsafe extern "C" fn on_balloon_change(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    actual_kib: c_ulonglong,
    opaque: *mut c_void,
) {
    // SAFETY: the arguments are libvirt's.
    unsafe { emit(domain, opaque, DomainEvent::BalloonChange { bytes: actual_kib.saturating_mul(1024) }) };
}

unsafe extern "C" fn on_metadata_change(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _kind: c_int,
    namespace: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: the arguments are libvirt's.
    unsafe {
        let namespace = copy_string(namespace);
        emit(domain, opaque, DomainEvent::MetadataChange { namespace });
    }
}

unsafe extern "C" fn on_block_threshold(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    disk: *const c_char,
    path: *const c_char,
    threshold: c_ulonglong,
    excess: c_ulonglong,
    opaque: *mut c_void,
) {
    // SAFETY: the arguments are libvirt's.
    unsafe {
        let (disk, path) = (copy_string(disk).unwrap_or_default(), copy_string(path));
        emit(domain, opaque, DomainEvent::BlockThreshold { disk, path, threshold, excess });
    }
}

unsafe extern "C" fn on_network(
    _: sys::virConnectPtr,
    network: sys::virNetworkPtr,
    kind: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: the arguments are libvirt's; both getters are local.
    unsafe {
        let uuid = ffi::uuid(|bytes| sys::virNetworkGetUUID(network, bytes));
        if let (Ok(uuid), Some(name)) = (uuid, copy_string(sys::virNetworkGetName(network))) {
            let event = NetworkEvent::from_raw(kind);
            (*opaque.cast::<EventSender>()).send(Event::Network { network: ObjectRef { uuid, name }, event });
        }
    }
}

/// # Safety
/// As libvirt calls a storage pool callback.
unsafe fn emit_pool(pool: sys::virStoragePoolPtr, opaque: *mut c_void, event: StoragePoolEvent) {
    // SAFETY: by this function's contract; both getters are local.
    unsafe {
        let uuid = ffi::uuid(|bytes| sys::virStoragePoolGetUUID(pool, bytes));
        if let (Ok(uuid), Some(name)) = (uuid, copy_string(sys::virStoragePoolGetName(pool))) {
            (*opaque.cast::<EventSender>()).send(Event::StoragePool { pool: ObjectRef { uuid, name }, event });
        }
    }
}

unsafe extern "C" fn on_pool_lifecycle(
    _: sys::virConnectPtr,
    pool: sys::virStoragePoolPtr,
    kind: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: the arguments are libvirt's.
    unsafe { emit_pool(pool, opaque, StoragePoolEvent::Lifecycle(StoragePoolLifecycle::from_raw(kind))) };
}

unsafe extern "C" fn on_pool_refresh(_: sys::virConnectPtr, pool: sys::virStoragePoolPtr, opaque: *mut c_void) {
    // SAFETY: the arguments are libvirt's.
    unsafe { emit_pool(pool, opaque, StoragePoolEvent::Refresh) };
}

/// # Safety
/// As libvirt calls a node device callback.
unsafe fn emit_device(device: sys::virNodeDevicePtr, opaque: *mut c_void) {
    // SAFETY: by this function's contract; the getter is local.
    unsafe {
        if let Some(name) = copy_string(sys::virNodeDeviceGetName(device)) {
            (*opaque.cast::<EventSender>()).send(Event::NodeDevice { name });
        }
    }
}

unsafe extern "C" fn on_device_lifecycle(
    _: sys::virConnectPtr,
    device: sys::virNodeDevicePtr,
    _kind: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: the arguments are libvirt's.
    unsafe { emit_device(device, opaque) };
}

unsafe extern "C" fn on_device_update(_: sys::virConnectPtr, device: sys::virNodeDevicePtr, opaque: *mut c_void) {
    // SAFETY: the arguments are libvirt's.
    unsafe { emit_device(device, opaque) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_virtnodedevd_has_no_devices_and_is_connected() {
        let mut registrations = Registrations::default();
        registrations.add_node_device(Ok(Some(7)));
        registrations.add_node_device(Ok(None));
        assert_eq!((registrations.node_device.as_slice(), registrations.without_node_devices), ([7].as_slice(), false));
        let message = "Failed to connect socket to '/run/libvirt/virtnodedevd-sock': No such file or directory";
        registrations.add_node_device(Err(Failure::new(ErrorCode::ConnectionLost, message)));
        assert!(registrations.without_node_devices);
    }
}
