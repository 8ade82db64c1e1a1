//! `domains`.

use kube::ResourceExt as _;
use kube::api::ListParams;
use kubevmm_api::Hypervisor;

use crate::cli::{DataFormat, DomainsArgs};
use crate::cluster::Cluster;
use crate::domains::{self, Host};
use crate::error::Error;
use crate::near::near;
use crate::output;
use crate::program;

/// Runs it.
pub(crate) async fn run(cluster: &Cluster, args: &DomainsArgs) -> Result<(), Error> {
    let hypervisors = cluster.all::<Hypervisor>().list(&ListParams::default()).await;
    let hypervisors = hypervisors.map_err(|error| cluster.failure(error))?.items;
    if let Some(node) = &args.node
        && !hypervisors.iter().any(|hypervisor| hypervisor.name_any() == *node)
    {
        return Err(no_host(node, &hypervisors));
    }
    let asked = hypervisors.iter().filter(|hypervisor| args.node.as_ref().is_none_or(|n| *n == hypervisor.name_any()));
    let vms = cluster.known_vms().await?;
    let hosts: Vec<Host> = asked.map(|hypervisor| Host::of(hypervisor, &vms)).collect();
    for note in hosts.iter().flat_map(Host::notes) {
        eprintln!("note: {note}");
    }
    match args.output {
        Some(format) => output::emit(&output::data(&domains::records(&hosts), format == DataFormat::Json)?),
        None => {
            let text = domains::table(&hosts);
            output::emit(if args.no_headers { text.split_once('\n').map_or("", |(_, body)| body) } else { &text })
        }
    }
}

/// The error for a node that is no host.
pub(super) fn no_host(node: &str, hypervisors: &[Hypervisor]) -> Error {
    let known: Vec<_> = hypervisors.iter().map(|hypervisor| hypervisor.name_any()).collect();
    let near = near(node, known.iter().map(String::as_str));
    let hint = match near.as_slice() {
        [] => format!("`{} domains` shows the hosts that there are", program()),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    Error::NotFound { what: format!("hypervisor {node:?}"), hint }
}
