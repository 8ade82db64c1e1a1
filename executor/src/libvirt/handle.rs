//! What domains, networks, pools and volumes have in common: a counted C pointer and the connection that it belongs to;
//! and how the first three are listed, looked up and defined.

use std::ffi::{c_char, c_int};
use std::ptr;

use uuid::Uuid;
use virt::sys;

use super::connection::{Connection, Patience};
use super::error::{ErrorCode, Failure, Result};
use super::ffi::{PointerArray, c_string, check};

/// Declares `$raw`, the owner of one reference to a libvirt object, freed with `$free`.
macro_rules! owned_pointer {
    ($raw:ident, $c:ident, $free:ident) => {
        /// Owns one reference to libvirt's object.
        pub(super) struct $raw(std::ptr::NonNull<virt::sys::$c>);

        // SAFETY: libvirt's objects are counted and may be used by several threads at once.
        unsafe impl Send for $raw {}
        // SAFETY: as above.
        unsafe impl Sync for $raw {}

        impl $raw {
            /// # Safety
            /// `pointer` is NULL, on failure of the call that has just been made on this thread, or a reference that
            /// nobody else frees.
            pub(super) unsafe fn adopt(pointer: *mut virt::sys::$c) -> Result<Self, $crate::libvirt::error::Failure> {
                std::ptr::NonNull::new(pointer).map(Self).ok_or_else($crate::libvirt::error::Failure::last)
            }

            pub(super) fn as_ptr(&self) -> *mut virt::sys::$c {
                self.0.as_ptr()
            }
        }

        impl Drop for $raw {
            fn drop(&mut self) {
                // SAFETY: this is the only owner of the reference. Freeing is local: the connection lives on, because
                // every handle holds it as well.
                unsafe { virt::sys::$free(self.0.as_ptr()) };
            }
        }
    };
}
pub(super) use owned_pointer;

/// Gives `$handle` (with the fields `raw: Arc<…>`, `connection` and a method `object`) the method `call`: as
/// `Connection::call`, with the object's C pointer.
macro_rules! handle_calls {
    ($handle:ident, $c:ident) => {
        impl $handle {
            /// The connection that this object belongs to.
            #[must_use]
            pub fn connection(&self) -> &$crate::libvirt::Connection {
                &self.connection
            }

            pub(super) async fn call<T, F>(
                &self,
                operation: &'static str,
                patience: $crate::libvirt::connection::Patience,
                call: F,
            ) -> $crate::libvirt::Result<T>
            where
                T: Send + 'static,
                F: FnOnce(*mut virt::sys::$c) -> Result<T, $crate::libvirt::error::Failure> + Send + 'static,
            {
                let object = self.object();
                // The handle goes along: a call that is given up must not outlive what it works on.
                let handle = self.clone();
                self.connection.call(operation, &object, patience, move |_| call(handle.raw.as_ptr())).await
            }

            /// As `call`, of a C function that returns nothing but -1 on failure.
            pub(super) async fn act<F>(
                &self,
                operation: &'static str,
                patience: $crate::libvirt::connection::Patience,
                call: F,
            ) -> $crate::libvirt::Result<()>
            where
                F: FnOnce(*mut virt::sys::$c) -> std::ffi::c_int + Send + 'static,
            {
                self.call(operation, patience, |object| $crate::libvirt::ffi::check(call(object)).map(drop)).await
            }
        }
    };
}
pub(super) use handle_calls;

/// Gives `$handle` what all kinds of objects have that can be defined: whether it is, whether it is active, and whether
/// libvirt starts it with the host.
macro_rules! defined_calls {
    ($handle:ident, $is_active:ident, $is_persistent:ident, $get_autostart:ident, $set_autostart:ident) => {
        impl $handle {
            #[doc = concat!("`", stringify!($is_active), "`.")]
            pub async fn is_active(&self) -> $crate::libvirt::Result<bool> {
                // SAFETY: `call` passes a live object (here and below).
                let call = |object| $crate::libvirt::ffi::check_bool(unsafe { virt::sys::$is_active(object) });
                self.call(stringify!($is_active), $crate::libvirt::connection::Patience::Short, call).await
            }

            #[doc = concat!("`", stringify!($is_persistent), "`: is it defined?")]
            pub async fn is_persistent(&self) -> $crate::libvirt::Result<bool> {
                // SAFETY: as above.
                let call = |object| $crate::libvirt::ffi::check_bool(unsafe { virt::sys::$is_persistent(object) });
                self.call(stringify!($is_persistent), $crate::libvirt::connection::Patience::Short, call).await
            }

            #[doc = concat!("`", stringify!($get_autostart), "`: does libvirt start it with the host?")]
            pub async fn autostart(&self) -> $crate::libvirt::Result<bool> {
                let call = |object| {
                    let mut autostart = 0;
                    // SAFETY: `autostart` is written to.
                    $crate::libvirt::ffi::check(unsafe { virt::sys::$get_autostart(object, &raw mut autostart) })?;
                    Ok(autostart != 0)
                };
                self.call(stringify!($get_autostart), $crate::libvirt::connection::Patience::Short, call).await
            }

            #[doc = concat!("`", stringify!($set_autostart), "`.")]
            pub async fn set_autostart(&self, autostart: bool) -> $crate::libvirt::Result<()> {
                // SAFETY: as above.
                let call = move |object| unsafe { virt::sys::$set_autostart(object, autostart.into()) };
                self.act(stringify!($set_autostart), $crate::libvirt::connection::Patience::Short, call).await
            }
        }
    };
}
pub(super) use defined_calls;

/// A libvirt object with a name and a UUID.
pub(super) trait Handle: Sized + Send + 'static {
    /// libvirt's own.
    type C;
    /// What it is called in errors.
    const NOUN: &'static str;
    /// The code of "there is no such object".
    const MISSING: ErrorCode;

    /// # Safety
    /// `pointer` is NULL, on failure of the call that has just been made on this thread, or a reference that nobody else
    /// frees.
    unsafe fn adopt(connection: &Connection, pointer: *mut Self::C) -> Result<Self, Failure>;

    /// # Safety
    /// `pointer` is a reference that nobody else frees.
    unsafe fn free(pointer: *mut Self::C);
}

/// Declares `$handle` with its name and UUID, as of when it was made: what [`Handle`] is made for.
macro_rules! named_handle {
    ($(#[$doc:meta])* $handle:ident: $noun:literal, $raw:ident, $c:ident, $missing:ident, $get_uuid:ident, $get_name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $handle {
            raw: std::sync::Arc<$raw>,
            pub(super) connection: $crate::libvirt::Connection,
            identity: std::sync::Arc<$crate::libvirt::event::ObjectRef>,
        }

        impl std::fmt::Debug for $handle {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($handle)).field(&self.identity).finish()
            }
        }

        impl $crate::libvirt::handle::Handle for $handle {
            type C = virt::sys::$c;
            const NOUN: &'static str = $noun;
            const MISSING: $crate::libvirt::error::ErrorCode = $crate::libvirt::error::ErrorCode::$missing;

            unsafe fn adopt(
                connection: &$crate::libvirt::Connection,
                pointer: *mut Self::C,
            ) -> Result<Self, $crate::libvirt::error::Failure> {
                use $crate::libvirt::error::Failure;
                use $crate::libvirt::ffi;
                // SAFETY: by this function's contract; the getters are local.
                unsafe {
                    let raw = $raw::adopt(pointer)?;
                    let uuid = ffi::uuid(|bytes| virt::sys::$get_uuid(raw.as_ptr(), bytes))?;
                    let name = ffi::copy_string(virt::sys::$get_name(raw.as_ptr())).ok_or_else(Failure::last)?;
                    let identity = std::sync::Arc::new($crate::libvirt::event::ObjectRef { uuid, name });
                    Ok(Self { raw: std::sync::Arc::new(raw), connection: connection.clone(), identity })
                }
            }

            unsafe fn free(pointer: *mut Self::C) {
                // SAFETY: by this function's contract.
                drop(unsafe { $raw::adopt(pointer) });
            }
        }

        impl $handle {
            /// Its UUID.
            #[must_use]
            pub fn uuid(&self) -> uuid::Uuid {
                self.identity.uuid
            }

            /// Its name when this handle was made.
            #[must_use]
            pub fn name(&self) -> &str {
                &self.identity.name
            }

            fn object(&self) -> String {
                format!("{} {}", $noun, self.name())
            }
        }

        $crate::libvirt::handle::handle_calls!($handle, $c);
    };
}
pub(super) use named_handle;

/// Turns the error of code `missing` into `None`.
pub(super) fn unless_missing<T>(result: Result<T>, missing: ErrorCode) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code == missing => Ok(None),
        Err(error) => Err(error),
    }
}

/// In each of these, the function that is given makes the C call `operation` on a live connection.
impl Connection {
    /// All objects of a kind. The call fills the array that it is given, which libvirt allocates, and counts.
    pub(super) async fn list<H: Handle>(
        &self,
        operation: &'static str,
        list: impl FnOnce(sys::virConnectPtr, *mut *mut *mut H::C) -> c_int + Send + 'static,
    ) -> Result<Vec<H>> {
        let connection = self.clone();
        let call = move |conn| {
            let mut array = ptr::null_mut();
            let count = check(list(conn, &raw mut array))?;
            // SAFETY: the array holds `count` references of ours.
            unsafe { PointerArray::new(array, count, H::free).map(|object| H::adopt(&connection, object)).collect() }
        };
        self.call(operation, &format!("all {}s", H::NOUN), Patience::Short, call).await
    }

    /// The object of this UUID, if there is one. The call gets the 16 bytes, and returns a reference of ours.
    pub(super) async fn by_uuid<H: Handle>(
        &self,
        operation: &'static str,
        uuid: Uuid,
        lookup: impl FnOnce(sys::virConnectPtr, *const u8) -> *mut H::C + Send + 'static,
    ) -> Result<Option<H>> {
        let connection = self.clone();
        // SAFETY: the bytes live during the call; the result is a reference of ours.
        let call = move |conn| unsafe { H::adopt(&connection, lookup(conn, uuid.as_bytes().as_ptr())) };
        let found = self.call(operation, &format!("{} {uuid}", H::NOUN), Patience::Short, call).await;
        unless_missing(found, H::MISSING)
    }

    /// The object of this name, if there is one. The call returns a reference of ours.
    pub(super) async fn by_name<H: Handle>(
        &self,
        operation: &'static str,
        name: &str,
        lookup: impl FnOnce(sys::virConnectPtr, *const c_char) -> *mut H::C + Send + 'static,
    ) -> Result<Option<H>> {
        unless_missing(self.make(operation, Patience::Short, name, name, lookup).await, H::MISSING)
    }

    /// What the call makes of `text`, a reference of ours. `name` is for the error's text.
    pub(super) async fn make<H: Handle>(
        &self,
        operation: &'static str,
        patience: Patience,
        name: &str,
        text: &str,
        make: impl FnOnce(sys::virConnectPtr, *const c_char) -> *mut H::C + Send + 'static,
    ) -> Result<H> {
        let (connection, text) = (self.clone(), c_string(text));
        let call = move |conn| {
            let text = text?;
            // SAFETY: the text lives during the call; the result is a reference of ours.
            unsafe { H::adopt(&connection, make(conn, text.as_ptr())) }
        };
        self.call(operation, &format!("{} {name}", H::NOUN), patience, call).await
    }
}
