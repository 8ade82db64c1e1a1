//! `export-xml`.

use crate::cli::ExportArgs;
use crate::cluster::{Cluster, vm_name};
use crate::error::Error;
use crate::export::{export, node};
use crate::{host, output};

/// Runs it.
pub(crate) async fn run(cluster: &Cluster, args: &ExportArgs) -> Result<(), Error> {
    let object = cluster.vm(&cluster.namespace, vm_name(&args.name)?).await?;
    let vm = object
        .try_parse()
        .map_err(|error| Error::Api(format!("an object that this version does not understand: {error}")))?;
    let facts = host::facts(&cluster.hypervisor(node(&vm)?).await?)?;
    let export = export(&vm, &facts)?;
    match &args.output {
        Some(file) => std::fs::write(file, &export.xml).map_err(|source| Error::File {
            option: "--output",
            path: file.clone(),
            source,
        })?,
        None => output::emit(&export.xml)?,
    }
    for note in &export.notes {
        eprintln!("note: {note}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use crate::testing::{Server, documents};
    use clap::Parser as _;
    use kubevmm_api::{Hypervisor, VirtualMachine};
    use serde_json::json;

    #[tokio::test]
    async fn the_file_is_the_xml_alone() {
        let file = std::env::temp_dir().join(format!("virtctl-export-{}.xml", std::process::id()));
        let server = Server::new(|_, path| {
            let vm: VirtualMachine = documents("observed.yaml").remove(1);
            let hosts = documents::<Hypervisor>("hypervisors.yaml");
            let list =
                json!({"apiVersion": "kubevmm.io/v1beta1", "kind": "HypervisorList", "metadata": {}, "items": hosts});
            let is_host = path.contains("hypervisors");
            (200, if is_host { list.to_string() } else { serde_json::to_string(&vm).unwrap() })
        });
        let line = ["virtctl", "export-xml", "vm/db", "-o", file.to_str().unwrap()];
        let Command::ExportXml(args) = Cli::parse_from(line).command else { panic!("export-xml") };
        super::run(&server.cluster("legacy"), &args).await.unwrap();
        let xml = std::fs::read_to_string(&file).unwrap();
        assert!(xml.starts_with("<domain type='kvm'>") || xml.starts_with("<domain type=\"kvm\">"), "{xml}");
        std::fs::remove_file(&file).unwrap();
    }
}
