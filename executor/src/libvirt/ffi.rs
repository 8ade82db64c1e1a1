//! Small conversions between C and Rust, shared by the handles.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use uuid::Uuid;
use virt::sys;

use super::error::{ErrorCode, Failure};

/// A string as C wants it; a NUL inside is an error.
pub(super) fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::new(ErrorCode::InvalidArgument, "the argument contains a NUL byte"))
}

/// An optional string as C wants it; NULL for none.
pub(super) fn c_string_or_null(text: Option<&str>) -> Result<Option<CString>, Failure> {
    text.map(c_string).transpose()
}

/// The pointer of an optional C string. It is valid as long as `text`.
pub(super) fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}

/// The result of a call that returns -1 on failure.
pub(super) fn check(result: c_int) -> Result<c_int, Failure> {
    if result < 0 { Err(Failure::last()) } else { Ok(result) }
}

/// The result of a call that answers 0, 1, or -1 on failure.
pub(super) fn check_bool(result: c_int) -> Result<bool, Failure> {
    check(result).map(|answer| answer != 0)
}

/// The result of a call that returns a string which the caller must free, or NULL on failure.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string from malloc that nobody else frees.
pub(super) unsafe fn take_string(text: *mut c_char) -> Result<String, Failure> {
    if text.is_null() {
        return Err(Failure::last());
    }
    // SAFETY: by this function's contract.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast::<c_void>());
        Ok(owned)
    }
}

/// A copy of a string that C keeps; `None` for NULL.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that lives during the call.
pub(super) unsafe fn copy_string(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: by this function's contract.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// The UUID that `get` writes (`virDomainGetUUID` and its kin).
pub(super) fn uuid(get: impl FnOnce(*mut u8) -> c_int) -> Result<Uuid, Failure> {
    let mut bytes = [0_u8; 16];
    check(get(bytes.as_mut_ptr()))?;
    Ok(Uuid::from_bytes(bytes))
}

/// Owns a C array of `count` pointers; each element that is not taken is freed by `free`, and the array by `free(3)`.
pub(super) struct PointerArray<T> {
    array: *mut *mut T,
    count: usize,
    taken: usize,
    free: unsafe fn(*mut T),
}

impl<T> PointerArray<T> {
    /// # Safety
    /// `array` is NULL (then `count` is 0) or from malloc, with `count` pointers that `free` may free.
    pub(super) unsafe fn new(array: *mut *mut T, count: c_int, free: unsafe fn(*mut T)) -> Self {
        let count = if array.is_null() { 0 } else { usize::try_from(count).unwrap_or(0) };
        Self { array, count, taken: 0, free }
    }
}

impl<T> Iterator for PointerArray<T> {
    type Item = *mut T;

    /// The next element; it is the caller's to free.
    fn next(&mut self) -> Option<*mut T> {
        if self.taken == self.count {
            return None;
        }
        // SAFETY: `taken` is below `count`, the array's length.
        let element = unsafe { *self.array.add(self.taken) };
        self.taken += 1;
        Some(element)
    }
}

impl<T> Drop for PointerArray<T> {
    fn drop(&mut self) {
        let free = self.free;
        for element in self.by_ref() {
            // SAFETY: by the contract of `new`; nobody took this element.
            unsafe { free(element) };
        }
        // SAFETY: the array is NULL or from malloc, and nobody else frees it.
        unsafe { libc::free(self.array.cast::<c_void>()) };
    }
}

/// A value of libvirt's typed parameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TypedValue {
    Integer(i128),
    Double(f64),
    Boolean(bool),
    String(String),
}

/// Copies typed parameters; unknown types are left out.
///
/// # Safety
/// `params` points to `count` initialised parameters.
pub(super) unsafe fn typed_params(params: sys::virTypedParameterPtr, count: c_int) -> BTreeMap<String, TypedValue> {
    let mut values = BTreeMap::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: `index` is below `count`; a field name is NUL-terminated; the union's member is the one that the type
        // names.
        unsafe {
            let param = &*params.add(index);
            let value = match u32::try_from(param.type_) {
                Ok(sys::VIR_TYPED_PARAM_INT) => TypedValue::Integer(param.value.i.into()),
                Ok(sys::VIR_TYPED_PARAM_UINT) => TypedValue::Integer(param.value.ui.into()),
                Ok(sys::VIR_TYPED_PARAM_LLONG) => TypedValue::Integer(param.value.l.into()),
                Ok(sys::VIR_TYPED_PARAM_ULLONG) => TypedValue::Integer(param.value.ul.into()),
                Ok(sys::VIR_TYPED_PARAM_DOUBLE) => TypedValue::Double(param.value.d),
                Ok(sys::VIR_TYPED_PARAM_BOOLEAN) => TypedValue::Boolean(param.value.b != 0),
                Ok(sys::VIR_TYPED_PARAM_STRING) => match copy_string(param.value.s) {
                    Some(text) => TypedValue::String(text),
                    None => continue,
                },
                _ => continue,
            };
            values.insert(CStr::from_ptr(param.field.as_ptr()).to_string_lossy().into_owned(), value);
        }
    }
    values
}
