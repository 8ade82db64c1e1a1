//! Names on the command line that may mean an object of the namespace or of the cluster.

use kube::api::{Api, ListParams};
use kube::core::Resource;
use kubevmm_api::common::{ImageKind, ImageRef, NetworkKind, NetworkRef};
use kubevmm_api::{
    ClusterVirtualMachineImage, ClusterVirtualMachineNetwork, VirtualMachineImage, VirtualMachineNetwork,
};
use serde::de::DeserializeOwned;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::near::near;

/// A name with or without its kind.
#[derive(Debug, PartialEq, Eq)]
enum Named<'a> {
    Namespaced(&'a str),
    Cluster(&'a str),
    Either(&'a str),
}

/// Reads `NAME`, `KIND/NAME`; `kinds` are the short name, kind and plural of the namespaced and the cluster's kind.
fn named<'a>(text: &'a str, kinds: [&[&str]; 2]) -> Result<Named<'a>, Error> {
    let Some((kind, name)) = text.split_once('/') else { return Ok(Named::Either(text)) };
    let kind = kind.to_ascii_lowercase();
    let kind = kind.strip_suffix(".kubevmm.io").unwrap_or(&kind);
    match kinds.map(|words| words.contains(&kind)) {
        [true, _] => Ok(Named::Namespaced(name)),
        [_, true] => Ok(Named::Cluster(name)),
        _ => {
            let [namespaced, cluster] = kinds.map(|words| words.first().copied().unwrap_or_default());
            Err(Error::Usage(format!("{text}: write NAME, {namespaced}/NAME or {cluster}/NAME")))
        }
    }
}

const IMAGES: [&[&str]; 2] = [
    &["vmimg", "virtualmachineimage", "virtualmachineimages"],
    &["cvmimg", "clustervirtualmachineimage", "clustervirtualmachineimages"],
];
const NETWORKS: [&[&str]; 2] = [
    &["vmnet", "virtualmachinenetwork", "virtualmachinenetworks"],
    &["cvmnet", "clustervirtualmachinenetwork", "clustervirtualmachinenetworks"],
];

/// Which of the two kinds has an object of a name.
enum Found {
    Namespaced,
    Cluster,
}

/// The image that `text` names. Without a cluster to ask, a plain name is one of the namespace.
pub(crate) async fn image(cluster: Option<&Cluster>, text: &str) -> Result<ImageRef, Error> {
    let (found, name) = match (named(text, IMAGES)?, cluster) {
        (Named::Namespaced(name), _) | (Named::Either(name), None) => (Found::Namespaced, name),
        (Named::Cluster(name), _) => (Found::Cluster, name),
        (Named::Either(name), Some(cluster)) => {
            let apis = (cluster.api::<VirtualMachineImage>(&cluster.namespace), cluster.all());
            (
                find::<VirtualMachineImage, ClusterVirtualMachineImage>(
                    cluster,
                    apis,
                    "image",
                    ["vmimg", "cvmimg"],
                    name,
                )
                .await?,
                name,
            )
        }
    };
    let kind = match found {
        Found::Namespaced => ImageKind::VirtualMachineImage,
        Found::Cluster => ImageKind::ClusterVirtualMachineImage,
    };
    Ok(ImageRef { kind, name: name.into() })
}

/// The network that `text` names. Without a cluster to ask, a plain name is one of the namespace.
pub(crate) async fn network(cluster: Option<&Cluster>, text: &str) -> Result<NetworkRef, Error> {
    let (found, name) = match (named(text, NETWORKS)?, cluster) {
        (Named::Namespaced(name), _) | (Named::Either(name), None) => (Found::Namespaced, name),
        (Named::Cluster(name), _) => (Found::Cluster, name),
        (Named::Either(name), Some(cluster)) => {
            let apis = (cluster.api::<VirtualMachineNetwork>(&cluster.namespace), cluster.all());
            (
                find::<VirtualMachineNetwork, ClusterVirtualMachineNetwork>(
                    cluster,
                    apis,
                    "network",
                    ["vmnet", "cvmnet"],
                    name,
                )
                .await?,
                name,
            )
        }
    };
    let kind = match found {
        Found::Namespaced => NetworkKind::VirtualMachineNetwork,
        Found::Cluster => NetworkKind::ClusterVirtualMachineNetwork,
    };
    Ok(NetworkRef { kind, name: name.into() })
}

async fn find<N, C>(
    cluster: &Cluster,
    apis: (Api<N>, Api<C>),
    what: &str,
    shorts: [&str; 2],
    name: &str,
) -> Result<Found, Error>
where
    N: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    C: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let namespaced = names(cluster, &apis.0).await?;
    if namespaced.iter().any(|known| known == name) {
        return Ok(Found::Namespaced);
    }
    let global = names(cluster, &apis.1).await?;
    if global.iter().any(|known| known == name) {
        return Ok(Found::Cluster);
    }
    let near = near(name, namespaced.iter().chain(&global).map(String::as_str));
    let hint = if near.is_empty() {
        format!("`kubectl get {}` shows what is there", shorts.join(","))
    } else {
        format!("did you mean {}?", near.join(" or "))
    };
    Err(Error::NotFound {
        what: format!("{what} {name:?} in namespace {:?} or of the cluster", cluster.namespace),
        hint,
    })
}

async fn names<K>(cluster: &Cluster, api: &Api<K>) -> Result<Vec<String>, Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let list = api.list_metadata(&ListParams::default()).await.map_err(|error| cluster.failure(error))?;
    Ok(list.items.into_iter().filter_map(|item| item.metadata.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_may_be_said() {
        for (text, expected) in [
            ("debian", Named::Either("debian")),
            ("vmimg/debian", Named::Namespaced("debian")),
            ("VirtualMachineImage/debian", Named::Namespaced("debian")),
            ("cvmimg/debian", Named::Cluster("debian")),
            ("clustervirtualmachineimage.kubevmm.io/debian", Named::Cluster("debian")),
        ] {
            assert_eq!(named(text, IMAGES).unwrap(), expected);
        }
        let error = named("vmnet/lan", IMAGES).unwrap_err();
        assert_eq!(error.to_string(), "vmnet/lan: write NAME, vmimg/NAME or cvmimg/NAME");
    }
}
