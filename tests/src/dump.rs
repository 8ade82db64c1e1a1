//! What a failed story leaves for its reader.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, SYSTEM, work_tree};
use crate::external::EXTERNAL_HOST;

const KINDS: &str = "vm,vmd,vmimg,vmnet,pods,events.events.k8s.io";
const CLUSTER_KINDS: &str = "hv,cvmimg,cvmnet,vmpool,vmclass,nodes";

/// Writes objects, events, logs and the hosts' state into `out/e2e/<story>/`; the directory.
pub fn write(cluster: &Cluster, story: &str, namespace: &str, error: &str) -> PathBuf {
    let directory = work_tree().join("out/e2e").join(story);
    let _ = fs::create_dir_all(&directory);
    save(&directory, "error.txt", error.to_owned());
    let kubectl = |arguments: &[&str]| {
        cluster.lab.kubectl(arguments.iter().copied()).unwrap_or_else(|error| format!("{error}\n"))
    };
    save(&directory, "objects.yaml", kubectl(&["-n", namespace, "get", KINDS, "-o", "yaml"]));
    save(&directory, "cluster.yaml", kubectl(&["get", CLUSTER_KINDS, "-o", "yaml"]));
    save(&directory, "leases.yaml", kubectl(&["-n", SYSTEM, "get", "leases,pods", "-o", "yaml"]));
    save(&directory, "events.txt", kubectl(&["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]));
    for pod in ["deployment/kubevmm-controller", "deployment/kubevmm-scheduler"]
        .map(str::to_owned)
        .into_iter()
        .chain(executors(cluster))
    {
        let file = format!("{}.log", pod.replace('/', "-"));
        save(
            &directory,
            &file,
            kubectl(&["-n", SYSTEM, "logs", &pod, "--all-containers", "--tail=2000", "--request-timeout=5s"]),
        );
        let before = kubectl(&["-n", SYSTEM, "logs", &pod, "--previous", "--tail=500", "--request-timeout=5s"]);
        save(&directory, &format!("{file}.previous"), before);
    }
    let external = cluster.lab.options().dir.join(EXTERNAL_HOST).join("log/executor.log");
    save(&directory, &format!("{EXTERNAL_HOST}-executor.log"), fs::read_to_string(external).unwrap_or_default());
    for host in cluster.libvirt_hosts() {
        let mut text = String::new();
        for verb in [["list", "--all"], ["net-list", "--all"], ["pool-list", "--all"]] {
            text += &host.virsh(verb).unwrap_or_else(|error| format!("{error:#}\n"));
        }
        for domain in host.domains().unwrap_or_default() {
            text += &host.virsh(["dumpxml", &domain]).unwrap_or_default();
        }
        save(&directory, &format!("{}.txt", host.name), text);
    }
    directory
}

fn executors(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.api.list(crate::api::POD, SYSTEM).unwrap_or_default();
    let daemons = pods.iter().filter(|pod| pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet");
    daemons.filter_map(|pod| Some(format!("pod/{}", pod["metadata"]["name"].as_str()?))).collect()
}

fn save(directory: &Path, file: &str, text: String) {
    // A dump that cannot be written must not hide the story's own error.
    if let Err(error) = fs::write(directory.join(file), text) {
        eprintln!("{}: {error}", directory.join(file).display());
    }
}
