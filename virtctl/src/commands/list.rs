//! `list`.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::ListParams;
use kubevmm_api::{VirtualMachine, VirtualMachineClass, VirtualMachineDisk};

use super::outcome;
use crate::cli::{ListArgs, ListFormat};
use crate::cluster::{Cluster, typed};
use crate::error::Error;
use crate::hardware::Catalog;
use crate::list::{Columns, table};
use crate::output;

/// Runs it.
pub(crate) async fn run(cluster: &Cluster, args: &ListArgs) -> Result<(), Error> {
    let selected = cluster.select(&args.selection).await?;
    let total = selected.len();
    let (mut objects, mut failures) = (Vec::new(), Vec::new());
    for result in selected {
        match result {
            Ok(object) => objects.push(object),
            Err(error) => failures.push(error),
        }
    }
    if let Some(format) = args.output.and_then(ListFormat::objects) {
        let values = objects.iter().map(output::printable).collect::<Result<Vec<_>, _>>()?;
        if !values.is_empty() || args.selection.names.is_empty() {
            output::emit(&output::objects(values, args.selection.names.len() == 1, format)?)?;
        }
        return outcome(failures, total);
    }
    let wide = args.output == Some(ListFormat::Wide);
    let vms: Vec<VirtualMachine> = objects.iter().map(typed).collect();
    if vms.is_empty() && failures.is_empty() {
        let place = if args.selection.all_namespaces {
            "any namespace".into()
        } else {
            format!("namespace {}", cluster.namespace)
        };
        eprintln!("no virtual machine in {place}");
        return Ok(());
    }
    if !vms.is_empty() {
        let namespace = (!args.selection.all_namespaces).then_some(cluster.namespace.as_str());
        let catalog = if wide { catalog(cluster, namespace).await } else { Catalog::default() };
        let columns = Columns { namespace: args.selection.all_namespaces, wide };
        output::emit_table(&table(&vms, &catalog, columns, Timestamp::now()), args.no_headers)?;
    }
    outcome(failures, total)
}

/// The classes, and the disks of `namespace` or of all. What cannot be read leaves cells empty, and is said.
pub(crate) async fn catalog(cluster: &Cluster, namespace: Option<&str>) -> Catalog {
    let classes = cluster.all::<VirtualMachineClass>();
    let disks = match namespace {
        Some(namespace) => cluster.api::<VirtualMachineDisk>(namespace),
        None => cluster.all::<VirtualMachineDisk>(),
    };
    let params = ListParams::default();
    let (classes, disks) = tokio::join!(classes.list(&params), disks.list(&params));
    let mut catalog = Catalog::default();
    match classes {
        Ok(classes) => catalog.classes = classes.into_iter().map(|class| (class.name_any(), class.spec)).collect(),
        Err(error) => eprintln!("note: classes are not shown: {}", cluster.failure(error)),
    }
    match disks {
        Ok(disks) => {
            let keyed = disks.into_iter().map(|disk| ((disk.namespace().unwrap_or_default(), disk.name_any()), disk));
            catalog.disks = keyed.collect();
        }
        Err(error) => {
            catalog.disks_unknown = true;
            eprintln!("note: disks are not shown: {}", cluster.failure(error));
        }
    }
    catalog
}
