//! What domains, networks, pools and volumes have in common: a counted C pointer and the connection that it belongs to.

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
        }
    };
}
pub(super) use handle_calls;
