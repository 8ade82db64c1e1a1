//! What can go wrong, in one line that says what to do, and the exit code that a script tells it by.

use std::path::PathBuf;
use std::sync::Arc;

/// Every failure of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The arguments contradict each other or the files that they name are unusable.
    #[error("{0}")]
    Usage(String),
    /// A file of the command line cannot be read.
    #[error("{option} {}: {source}", path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no usable kubeconfig.
    #[error("no cluster to talk to: {0}: set KUBECONFIG, or give --kubeconfig FILE")]
    NoKubeconfig(String),
    /// The kubeconfig has no such context.
    #[error("the kubeconfig has no context {name:?}: it has {known}")]
    NoContext {
        /// What was asked for.
        name: String,
        /// The contexts that are there.
        known: String,
    },
    /// The API server does not answer.
    #[error("the API server {url} cannot be reached: {cause}: check the network, or choose another --context")]
    Unreachable {
        /// Its address.
        url: String,
        /// The innermost reason.
        cause: String,
    },
    /// The API server does not know the caller.
    #[error("the API server does not accept the credentials: log in again, or choose another --context")]
    Unauthorized,
    /// The caller may not do this.
    #[error("{0}: ask the cluster's administrator for a role that allows it (edit covers virtual machines)")]
    Forbidden(String),
    /// The custom resources are missing.
    #[error("KubeVMM is not installed in this cluster: kubectl apply -f yamls/")]
    NotInstalled,
    /// An object that the command names is not there.
    #[error("{what} not found: {hint}")]
    NotFound {
        /// Kind, name and namespace.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The API server refused what was asked; its own words.
    #[error("{0}")]
    Invalid(String),
    /// The state of the object does not allow what was asked.
    #[error("{0}")]
    Refused(String),
    /// The wait was too short.
    #[error("timed out after {after}: {waiting_for}; the request stays: see `{program} describe {name}`")]
    TimedOut {
        /// The time-out.
        after: String,
        /// What was still missing.
        waiting_for: String,
        /// Name of the command.
        program: &'static str,
        /// Arguments of `describe`.
        name: String,
    },
    /// The wait for a node's VMs was too short.
    #[error(
        "timed out after {after}: {waiting_for}; what has been asked to leave goes on leaving, and node {node} stays \
         cordoned: run the command again"
    )]
    DrainTimedOut {
        /// The time-out.
        after: String,
        /// A VM that is there still, and what is said of it.
        waiting_for: String,
        /// The node.
        node: String,
    },
    /// Ctrl-C.
    #[error("interrupted while waiting; the request stays: see `{program} describe {name}`")]
    Interrupted {
        /// Name of the command.
        program: &'static str,
        /// Arguments of `describe`.
        name: String,
    },
    /// What was asked for was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// A failure, and what it is about.
    #[error("{what}: {cause}")]
    For {
        /// The object or domain.
        what: String,
        /// What failed; several domains may share it.
        cause: Arc<Error>,
    },
    /// Anything else that the API server said.
    #[error("the API server answered: {0}")]
    Api(String),
    /// Standard output cannot be written.
    #[error("standard output: {0}")]
    Output(std::io::Error),
    /// Several objects failed, each of which has been reported.
    #[error("{failed} of {total} failed")]
    Several {
        /// How many failed.
        failed: usize,
        /// How many there were.
        total: usize,
        /// Their exit code, when it is the same for all.
        code: u8,
    },
}

impl Error {
    /// The exit code; the table is in `--help` and in the README.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Api(_) | Self::Output(_) => 1,
            Self::Usage(_) | Self::File { .. } | Self::NoContext { .. } => 2,
            Self::NotFound { .. } => 3,
            Self::TimedOut { .. } | Self::DrainTimedOut { .. } => 4,
            Self::Invalid(_) | Self::Refused(_) => 5,
            Self::NoKubeconfig(_) | Self::Unreachable { .. } | Self::NotInstalled => 6,
            Self::Unauthorized | Self::Forbidden(_) => 7,
            Self::Interrupted { .. } => 130,
            Self::For { cause, .. } => cause.exit_code(),
            Self::Several { code, .. } => *code,
        }
    }

    /// The failure of a request to the API server at `url`.
    pub(crate) fn of_request(error: kube::Error, url: &str) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(&status),
            kube::Error::Auth(error) => Self::NoKubeconfig(format!("credentials: {}", innermost(&error))),
            kube::Error::Service(error) => Self::Unreachable { url: url.into(), cause: innermost(error.as_ref()) },
            kube::Error::HyperError(error) => Self::Unreachable { url: url.into(), cause: innermost(&error) },
            kube::Error::SerdeError(error) => Self::Api(format!(
                "an object that this version does not understand ({error}): use the cluster's virtctl"
            )),
            other => Self::Api(one_line(&other.to_string())),
        }
    }

    /// The failure that an API server's `Status` stands for.
    pub(crate) fn of_status(status: &kube::core::Status) -> Self {
        let message = one_line(&status.message);
        let details = status.details.as_ref();
        match status.code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden(message),
            // An object that is not there is named in the details; a resource that is not served is not.
            404 if details.is_none_or(|details| details.name.is_empty()) => Self::NotInstalled,
            404 if details.is_some_and(|details| details.kind == "namespaces") => Self::NotFound {
                what: message.trim_end_matches(" not found").into(),
                hint: "create it, or give another --namespace".into(),
            },
            404 => Self::NotFound {
                what: message.trim_end_matches(" not found").into(),
                hint: "see `kubectl get` for what is there".into(),
            },
            400 | 409 | 413 | 422 => Self::Invalid(message),
            _ => Self::Api(message),
        }
    }
}

/// The reason at the bottom of a chain of errors: "Connection refused" rather than "error trying to connect".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    one_line(&error.to_string())
}

/// `text` without line breaks.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The exit code for several failures: theirs when they agree, otherwise 1.
pub(crate) fn common_code(failures: &[Error]) -> u8 {
    let mut codes = failures.iter().map(Error::exit_code);
    let first = codes.next().unwrap_or(0);
    if codes.all(|code| code == first) { first } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: &str) -> kube::core::Status {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_the_api_server_says_becomes_advice_and_a_code() {
        for (json, code, text) in [
            (
                // What kube makes of the plain text that a path without a resource answers.
                r#"{"code": 404, "message": "404 page not found", "reason": "Failed to parse error data"}"#,
                6,
                "KubeVMM is not installed in this cluster: kubectl apply -f yamls/",
            ),
            (
                r#"{"code": 404, "message": "namespaces \"shop\" not found", "details": {"name": "shop", "kind": "namespaces"}}"#,
                3,
                "namespaces \"shop\" not found: create it, or give another --namespace",
            ),
            (
                r#"{"code": 422, "message": "VirtualMachine.kubevmm.io \"web\" is invalid:\n spec: too bad"}"#,
                5,
                "VirtualMachine.kubevmm.io \"web\" is invalid: spec: too bad",
            ),
            (
                r#"{"code": 403, "message": "virtualmachines.kubevmm.io is forbidden: User \"eve\" cannot list"}"#,
                7,
                "virtualmachines.kubevmm.io is forbidden: User \"eve\" cannot list: ask the cluster's administrator for a \
                 role that allows it (edit covers virtual machines)",
            ),
            (r#"{"code": 500, "message": "etcd is away"}"#, 1, "the API server answered: etcd is away"),
        ] {
            let error = Error::of_status(&status(json));
            assert_eq!((error.exit_code(), error.to_string().as_str()), (code, text));
        }
    }

    #[test]
    fn several_failures_share_a_code_or_are_a_plain_failure() {
        let refused = || Error::Refused("no".into());
        let missing = Error::NotFound { what: "vm".into(), hint: "look".into() };
        assert_eq!(common_code(&[refused(), refused()]), 5);
        assert_eq!(common_code(&[refused(), missing]), 1);
    }
}
