//! What `node list` and `node describe` say of the hosts. Pure.

mod describe;
pub(crate) mod drain;
mod list;

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use kubevmm_api::Hypervisor;
use kubevmm_api::condition::{self, READY};
use kubevmm_api::hypervisor::ImageState;

pub(crate) use describe::text;
pub(crate) use list::table;

/// Which Nodes are cordoned.
pub(crate) enum Cordons {
    /// These.
    Known(BTreeSet<String>),
    /// They could not be read.
    Unknown,
}

/// Whether a host can be used, in words: `Ready`, `NotReady`, `Unknown`, and what an administrator has said of it.
fn state(hypervisor: &Hypervisor, cordons: &Cordons) -> String {
    let conditions = hypervisor.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = match condition::find(conditions, READY).map(|ready| ready.status.as_str()) {
        Some("True") => "Ready",
        Some("False") => "NotReady",
        _ => "Unknown",
    };
    let cordoned = matches!(cordons, Cordons::Known(nodes) if nodes.contains(&hypervisor.name_any()));
    let said = [(hypervisor.spec.maintenance, "Maintenance"), (cordoned, "Cordoned")];
    let said = said.into_iter().filter_map(|(is, word)| is.then_some(word));
    std::iter::once(ready).chain(said).collect::<Vec<_>>().join(",")
}

/// What is wrong with a host, shortest words first known.
fn problems(hypervisor: &Hypervisor) -> Vec<String> {
    let Some(status) = &hypervisor.status else { return vec!["its executor has not reported yet".into()] };
    let mut problems = Vec::new();
    match condition::find(&status.conditions, READY) {
        Some(ready) if ready.status == "True" => {}
        Some(ready) => problems.push(ready.reason.clone()),
        None => problems.push("its executor has not reported yet".into()),
    }
    let why = |reason: &Option<String>| reason.clone().unwrap_or_else(|| "NotReady".into());
    let pools = status.pools.iter().filter(|pool| !pool.ready);
    problems.extend(pools.map(|pool| format!("pool {}: {}", pool.name, why(&pool.reason))));
    let networks = status.networks.iter().filter(|network| !network.ready);
    problems.extend(networks.map(|network| {
        format!("network {}: {}", qualified(network.namespace.as_deref(), &network.name), why(&network.reason))
    }));
    let images = status.images.iter().filter(|image| image.state == ImageState::Failed);
    problems.extend(
        images.map(|image| {
            format!("image {}: {}", qualified(image.namespace.as_deref(), &image.name), why(&image.reason))
        }),
    );
    match status.orphan_count {
        None | Some(0) => {}
        Some(1) => problems.push("1 orphan".into()),
        Some(count) => problems.push(format!("{count} orphans")),
    }
    problems
}

/// `namespace/name`, or the name of what has no namespace.
fn qualified(namespace: Option<&str>, name: &str) -> String {
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}
