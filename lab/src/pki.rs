//! Certificates and kubeconfigs of the cluster.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use crate::{Error, HostName, Options, Result, error::FileContext as _};

/// The certificates in one directory, signed by the CA that is there too.
pub(crate) struct Pki {
    dir: PathBuf,
    ca_name: &'static str,
}

/// Whom a certificate is for.
struct Subject<'a> {
    file: &'a str,
    organization: Option<&'a str>,
    name: &'a str,
    alternatives: Vec<String>,
}

impl Pki {
    /// The cluster's own.
    pub(crate) fn cluster(options: &Options) -> Self {
        Self { dir: options.dir.join("pki"), ca_name: "kubevmm lab" }
    }

    /// The front proxy's, by which the API server proves itself to aggregated API servers.
    pub(crate) fn front_proxy(options: &Options) -> Self {
        Self { dir: options.dir.join("pki/front-proxy"), ca_name: "kubevmm lab front proxy" }
    }

    /// A file of this directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn key(&self, name: &str) -> Result<KeyPair> {
        let path = self.file(&format!("{name}.key"));
        if let Ok(pem) = fs::read_to_string(&path) {
            return KeyPair::from_pem(&pem).map_err(|source| certificate_error(name, source));
        }
        let key = KeyPair::generate().map_err(|source| certificate_error(name, source))?;
        write_private(&path, &key.serialize_pem())?;
        Ok(key)
    }

    fn ca(&self) -> Result<Issuer<'static, KeyPair>> {
        fs::create_dir_all(&self.dir).file("create", &self.dir)?;
        let key = self.key("ca")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.ca_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let path = self.file("ca.crt");
        if !path.exists() {
            let certificate = params.self_signed(&key).map_err(|source| certificate_error("ca", source))?;
            fs::write(&path, certificate.pem()).file("write", path)?;
        }
        Ok(Issuer::new(params, key))
    }

    fn certificate(&self, subject: Subject<'_>) -> Result<()> {
        let path = self.file(&format!("{}.crt", subject.file));
        if path.exists() {
            return Ok(());
        }
        let failed = |source| certificate_error(subject.file, source);
        let ca = self.ca()?;
        let key = self.key(subject.file)?;
        let mut params = CertificateParams::new(subject.alternatives).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, subject.name);
        if let Some(organization) = subject.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &ca).map_err(failed)?;
        fs::write(&path, certificate.pem()).file("write", path)
    }

    fn client(&self, file: &str, organization: Option<&str>, name: &str) -> Result<()> {
        self.certificate(Subject { file, organization, name, alternatives: Vec::new() })
    }

    /// A kubeconfig with the certificates in it, so that it can be copied.
    fn kubeconfig(&self, certificate: &str, server: &str, path: &Path) -> Result<()> {
        let data = |name: &str| -> Result<String> {
            let file = self.file(name);
            Ok(BASE64.encode(fs::read(&file).file("read", file)?))
        };
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "clusters": [{"name": "lab", "cluster": {
                "server": server,
                "certificate-authority-data": data("ca.crt")?,
            }}],
            "users": [{"name": "lab", "user": {
                "client-certificate-data": data(&format!("{certificate}.crt"))?,
                "client-key-data": data(&format!("{certificate}.key"))?,
            }}],
        });
        write_private(path, &config.to_string())
    }
}

fn server(options: &Options) -> String {
    format!("https://{}:6443", options.address(HostName::ControlPlane))
}

/// Makes what the control plane needs, and the administrator's kubeconfig.
pub(crate) fn make_cluster(options: &Options) -> Result<()> {
    let pki = Pki::cluster(options);
    pki.ca()?;
    let service_accounts = pki.key("service-account")?;
    let public = pki.file("service-account.pub");
    fs::write(&public, service_accounts.public_key_pem()).file("write", public)?;
    let mut alternatives: Vec<String> =
        ["cp", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
    alternatives.push(options.address(HostName::ControlPlane).to_string());
    alternatives.push(options.api_service_address().to_string());
    alternatives.push("127.0.0.1".to_owned());
    pki.certificate(Subject { file: "apiserver", organization: None, name: "kube-apiserver", alternatives })?;
    pki.client("apiserver-kubelet-client", Some("system:masters"), "kube-apiserver-kubelet-client")?;
    Pki::front_proxy(options).client("client", None, "front-proxy")?;
    for (file, organization, name, path) in [
        ("admin", Some("system:masters"), "admin", options.dir.join("admin.kubeconfig")),
        ("scheduler", None, "system:kube-scheduler", pki.file("scheduler.kubeconfig")),
        ("controller-manager", None, "system:kube-controller-manager", pki.file("controller-manager.kubeconfig")),
    ] {
        pki.client(file, organization, name)?;
        pki.kubeconfig(file, &server(options), &path)?;
    }
    Ok(())
}

/// Makes the kubelet's certificate and kubeconfig, and puts them with the CA's certificate into `dir`.
pub(crate) fn make_node(options: &Options, host: HostName, dir: &Path) -> Result<()> {
    let pki = Pki::cluster(options);
    let name = host.to_string();
    pki.certificate(Subject {
        file: &name,
        organization: Some("system:nodes"),
        name: &format!("system:node:{host}"),
        alternatives: vec![name.clone(), options.address(host).to_string()],
    })?;
    for (from, to) in
        [("ca.crt", "ca.crt"), (&format!("{host}.crt"), "kubelet.crt"), (&format!("{host}.key"), "kubelet.key")]
    {
        fs::copy(pki.file(from), dir.join(to)).file("copy", pki.file(from))?;
    }
    pki.kubeconfig(&name, &server(options), &dir.join("kubelet.kubeconfig"))
}

fn certificate_error(name: &str, source: rcgen::Error) -> Error {
    Error::Certificate { name: name.to_owned(), source }
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, "").file("write", &new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).file("protect", &new)?;
    fs::write(&new, text).file("write", &new)?;
    fs::rename(&new, path).file("rename", new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_keeps_what_the_first_made() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { dir: dir.path().to_owned(), ..Options::default() };
        make_cluster(&options).unwrap();
        let before = fs::read(options.dir.join("pki/apiserver.crt")).unwrap();
        let kubeconfig = options.dir.join("admin.kubeconfig");
        assert_eq!(fs::metadata(&kubeconfig).unwrap().permissions().mode() & 0o777, 0o600);
        make_cluster(&options).unwrap();
        assert_eq!(fs::read(options.dir.join("pki/apiserver.crt")).unwrap(), before);
        let node = dir.path().join("node");
        fs::create_dir(&node).unwrap();
        make_node(&options, HostName::Node(1), &node).unwrap();
        assert!(node.join("kubelet.kubeconfig").exists());
    }
}
