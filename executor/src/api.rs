//! Requests to the API server, with a time limit: a partition must not hold up what libvirt reports.

use std::future::Future;
use std::time::Duration;

use crate::Error;

/// The answer to a request, or [`Error::ApiTimeout`].
///
/// # Errors
/// When the API server refuses, cannot be reached, or does not answer in time.
pub async fn limited<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::ApiTimeout(limit)),
    }
}

/// Whether the object is not there.
pub fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Api(kube::Error::Api(status)) if status.code == 404)
}

/// Whether the object has changed since it was read, or is another one of the same name.
pub fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(kube::Error::Api(status)) if status.code == 409)
}
