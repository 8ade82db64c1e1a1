//! `domains`.

use crate::cli::{DataFormat, DomainsArgs};
use crate::cluster::Cluster;
use crate::domains::{self, Host};
use crate::error::Error;
use crate::output;

/// Runs it.
pub(crate) async fn run(cluster: &Cluster, args: &DomainsArgs) -> Result<(), Error> {
    let hypervisors = match &args.node {
        Some(node) => vec![cluster.hypervisor(node).await?],
        None => cluster.hypervisors().await?,
    };
    let vms = cluster.known_vms().await?;
    let hosts: Vec<Host> = hypervisors.iter().map(|hypervisor| Host::of(hypervisor, &vms)).collect();
    for note in hosts.iter().flat_map(Host::notes) {
        eprintln!("note: {note}");
    }
    match args.output {
        Some(format) => output::emit(&output::data(&domains::records(&hosts), format == DataFormat::Json)?),
        None => output::emit_table(&domains::table(&hosts), args.no_headers),
    }
}
