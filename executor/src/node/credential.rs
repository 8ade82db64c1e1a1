//! The node credential: a client certificate `system:node:NAME` in a kubeconfig file. It is had once by a bootstrap
//! token, and renewed with itself from then on.
//!
//! ```text
//!  kubeconfig is there and valid ────────────────────────────────▶ used ──▶ renewed after 70% to 90% of its time:
//!        │ no                                                       ▲        the process ends, and begins anew with it
//!        ▼                                                          │
//!  bootstrap kubeconfig ──▶ key (kept, so that a restart finds its request) ──▶ request approved and signed
//! ```

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::KeyPair;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::request;
use crate::Error;

/// How often a wait looks at the clock: a host may sleep, and its clock be set.
const LOOK: Duration = Duration::from_secs(60);

/// The name that the API server knows a node by.
pub fn user(node: &str) -> String {
    format!("system:node:{node}")
}

/// Where the credential of a node is, and how it is had.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Name of the Node.
    pub node: String,
    /// The kubeconfig file with the credential in it.
    pub kubeconfig: PathBuf,
    /// The kubeconfig file that may ask for one.
    pub bootstrap: PathBuf,
}

/// The time in which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    from: Timestamp,
    until: Timestamp,
}

impl Credential {
    /// The configuration of a client with the credential; without one it is asked for, and waited for.
    ///
    /// # Errors
    /// When a file cannot be used, there is no way to a credential, or it is refused.
    pub async fn config(&self) -> Result<Config, Error> {
        let reason = match self.read()? {
            None => "there is no such file",
            Some(there) => match self.validity(&there)? {
                Some(validity) if validity.until <= Timestamp::now() => "its certificate has expired",
                _ => return self.config_of(&self.kubeconfig, there).await,
            },
        };
        if !self.bootstrap.exists() {
            return Err(Error::NotBootstrapped {
                kubeconfig: self.kubeconfig.display().to_string(),
                reason,
                bootstrap: self.bootstrap.display().to_string(),
            });
        }
        let config = self.config_of(&self.bootstrap, parse(&self.bootstrap)?).await?;
        tracing::info!(node = self.node, "{}: {reason}; bootstrapping", self.kubeconfig.display());
        let template = parse(&self.bootstrap)?;
        self.ask(&client(&self.bootstrap, config)?, &template).await?;
        self.config_of(&self.kubeconfig, parse(&self.kubeconfig)?).await
    }

    /// Returns once the credential has been renewed; never, when it is not one of ours to renew.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub async fn renewed(&self, client: &Client) -> Result<(), Error> {
        let there = parse(&self.kubeconfig)?;
        let Some(validity) = self.validity(&there)? else { return std::future::pending().await };
        let due = renewal(validity, f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0);
        tracing::info!(until = %validity.until, renewal = %due, "the node credential is valid");
        loop {
            let left = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
        loop {
            let left = Duration::try_from(validity.until.duration_since(Timestamp::now())).unwrap_or_default();
            match tokio::time::timeout(left, self.ask(client, &there)).await {
                Ok(Ok(())) => return Ok(()),
                // What is there still works: a restart would not help.
                Ok(Err(error)) => tracing::warn!(%error, until = %validity.until, "the node credential is not renewed"),
                // Nobody listens to an expired one: what begins anew asks with the bootstrap credential, if there is one.
                Err(_) => {
                    tracing::warn!(until = %validity.until, "the node credential has expired");
                    return Ok(());
                }
            }
            self.forget_key()?;
            let left = Duration::try_from(validity.until.duration_since(Timestamp::now())).unwrap_or_default();
            tokio::time::sleep((left / 10).max(LOOK)).await;
        }
    }

    /// Asks for a certificate and keeps it. The cluster is that of `template`.
    async fn ask(&self, client: &Client, template: &Kubeconfig) -> Result<(), Error> {
        let key = self.key()?;
        let certificate = request::certificate(client, &self.node, &key).await?;
        let text = kubeconfig(template, &self.node, &certificate, &key.serialize_pem())
            .ok_or_else(|| unusable(&self.bootstrap, "its current context names no cluster"))?;
        write_private(&self.kubeconfig, &text.to_string())?;
        self.forget_key()?;
        tracing::info!(node = self.node, file = %self.kubeconfig.display(), "the node credential is there");
        Ok(())
    }

    /// The key of the request that is under way, or a new one.
    fn key(&self) -> Result<KeyPair, Error> {
        let failed = |error: rcgen::Error| Error::Certificate { what: "the node's key", reason: error.to_string() };
        let path = self.key_file();
        match fs::read_to_string(&path) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(failed)?;
                write_private(&path, &key.serialize_pem())?;
                Ok(key)
            }
            Err(source) => Err(file_error(&path, source)),
        }
    }

    fn forget_key(&self) -> Result<(), Error> {
        let path = self.key_file();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(&path, error)),
            _ => Ok(()),
        }
    }

    fn key_file(&self) -> PathBuf {
        beside(&self.kubeconfig, ".key")
    }

    fn read(&self) -> Result<Option<Kubeconfig>, Error> {
        if self.kubeconfig.exists() { parse(&self.kubeconfig).map(Some) } else { Ok(None) }
    }

    async fn config_of(&self, path: &Path, there: Kubeconfig) -> Result<Config, Error> {
        let config = Config::from_custom_kubeconfig(there, &KubeConfigOptions::default()).await;
        config.map_err(|error| unusable(path, &error.to_string()))
    }

    /// In which time the certificate in the file is valid; `None` when it is another kind of credential, which somebody
    /// else looks after.
    fn validity(&self, there: &Kubeconfig) -> Result<Option<Validity>, Error> {
        let data = there.auth_infos.iter().find_map(|user| user.auth_info.as_ref()?.client_certificate_data.as_deref());
        let Some(data) = data else { return Ok(None) };
        let bad = |reason: &str| unusable(&self.kubeconfig, reason);
        let pem = BASE64.decode(data).map_err(|_| bad("client-certificate-data is not base64"))?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|_| bad("client-certificate-data is no PEM"))?;
        let certificate = pem.parse_x509().map_err(|_| bad("client-certificate-data is no certificate"))?;
        let name = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
        if name != user(&self.node) {
            return Err(bad(&format!("it is the credential of {name}, and this is the node {}", self.node)));
        }
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).unwrap_or_default();
        let validity = certificate.validity();
        Ok(Some(Validity { from: at(validity.not_before), until: at(validity.not_after) }))
    }
}

/// A client of the API server.
///
/// # Errors
/// When the credential is none.
pub fn client(path: &Path, config: Config) -> Result<Client, Error> {
    Client::try_from(config).map_err(|error| unusable(path, &error.to_string()))
}

/// When a certificate is renewed: after 70% of its time, or up to 90%, as `share` (0 to 1) says. Many hosts that were
/// set up together do not ask together.
fn renewal(validity: Validity, share: f64) -> Timestamp {
    let seconds = (validity.until.as_second() - validity.from.as_second()).max(0) as f64;
    let after = SignedDuration::try_from_secs_f64(seconds * (0.7 + 0.2 * share)).unwrap_or_default();
    validity.from.checked_add(after).unwrap_or(validity.until)
}

/// A kubeconfig with the certificate and the key in it, for the cluster of `template`.
fn kubeconfig(template: &Kubeconfig, node: &str, certificate: &str, key: &str) -> Option<Json> {
    let current = template.current_context.as_ref()?;
    let context = template.contexts.iter().find(|context| context.name == *current)?.context.as_ref()?;
    let cluster = template.clusters.iter().find(|cluster| cluster.name == context.cluster)?.cluster.as_ref()?;
    let user = user(node);
    Some(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "default",
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": user}}],
        "clusters": [{"name": "default", "cluster": cluster}],
        "users": [{"name": user, "user": {
            "client-certificate-data": BASE64.encode(certificate),
            "client-key-data": BASE64.encode(key),
        }}],
    }))
}

fn parse(path: &Path) -> Result<Kubeconfig, Error> {
    // Read here, for an error that tells a missing file from a bad one. Paths in it are taken from its directory.
    fs::read(path).map_err(|source| file_error(path, source))?;
    Kubeconfig::read_from(path).map_err(|error| unusable(path, &error.to_string()))
}

fn unusable(path: &Path, reason: &str) -> Error {
    Error::Kubeconfig { path: path.display().to_string(), reason: reason.to_owned() }
}

fn file_error(path: &Path, source: io::Error) -> Error {
    Error::CredentialFile { path: path.display().to_string(), source }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Writes a file that only its owner reads, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let new = beside(path, ".new");
    let write = || -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|source| file_error(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType};
    use std::os::unix::fs::PermissionsExt;

    const TEMPLATE: &str = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: \
        {cluster: k, user: u}}], clusters: [{name: k, cluster: {server: 'https://10.0.0.1:6443'}}], \
        users: [{name: u, user: {token: abcdef.0123456789abcdef}}]}";

    fn credential(directory: &Path) -> Credential {
        let (kubeconfig, bootstrap) = (directory.join("state/kubeconfig"), directory.join("bootstrap.kubeconfig"));
        Credential { node: "kvm1".into(), kubeconfig, bootstrap }
    }

    /// A kubeconfig with a certificate of `node` that is valid for these seconds from now on.
    fn with_certificate(node: &str, from: i64, until: i64) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user(node));
        let at = |seconds: i64| {
            let now = std::time::SystemTime::now();
            let shift = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { (now - shift).into() } else { (now + shift).into() }
        };
        (params.not_before, params.not_after) = (at(from), at(until));
        let certificate = params.self_signed(&key).unwrap().pem();
        let template: Kubeconfig = serde_yaml_ng::from_str(TEMPLATE).unwrap();
        kubeconfig(&template, node, &certificate, &key.serialize_pem()).unwrap().to_string()
    }

    #[tokio::test]
    async fn a_valid_credential_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let credential = credential(directory.path());
        write_private(&credential.kubeconfig, &with_certificate("kvm1", -60, 600)).unwrap();
        let config = credential.config().await.unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://10.0.0.1:6443/");
        let mode = fs::metadata(&credential.kubeconfig).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn without_a_credential_the_error_says_how_to_get_one() {
        let directory = tempfile::tempdir().unwrap();
        let credential = credential(directory.path());
        let missing = credential.config().await.unwrap_err().to_string();
        assert!(missing.contains("there is no such file") && missing.contains("bootstrap.kubeconfig"), "{missing}");
        write_private(&credential.kubeconfig, &with_certificate("kvm1", -60, -1)).unwrap();
        let expired = credential.config().await.unwrap_err().to_string();
        assert!(expired.contains("its certificate has expired"), "{expired}");
        write_private(&credential.kubeconfig, &with_certificate("kvm2", -60, 600)).unwrap();
        let other = credential.config().await.unwrap_err().to_string();
        assert!(other.contains("it is the credential of system:node:kvm2, and this is the node kvm1"), "{other}");
        write_private(&credential.kubeconfig, "x: [").unwrap();
        let broken = credential.config().await.unwrap_err().to_string();
        assert!(broken.contains("state/kubeconfig: "), "{broken}");
    }

    #[test]
    fn the_key_of_a_request_under_way_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let credential = credential(directory.path());
        let first = credential.key().unwrap().serialize_pem();
        assert_eq!(credential.key().unwrap().serialize_pem(), first);
        let mode = fs::metadata(credential.key_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_renewal_comes_in_time_and_not_for_all_hosts_at_once() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let year = Validity { from: at(0), until: at(1000) };
        assert_eq!((renewal(year, 0.0), renewal(year, 1.0)), (at(700), at(900)));
    }

    #[tokio::test]
    async fn a_credential_of_another_kind_is_never_renewed() {
        let directory = tempfile::tempdir().unwrap();
        let credential = credential(directory.path());
        write_private(&credential.kubeconfig, TEMPLATE).unwrap();
        let client = client(&credential.kubeconfig, credential.config().await.unwrap()).unwrap();
        let renewed = tokio::time::timeout(Duration::from_millis(50), credential.renewed(&client)).await;
        assert!(renewed.is_err(), "it waits for ever");
    }
}
