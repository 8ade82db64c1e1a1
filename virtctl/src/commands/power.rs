//! `start`, `stop`, `restart`.

use kube::api::DynamicObject;
use kubevmm_api::VirtualMachine;

use super::outcome;
use crate::cli::PowerArgs;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::goal::{Goal, State};
use crate::output;
use crate::power::{Decision, Verb, decide};
use crate::program;
use crate::wait::{Target, wait};

/// Runs one of them.
pub(crate) async fn run(cluster: &Cluster, verb: Verb, args: &PowerArgs, force: bool) -> Result<(), Error> {
    if args.selection.names.is_empty() && args.selection.selector.is_none() {
        return Err(Error::Usage("name the virtual machines, or select them by label with -l".into()));
    }
    let selected = cluster.select(&args.selection).await?;
    let total = selected.len();
    if total == 0 {
        let selector = args.selection.selector.clone().unwrap_or_default();
        return Err(Error::NotFound {
            what: format!("a virtual machine with the labels {selector:?}"),
            hint: format!("`{} list` shows what is there", program()),
        });
    }
    let mut failures = Vec::new();
    let mut written = Vec::new();
    for vm in selected {
        match ask(cluster, verb, vm, force, args.output.is_none()).await {
            Ok(done) => written.push(done),
            Err(error) => failures.push(error),
        }
    }
    if args.wait.wait {
        let targets: Vec<_> = written.iter().map(|(_, target)| target.clone()).collect();
        let results = wait(cluster, &targets, args.wait.timeout).await;
        let mut reached = Vec::new();
        for ((_, target), result) in written.into_iter().zip(results) {
            match result {
                Ok(vm) if args.output.is_none() => {
                    output::emit(&format!("{} {}\n", full_name(&target.name), arrived(&vm, &target.goal)))?;
                }
                // As the API server has it, with fields that this version may not know.
                Ok(_) => match cluster.vm(&target.namespace, &target.name).await {
                    Ok(object) => reached.push((object, target)),
                    Err(error) => failures.push(error),
                },
                Err(error) => failures.push(error),
            }
        }
        written = reached;
    }
    if let Some(format) = args.output {
        let values = written.iter().map(|(object, _)| output::printable(object)).collect::<Result<Vec<_>, _>>()?;
        if !values.is_empty() {
            output::emit(&output::objects(values, total == 1, format)?)?;
        }
    }
    outcome(failures, total)
}

/// Writes what is asked of one VM.
async fn ask(
    cluster: &Cluster,
    verb: Verb,
    vm: Result<DynamicObject, Error>,
    force: bool,
    say: bool,
) -> Result<(DynamicObject, Target), Error> {
    let object = vm?;
    let vm: VirtualMachine = object
        .clone()
        .try_parse()
        .map_err(|error| Error::Api(format!("an object that this version does not understand: {error}")))?;
    let name = vm.metadata.name.clone().unwrap_or_default();
    let namespace = vm.metadata.namespace.clone().unwrap_or_default();
    let id = uuid::Uuid::new_v4().to_string();
    let (object, request, said) = match decide(verb, &vm, force, &id, program()) {
        Decision::Refuse(why) => return Err(Error::Refused(why)),
        Decision::Nothing { said } => (object, None, said),
        Decision::Write { patch, request, said } => (cluster.patch_vm(&namespace, &name, &patch).await?, request, said),
    };
    if say {
        output::emit(&format!("{} {said}\n", full_name(&name)))?;
    }
    let state = if verb == Verb::Stop { State::Stopped } else { State::Running };
    let generation = object.metadata.generation.unwrap_or(0);
    Ok((object, Target { namespace, name, goal: Goal { state, generation, request } }))
}

fn full_name(name: &str) -> String {
    format!("virtualmachine.kubevmm.io/{name}")
}

fn arrived(vm: &VirtualMachine, goal: &Goal) -> String {
    let status = vm.status.clone().unwrap_or_default();
    if goal.state == State::Stopped {
        return "is stopped".into();
    }
    let address = status.interfaces.iter().find_map(|nic| nic.addresses.first());
    let address = address.map_or(String::new(), |address| format!(", address {address}"));
    format!("is running on {}{address}", status.node_name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::testing::Server;
    use clap::Parser as _;

    const HALTED: &str = r#"{"apiVersion": "kubevmm.io/v1beta1", "kind": "VirtualMachine",
        "metadata": {"name": "web", "namespace": "shop", "generation": 1}, "spec": {"runStrategy": "Halted"}}"#;
    const WEB: &str = "/apis/kubevmm.io/v1beta1/namespaces/shop/virtualmachines/web";

    async fn start(server: &Server) -> Result<(), Error> {
        let Command::Start(args) = Cli::parse_from(["virtctl", "start", "web"]).command else { panic!("start") };
        run(&server.cluster("shop"), Verb::Start, &args, false).await
    }

    #[tokio::test]
    async fn one_field_is_written_and_by_whom_is_said() {
        let server = Server::new(|_, _| (200, HALTED.into()));
        start(&server).await.unwrap();
        assert_eq!(
            server.requests(),
            [
                format!("GET {WEB} "),
                format!(r#"PATCH {WEB}?&fieldManager=virtctl {{"spec":{{"runStrategy":"Always"}}}}"#),
            ]
        );
    }

    #[tokio::test]
    async fn a_refusal_is_shown_in_the_api_servers_words() {
        let refusal = r#"{"kind": "Status", "status": "Failure", "reason": "Invalid", "code": 422,
            "message": "VirtualMachine.kubevmm.io \"web\" is invalid: spec: set spec.runStrategy"}"#;
        let server =
            Server::new(|method, _| if method == "GET" { (200, HALTED.into()) } else { (422, refusal.into()) });
        let error = start(&server).await.unwrap_err();
        assert_eq!(error.to_string(), "VirtualMachine.kubevmm.io \"web\" is invalid: spec: set spec.runStrategy");
        assert_eq!(error.exit_code(), 5);
    }

    #[tokio::test]
    async fn a_cluster_without_the_custom_resources_says_how_to_install_them() {
        let server = Server::new(|_, _| (404, "404 page not found\n".into()));
        let error = start(&server).await.unwrap_err();
        assert_eq!(error.to_string(), "KubeVMM is not installed in this cluster: kubectl apply -f yamls/");
        assert_eq!(error.exit_code(), 6);
    }

    #[tokio::test]
    async fn a_name_that_is_not_there_brings_near_ones() {
        let missing = r#"{"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "x",
            "details": {"name": "web", "kind": "virtualmachines"}}"#;
        let list = r#"{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {},
            "items": [{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                       "metadata": {"name": "wep", "namespace": "shop"}}]}"#;
        let server =
            Server::new(|_, path| if path.starts_with(WEB) { (404, missing.into()) } else { (200, list.into()) });
        let error = start(&server).await.unwrap_err();
        assert_eq!(error.to_string(), r#"virtual machine "web" in namespace "shop" not found: did you mean wep?"#);
        assert_eq!(error.exit_code(), 3);
    }
}
