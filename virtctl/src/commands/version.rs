//! `version`.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde::Serialize;

use crate::cli::{ClusterArgs, DataFormat, VersionArgs};
use crate::cluster::{Cluster, connect};
use crate::error::Error;
use crate::output;
use crate::table::render;

/// What is known of the versions.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    components: Vec<Component>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// A Deployment or DaemonSet of ours.
#[derive(Debug, Serialize)]
struct Component {
    name: String,
    kind: &'static str,
    version: String,
    image: String,
    ready: String,
}

/// Runs it. A cluster that does not answer is said, and no failure: the version of this command is known.
pub(crate) async fn run(target: &ClusterArgs, args: &VersionArgs) -> Result<(), Error> {
    let mut versions = Versions { client: env!("CARGO_PKG_VERSION").into(), ..Default::default() };
    if !args.client {
        let asked = async {
            let cluster = connect(target).await?;
            installed(&cluster, &mut versions).await
        };
        versions.problem = asked.await.err().map(|error| error.to_string());
    }
    output::emit(&match args.output {
        Some(format) => output::data(&versions, format == DataFormat::Json)?,
        None => text(&versions, args.client),
    })
}

async fn installed(cluster: &Cluster, versions: &mut Versions) -> Result<(), Error> {
    let server = cluster.client.apiserver_version().await.map_err(|error| cluster.failure(error))?;
    versions.kubernetes = Some(server.git_version);
    let namespace = kubevmm_api::SYSTEM_NAMESPACE;
    let params = ListParams::default();
    let (deployments, daemon_sets) = (cluster.api::<Deployment>(namespace), cluster.api::<DaemonSet>(namespace));
    let (deployments, daemon_sets) = tokio::join!(deployments.list(&params), daemon_sets.list(&params));
    for deployment in deployments.map_err(|error| cluster.failure(error))? {
        let status = deployment.status.clone().unwrap_or_default();
        let ready = format!("{}/{}", status.ready_replicas.unwrap_or(0), status.replicas.unwrap_or(0));
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        versions.components.extend(component("Deployment", deployment.name_any(), template, ready));
    }
    for set in daemon_sets.map_err(|error| cluster.failure(error))? {
        let status = set.status.clone().unwrap_or_default();
        let ready = format!("{}/{}", status.number_ready, status.desired_number_scheduled);
        let template = set.spec.as_ref().map(|spec| &spec.template);
        versions.components.extend(component("DaemonSet", set.name_any(), template, ready));
    }
    Ok(())
}

fn component(kind: &'static str, name: String, template: Option<&PodTemplateSpec>, ready: String) -> Option<Component> {
    let image = template?.spec.as_ref()?.containers.first()?.image.clone()?;
    Some(Component { version: tag(&image).into(), name, kind, image, ready })
}

/// The tag of an image; the digest or nothing when it has none.
fn tag(image: &str) -> &str {
    if let Some((_, digest)) = image.split_once('@') {
        return digest;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

fn text(versions: &Versions, client_only: bool) -> String {
    let mut out = format!("virtctl      {}\n", versions.client);
    if let Some(kubernetes) = &versions.kubernetes {
        out.push_str(&format!("Kubernetes   {kubernetes}\n"));
    }
    if !versions.components.is_empty() {
        let rows: Vec<_> = versions
            .components
            .iter()
            .map(|c| vec![c.name.clone(), c.version.clone(), c.ready.clone(), c.image.clone()])
            .collect();
        out.push_str(&render(&["COMPONENT", "VERSION", "READY", "IMAGE"], &rows, 0));
    } else if versions.problem.is_none() && !client_only {
        out.push_str("KubeVMM is not installed in this cluster: kubectl apply -f yamls/\n");
    }
    if let Some(problem) = &versions.problem {
        out.push_str(&format!("cluster: {problem}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_images() {
        for (image, expected) in [
            ("kubevmm/kubevmm-controller:0.1.0", "0.1.0"),
            ("registry.example.org:5000/kubevmm/kubevmm-executor", "latest"),
            ("kubevmm/x:1@sha256:ab", "sha256:ab"),
        ] {
            assert_eq!(tag(image), expected, "{image}");
        }
    }

    #[test]
    fn what_is_installed() {
        let mut versions =
            Versions { client: "0.1.0".into(), kubernetes: Some("v1.36.3".into()), ..Default::default() };
        assert!(text(&versions, false).contains("not installed"));
        assert_eq!(text(&Versions { client: "0.1.0".into(), ..Default::default() }, true), "virtctl      0.1.0\n");
        let image = "kubevmm/kubevmm-executor:0.1.0";
        versions.components.push(Component {
            name: "kubevmm-executor".into(),
            kind: "DaemonSet",
            version: tag(image).into(),
            image: image.into(),
            ready: "2/3".into(),
        });
        assert_eq!(
            text(&versions, false),
            "virtctl      0.1.0\nKubernetes   v1.36.3\n\
             COMPONENT          VERSION   READY   IMAGE\n\
             kubevmm-executor   0.1.0     2/3     kubevmm/kubevmm-executor:0.1.0\n"
        );
    }
}
