//! What can go wrong, and on which object.

use kube::core::Status;

/// An error of the controller. One that concerns an object is retried with growing pauses and stops no other object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("cannot {action} {object}: {source}; tried again by itself")]
    Api {
        /// What was tried: `create`, `patch the status of`.
        action: &'static str,
        /// Kind, namespace and name.
        object: String,
        /// The client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server does not accept an object that follows from another one.
    #[error("the API server refuses {object}: {message}; tried again by itself")]
    Refused {
        /// Kind, namespace and name.
        object: String,
        /// What the API server says.
        message: String,
    },
    /// The controller's Lease is held by somebody else, or could not be renewed in time.
    #[error(
        "the Lease {namespace}/{name} is no longer this controller's ({why}): it ends, so that only the holder acts"
    )]
    LeaseLost {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
        /// What happened to it.
        why: String,
    },
    /// A Lease has an older version than before.
    #[error(
        "the Lease {lease} of an executor went back from version {before} to {now}, so etcd was restored from a backup: \
         the controller ends, to read everything anew"
    )]
    Rewound {
        /// Name of the Lease.
        lease: String,
        /// Its version before.
        before: String,
        /// Its version now.
        now: String,
    },
    /// The webhook of evictions cannot be offered.
    #[error("cannot {action} the webhook of evictions: {why}; the controller is started again by its Deployment")]
    Webhook {
        /// What was tried: `listen as`.
        action: &'static str,
        /// What is said of it.
        why: String,
    },
    /// A watch ended that is renewed for ever.
    #[error("the watch of {0} ended: the controller is started again by its Deployment")]
    WatchEnded(&'static str),
}

impl Error {
    /// Wraps an error of the client.
    pub fn api(action: &'static str, object: impl Into<String>, source: kube::Error) -> Self {
        Self::Api { action, object: object.into(), source: Box::new(source) }
    }

    /// Wraps an error of the webhook's parts.
    pub fn webhook(action: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Webhook { action, why: why.to_string() }
    }

    /// The API server's answer, when there was one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api { source, .. } => api_status(source),
            _ => None,
        }
    }

    /// The object was changed or is gone since it was read: the next event brings its new state.
    pub fn is_outdated(&self) -> bool {
        self.status().is_some_and(|status| matches!(status.code, 404 | 409))
    }
}

/// The API server's answer in an error of the client.
pub fn api_status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The namespace is being deleted: nothing can be created in it, and what is in it is about to be deleted.
pub fn is_namespace_terminating(status: &Status) -> bool {
    status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminating_namespace_is_told_from_a_quota() {
        let read = |text: &str| serde_json::from_str::<Status>(text).unwrap();
        let terminating = read(
            r#"{"kind":"Status","code":403,"reason":"Forbidden","message":"because it is being terminated",
                "details":{"causes":[{"reason":"NamespaceTerminating","message":"m","field":"metadata.namespace"}]}}"#,
        );
        let quota = read(r#"{"kind":"Status","code":403,"reason":"Forbidden","message":"exceeded quota: memory"}"#);
        assert!(is_namespace_terminating(&terminating));
        assert!(!is_namespace_terminating(&quota));
    }
}
