//! libvirt's event loop on a thread of its own. It must be registered before the first connection is opened, because a
//! connection binds itself to the loop that is registered then; so every open goes through [`ensure_running`].

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

use virt::sys;

use super::error::{ErrorCode, Failure};
use super::ffi::check;

/// `poll(2)` itself fails only for want of memory or descriptors; a pause keeps that from eating a core.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Initialises libvirt (`virInitialize`), silences its printing to stderr (`virSetErrorFunc`) and starts the thread
/// (`virEventRegisterDefaultImpl`, `virEventRunDefaultImpl`); once per process, and for its whole life.
pub(super) fn ensure_running() -> Result<(), Failure> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(|| start().map_err(|failure| failure.message))
        .clone()
        .map_err(|message| Failure::new(ErrorCode::Internal, message))
}

fn start() -> Result<(), Failure> {
    // SAFETY: no arguments with a lifetime; `ignore` matches virErrorFunc and may be called from any thread.
    unsafe {
        check(sys::virInitialize())?;
        sys::virSetErrorFunc(ptr::null_mut(), Some(ignore));
        check(sys::virEventRegisterDefaultImpl())?;
    }
    std::thread::Builder::new()
        .name("libvirt-events".to_owned())
        .spawn(|| {
            loop {
                // SAFETY: the default implementation is registered, and only this thread runs it.
                if unsafe { sys::virEventRunDefaultImpl() } < 0 {
                    tracing::error!(error = %Failure::last().message, "libvirt's event loop failed");
                    std::thread::sleep(PAUSE_AFTER_FAILURE);
                }
            }
        })
        .map(drop)
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("cannot start the event thread: {error}")))
}

/// Errors are returned to the caller, so libvirt need not print them as well.
unsafe extern "C" fn ignore(_: *mut c_void, _: sys::virErrorPtr) {}
