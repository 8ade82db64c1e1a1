//! Devices of the host.

use std::sync::Arc;

use virt::sys;

use super::connection::{Connection, Patience};
use super::error::{ErrorCode, Failure, Result};
use super::ffi::{copy_string, take_string};
use super::handle::{Handle, owned_pointer};

owned_pointer!(RawNodeDevice, _virNodeDevice, virNodeDeviceFree);

/// A device of the host (`virNodeDevicePtr`). It has a name, but no UUID.
#[derive(Clone)]
pub struct NodeDevice {
    raw: Arc<RawNodeDevice>,
    connection: Connection,
    name: Arc<str>,
}

impl Handle for NodeDevice {
    type C = sys::_virNodeDevice;
    const NOUN: &'static str = "node device";
    const MISSING: ErrorCode = ErrorCode::NoNodeDevice;

    unsafe fn adopt(connection: &Connection, pointer: *mut Self::C) -> Result<Self, Failure> {
        // SAFETY: by this function's contract; the getter is local.
        unsafe {
            let raw = RawNodeDevice::adopt(pointer)?;
            let name = copy_string(sys::virNodeDeviceGetName(raw.as_ptr())).ok_or_else(Failure::last)?.into();
            Ok(Self { raw: Arc::new(raw), connection: connection.clone(), name })
        }
    }

    unsafe fn free(pointer: *mut Self::C) {
        // SAFETY: by this function's contract.
        drop(unsafe { RawNodeDevice::adopt(pointer) });
    }
}

// SAFETY of the calls: the connection lives, and so does what the pointers lead to.
impl Connection {
    /// `virConnectListAllNodeDevices` of PCI, USB and mediated devices: none where libvirt knows no devices.
    pub async fn list_guest_devices(&self) -> Result<Vec<NodeDevice>> {
        if !self.has_node_devices() {
            return Ok(Vec::new());
        }
        let flags = sys::VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV
            | sys::VIR_CONNECT_LIST_NODE_DEVICES_CAP_USB_DEV
            | sys::VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV;
        let listed = self.list("virConnectListAllNodeDevices", move |conn, array| unsafe {
            sys::virConnectListAllNodeDevices(conn, array, flags)
        });
        match listed.await {
            Err(error) if error.code == ErrorCode::Unsupported => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// `virNodeDeviceLookupByName`; `None` if there is no such device.
    pub async fn lookup_node_device(&self, name: &str) -> Result<Option<NodeDevice>> {
        if !self.has_node_devices() {
            return Ok(None);
        }
        self.by_name("virNodeDeviceLookupByName", name, |conn, name| unsafe {
            sys::virNodeDeviceLookupByName(conn, name)
        })
        .await
    }
}

impl NodeDevice {
    /// Its name, such as `pci_0000_03_00_0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `virNodeDeviceGetXMLDesc`.
    pub async fn xml(&self) -> Result<String> {
        let device = self.clone();
        let call = move |_| {
            // SAFETY: the device lives as long as its handle; the result is the caller's to free.
            unsafe { take_string(sys::virNodeDeviceGetXMLDesc(device.raw.as_ptr(), 0)) }
        };
        let object = format!("{} {}", Self::NOUN, self.name);
        self.connection.call("virNodeDeviceGetXMLDesc", &object, Patience::Short, call).await
    }
}
