//! `describe`.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kubevmm_api::VirtualMachine;

use super::list::catalog;
use super::outcome;
use crate::cli::DescribeArgs;
use crate::cluster::{Cluster, typed};
use crate::describe::{Subject, last_seen, text};
use crate::error::Error;
use crate::output;

/// Runs it.
pub(crate) async fn run(cluster: &Cluster, args: &DescribeArgs) -> Result<(), Error> {
    let selected = cluster.select(&args.selection).await?;
    let total = selected.len();
    let (mut objects, mut failures) = (Vec::new(), Vec::new());
    for result in selected {
        match result {
            Ok(object) => objects.push(object),
            Err(error) => failures.push(error),
        }
    }
    if total == 0 {
        eprintln!("no virtual machine is selected");
    }
    if let Some(format) = args.output {
        let values = objects.iter().map(output::printable).collect::<Result<Vec<_>, _>>()?;
        if !values.is_empty() {
            output::emit(&output::objects(values, total == 1, format)?)?;
        }
        return outcome(failures, total);
    }
    if !objects.is_empty() {
        let namespace = (!args.selection.all_namespaces).then_some(cluster.namespace.as_str());
        let catalog = catalog(cluster, namespace).await;
        let mut parts = Vec::new();
        for object in &objects {
            let vm = typed(object);
            let events = events(cluster, &vm).await;
            let events = events.as_deref().map_err(ToString::to_string);
            parts.push(text(&Subject { vm: &vm, catalog: &catalog, events, now: Timestamp::now() }));
        }
        output::emit(&parts.join("\n\n"))?;
    }
    outcome(failures, total)
}

async fn events(cluster: &Cluster, vm: &VirtualMachine) -> Result<Vec<Event>, Error> {
    let namespace = vm.metadata.namespace.as_deref().unwrap_or_default();
    let uid = vm.metadata.uid.as_deref().unwrap_or_default();
    let params = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    let events = cluster.api::<Event>(namespace).list(&params).await.map_err(|error| cluster.failure(error))?;
    let mut events = events.items;
    events.sort_by_key(last_seen);
    Ok(events)
}
