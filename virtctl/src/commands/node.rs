//! `node`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::outcome;
use crate::cli::{ClusterArgs, ListFormat, NodeCommand, NodeDescribeArgs, NodeListArgs};
use crate::cluster::{Cluster, connect, connect_impatiently};
use crate::error::Error;
use crate::node::Cordons;
use crate::{node, output};

/// Runs it.
pub(crate) async fn run(target: &ClusterArgs, command: &NodeCommand) -> Result<(), Error> {
    match command {
        NodeCommand::List(args) => list(&connect(target).await?, args).await,
        NodeCommand::Describe(args) => describe(&connect(target).await?, args).await,
        NodeCommand::Drain(args) => super::drain::drain(&connect_impatiently(target).await?, args).await,
        NodeCommand::Uncordon(args) => super::drain::uncordon(&connect(target).await?, &args.node).await,
    }
}

async fn list(cluster: &Cluster, args: &NodeListArgs) -> Result<(), Error> {
    let hypervisors = cluster.hypervisors().await?;
    if let Some(format) = args.output.and_then(ListFormat::objects) {
        let values = hypervisors.iter().map(output::printable).collect::<Result<Vec<_>, _>>()?;
        return output::emit(&output::objects(values, false, format)?);
    }
    if hypervisors.is_empty() {
        eprintln!("no hypervisor: the controller makes one for each Linux node; see that it runs");
        return Ok(());
    }
    let cordons = cordons(cluster).await;
    let wide = args.output == Some(ListFormat::Wide);
    output::emit_table(&node::table(&hypervisors, &cordons, wide), args.no_headers)
}

async fn describe(cluster: &Cluster, args: &NodeDescribeArgs) -> Result<(), Error> {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &args.nodes {
        match cluster.hypervisor(name).await {
            Ok(hypervisor) => found.push(hypervisor),
            Err(error @ Error::NotFound { .. }) => failures.push(error),
            Err(error) => return Err(error),
        }
    }
    if let Some(format) = args.output {
        let values = found.iter().map(output::printable).collect::<Result<Vec<_>, _>>()?;
        if !values.is_empty() {
            output::emit(&output::objects(values, args.nodes.len() == 1, format)?)?;
        }
    } else if !found.is_empty() {
        let (cordons, vms) = (cordons(cluster).await, cluster.known_vms().await?);
        let now = Timestamp::now();
        let parts: Vec<_> = found.iter().map(|host| node::text(host, &vms, &cordons, now)).collect();
        output::emit(&parts.join("\n\n"))?;
    }
    outcome(failures, args.nodes.len())
}

/// The Nodes that are cordoned. Who may not see Nodes is told so.
async fn cordons(cluster: &Cluster) -> Cordons {
    match cluster.all::<Node>().list(&ListParams::default()).await {
        Ok(nodes) => {
            let cordoned = nodes.iter().filter(|node| {
                let spec = node.spec.as_ref();
                spec.and_then(|spec| spec.unschedulable).unwrap_or(false)
            });
            Cordons::Known(cordoned.map(|node| node.name_any()).collect::<BTreeSet<_>>())
        }
        Err(error) => {
            eprintln!("note: whether nodes are cordoned is not shown: {}", cluster.failure(error));
            Cordons::Unknown
        }
    }
}
