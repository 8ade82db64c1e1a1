use super::write::write_vm;
use super::*;
use crate::cli::{Cli, Command};
use crate::testing::{Server, documents};
use clap::Parser as _;
use serde_json::{Value, json};

const GROUP: &str = "/apis/kubevmm.io/v1beta1";

fn list(kind: &str, items: &[Value]) -> (u16, String) {
    let list =
        json!({"apiVersion": "kubevmm.io/v1beta1", "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items});
    (200, list.to_string())
}

/// An observed VM of a host, the `number`th of several.
fn vm(number: usize) -> Value {
    let vm: VirtualMachine = documents("observed.yaml").remove(1);
    let text = serde_json::to_string(&vm).unwrap();
    let own = |text: &str| if number == 0 { text.to_owned() } else { format!("{text}{number}") };
    let text = text.replace("\"db\"", &format!("{:?}", own("db"))).replace("\"db-vd", &format!("\"{}-vd", own("db")));
    let text = text
        .replace("db.qcow2", &format!("{}.qcow2", own("db")))
        .replace("\"name\":\"data\"", &format!("\"name\":{:?}", own("data")));
    serde_json::from_str(&text.replace("8000-000000000006", &format!("8000-{:012}", 6 + number))).unwrap()
}

fn hypervisor(vms: &[Value]) -> Value {
    let domain = |vm: &Value| json!({"name": vm["metadata"]["name"], "state": "Running", "uuid": vm["spec"]["existingDomain"]["uuid"]});
    let domains: Vec<_> = vms.iter().map(domain).collect();
    let status = json!({"architecture": "x86_64", "accelerator": {"type": "KVM", "evidence": "a guest ran"}, "domains": domains});
    json!({"apiVersion": "kubevmm.io/v1beta1", "kind": "Hypervisor", "metadata": {"name": "h1"}, "spec": {}, "status": status})
}

/// A cluster that observes these domains; `answer` comes first.
fn server(vms: Vec<Value>, answer: impl Fn(&str, &str) -> Option<(u16, String)> + Send + Sync + 'static) -> Server {
    Server::new(move |method, path| {
        if let Some(answer) = answer(method, path) {
            return answer;
        }
        if method != "GET" {
            let object =
                json!({"apiVersion": "kubevmm.io/v1beta1", "kind": "Any", "metadata": {"name": "a"}, "spec": {}});
            return (200, object.to_string());
        }
        let resource = path.trim_start_matches(GROUP).trim_start_matches("/namespaces/legacy").trim_start_matches('/');
        let (kind, rest) = resource.split_once(['/', '?']).unwrap_or((resource, ""));
        match (kind, rest) {
            ("hypervisors", _) => list("HypervisorList", &[hypervisor(&vms)]),
            ("virtualmachines", selector) if selector.contains("fieldSelector") => {
                let named = |vm: &&Value| {
                    selector.ends_with(&format!("%3D{}", vm["metadata"]["name"].as_str().unwrap()))
                        || selector.contains(&format!("%3D{}&", vm["metadata"]["name"].as_str().unwrap()))
                };
                list("VirtualMachineList", &vms.iter().filter(named).cloned().collect::<Vec<_>>())
            }
            ("virtualmachines", "") => list("VirtualMachineList", &vms),
            ("virtualmachines", name) => {
                let named = vms.iter().find(|vm| vm["metadata"]["name"] == name);
                named.map_or((404, String::new()), |vm| (200, vm.to_string()))
            }
            (kind, _) => list(kind, &[]),
        }
    })
}

async fn import(server: &Server, line: &str) -> Result<(), Error> {
    let line = format!("virtctl import --node h1 {line}");
    let Command::Import(args) = Cli::parse_from(line.split(' ')).command else { panic!("import") };
    crate::commands::import::run(&server.cluster("legacy"), &args).await
}

fn writes_of(server: &Server) -> Vec<String> {
    server.requests().into_iter().filter(|request| !request.starts_with("GET")).collect()
}

#[tokio::test]
async fn objects_come_before_the_spec_that_names_them() {
    let server = server(vec![vm(0)], |_, path| {
        let node = json!({"apiVersion": "v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "h1", "labels": {"kubernetes.io/hostname": "host-1.example.org"}}});
        (path == "/api/v1/nodes/h1").then(|| (200, node.to_string()))
    });
    import(&server, "db --manage --disable-autostart").await.unwrap();
    let writes = writes_of(&server);
    assert!(writes[0].contains(r#""nodeSelector":{"kubernetes.io/hostname":"host-1.example.org"}"#), "{writes:?}");
    let what: Vec<_> = writes.iter().map(|write| write.split('?').next().unwrap().replace(GROUP, "")).collect();
    assert_eq!(
        what,
        [
            "POST /virtualmachinestoragepools",
            "POST /virtualmachinestoragepools",
            "POST /clustervirtualmachinenetworks",
            "POST /clustervirtualmachinenetworks",
            "POST /namespaces/legacy/virtualmachinedisks",
            "POST /namespaces/legacy/virtualmachinedisks",
            "PUT /namespaces/legacy/virtualmachines/db",
        ]
    );
    assert!(
        writes.iter().all(|write| write.contains("fieldManager=virtctl") && !write.contains("dryRun")),
        "{writes:?}"
    );
    let put: Value =
        serde_json::from_str(writes[6].split_once(" {").map(|(_, body)| format!("{{{body}")).unwrap().as_str())
            .unwrap();
    assert_eq!(put["spec"]["disks"][1]["diskName"], "db-vdb");
    assert_eq!(put["spec"]["existingDomain"]["disableAutostart"], true);
    assert_eq!((&put["spec"]["management"], &put["metadata"]["uid"]), (&Value::Null, &vm(0)["metadata"]["uid"]));
}

#[tokio::test]
async fn who_may_not_read_nodes_selects_by_the_name() {
    for (code, text) in [(403, "Forbidden"), (404, "NotFound")] {
        let server = server(vec![vm(0)], move |_, path| {
            let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": text});
            (path == "/api/v1/nodes/h1").then(|| (code, status.to_string()))
        });
        import(&server, "db --manage --disable-autostart").await.unwrap();
        let writes = writes_of(&server);
        assert!(writes[0].contains(r#""nodeSelector":{"kubernetes.io/hostname":"h1"}"#), "{writes:?}");
    }
    let server = server(vec![vm(0)], |_, path| {
        (path == "/api/v1/nodes/h1").then(|| (500, r#"{"kind": "Status", "code": 500, "message": "broken"}"#.into()))
    });
    assert_eq!(import(&server, "db --manage --disable-autostart").await.unwrap_err().exit_code(), 1);
    assert_eq!(writes_of(&server), [""; 0]);
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let server = server(vec![vm(0)], |_, _| None);
    import(&server, "--all --manage --disable-autostart --dry-run").await.unwrap();
    import(&server, "--all --manage --disable-autostart --dry-run=client -o yaml").await.unwrap();
    assert_eq!(writes_of(&server), [""; 0]);
    import(&server, "db --manage --disable-autostart --dry-run=server").await.unwrap();
    let writes = writes_of(&server);
    assert!(writes.len() == 7 && writes.iter().all(|write| write.contains("dryRun=All")), "{writes:?}");
}

#[tokio::test]
async fn an_autostart_that_nobody_has_agreed_to_take_stops_no_other() {
    let mut other = vm(1);
    other["status"]["domain"]["autostart"] = false.into();
    let server = server(vec![vm(0), other], |_, _| None);
    let error = import(&server, "db --manage").await.unwrap_err();
    assert!(error.exit_code() == 5 && error.to_string().contains("give --disable-autostart"), "{error}");
    assert_eq!(writes_of(&server), [""; 0]);
    let error = import(&server, "--all --manage").await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.exit_code()), ("1 of 2 failed", 5));
    let puts: Vec<_> = writes_of(&server).into_iter().filter(|write| write.starts_with("PUT")).collect();
    assert!(puts.len() == 1 && puts[0].contains("/virtualmachines/db1?"), "{puts:?}");
    assert!(!puts[0].contains("disableAutostart"), "{puts:?}");
}

#[tokio::test]
async fn what_is_printed_can_be_applied_over_what_observes() {
    let vm: VirtualMachine = documents("observed.yaml").remove(1);
    let terms = Terms { management: Management::Manage, disable_autostart: true };
    let adoption = adopt(&vm, terms, &mut crate::testing::inventory("h1")).unwrap();
    let domain = serde_json::from_value(hypervisor(&[self::vm(0)])["status"]["domains"][0].clone()).unwrap();
    let work = Work { subject: Subject { domain, vm, is_new: false }, adoption };
    let server = server(vec![], |_, _| None);
    let line = ["virtctl", "import", "--node", "h1", "db", "--manage", "--dry-run", "-o", "yaml"];
    let Command::Import(args) = Cli::parse_from(line).command else { panic!("import") };
    let (printed, _) = write_vm(&server.cluster("legacy"), &args, &work).await.unwrap();
    assert_eq!(printed["spec"]["management"], "Manage", "left out, Observe would stay");
    assert!(printed.get("status").is_none() && printed["metadata"].get("uid").is_none());
    assert_eq!(server.requests(), [""; 0]);
}

#[tokio::test]
async fn what_nobody_observes_has_no_dry_run() {
    let server = server(vec![vm(0)], |method, path| {
        let is_list = method == "GET" && path.contains("virtualmachines?");
        is_list.then(|| list("VirtualMachineList", &[]))
    });
    let error = import(&server, "db --manage --dry-run").await.unwrap_err();
    assert!(error.exit_code() == 5 && error.to_string().contains("domain \"db\": it is not observed yet"), "{error}");
    assert!(
        error.to_string().ends_with(
            "`virtctl import --node h1 db -n legacy` and `virtctl import --node h1 db -n legacy --manage --dry-run`"
        ),
        "{error}"
    );
    assert_eq!(writes_of(&server), [""; 0]);
}

#[tokio::test]
async fn a_hundred_domains_share_what_they_use() {
    let server = server((1..=100).map(vm).collect(), |_, _| None);
    let started = std::time::Instant::now();
    import(&server, "--all --manage --disable-autostart -o name").await.unwrap();
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
    let writes = writes_of(&server);
    let count = |what: &str| writes.iter().filter(|write| write.contains(what)).count();
    assert_eq!((count("POST /apis/kubevmm.io/v1beta1/virtualmachinestoragepools"), count("/clustervirtual")), (2, 2));
    assert_eq!((count("/virtualmachinedisks"), count("PUT ")), (200, 100));
}

#[tokio::test]
async fn one_that_fails_is_named_and_stops_no_other() {
    let other: Value = serde_json::from_str(&vm(1).to_string().replace("\"default\"", "\"other\"")).unwrap();
    let server = server(vec![vm(0), other], |method, path| {
        let forbidden = r#"{"kind": "Status", "code": 403, "message": "no", "reason": "Forbidden"}"#;
        (method == "POST" && path.contains("/clustervirtual")).then(|| (403, forbidden.into()))
    });
    let error = import(&server, "--all --manage --disable-autostart").await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.exit_code()), ("2 of 2 failed", 7));
    assert!(
        !writes_of(&server).iter().any(|write| write.starts_with("PUT") || write.contains("disks")),
        "none is half made"
    );
    let error = import(&server, "db --manage --disable-autostart").await.unwrap_err();
    assert!(
        error.to_string().starts_with("domain \"DB\": clustervirtualmachinenetwork.kubevmm.io/br0: no: ask"),
        "{error}"
    );
}

#[tokio::test]
async fn the_executors_answer_is_waited_for_when_asked() {
    let is_written = std::sync::atomic::AtomicBool::new(false);
    let server = server(vec![vm(0)], move |method, path| {
        use std::sync::atomic::Ordering::Relaxed;
        let mut managed = vm(0);
        managed["metadata"]["generation"] = 2.into();
        managed["spec"]["management"] = "Manage".into();
        if method == "PUT" {
            is_written.store(true, Relaxed);
            return Some((200, managed.to_string()));
        }
        managed["status"]["observedGeneration"] = 2.into();
        managed["status"]["domain"]["generation"] = 0.into();
        let is_asked = is_written.load(Relaxed) && path.contains("fieldSelector");
        is_asked.then(|| list("VirtualMachineList", &[managed]))
    });
    import(&server, "db --manage --disable-autostart --wait").await.unwrap();
    let requests = server.requests();
    let written = requests.iter().position(|request| request.starts_with("PUT")).unwrap();
    assert!(requests[written + 1..].iter().any(|request| request.contains("fieldSelector")), "{requests:?}");
}

#[tokio::test]
async fn a_spec_that_has_changed_is_not_overwritten() {
    let server = server(vec![vm(0)], |method, path| {
        let mut changed = vm(0);
        changed["metadata"]["generation"] = 2.into();
        (method == "GET" && path.ends_with("/virtualmachines/db")).then(|| (200, changed.to_string()))
    });
    let error = import(&server, "db --manage --disable-autostart").await.unwrap_err();
    assert!(error.to_string().contains("changed meanwhile: run the command again"), "{error}");
    assert!(!writes_of(&server).iter().any(|write| write.starts_with("PUT")));
}

#[tokio::test]
async fn a_status_that_changes_is_no_obstacle() {
    let conflicts = std::sync::atomic::AtomicUsize::new(0);
    let server = server(vec![vm(0)], move |method, _| {
        let conflict = r#"{"kind": "Status", "code": 409, "message": "changed", "reason": "Conflict"}"#;
        let is_first = method == "PUT" && conflicts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        is_first.then(|| (409, conflict.into()))
    });
    import(&server, "db --manage --disable-autostart").await.unwrap();
    assert_eq!(writes_of(&server).iter().filter(|write| write.starts_with("PUT")).count(), 2);
}

#[tokio::test]
async fn an_object_that_is_made_meanwhile_is_taken_when_it_says_the_same() {
    let exists = |method: &str, path: &str| {
        let exists = r#"{"kind": "Status", "code": 409, "message": "exists", "reason": "AlreadyExists"}"#;
        (method == "POST" && path.contains("storagepools")).then(|| (409, exists.into()))
    };
    let pool = |name: &str, libvirt: &str| {
        let spec = json!({"existing": {"name": libvirt}, "nodeSelector": {"kubernetes.io/hostname": "h1"}});
        json!({"apiVersion": "kubevmm.io/v1beta1", "kind": "VirtualMachineStoragePool", "metadata": {"name": name}, "spec": spec})
    };
    let same = server(vec![vm(0)], move |method, path| {
        let there = match path.rsplit('/').next() {
            Some("default") => Some((200, pool("default", "default").to_string())),
            Some("vg-data") => Some((200, pool("vg-data", "VG_data").to_string())),
            _ => None,
        };
        exists(method, path).or(there)
    });
    import(&same, "db --manage --disable-autostart").await.unwrap();
    let other = server(vec![vm(0)], move |method, path| {
        let is_one = method == "GET" && path.contains("storagepools/");
        exists(method, path).or(is_one.then(|| (200, pool("default", "another").to_string())))
    });
    let error = import(&other, "db --manage --disable-autostart").await.unwrap_err();
    assert!(error.to_string().contains("says something else: run the command again"), "{error}");
}

const XML: &str = "<domain type='kvm'><name>db</name><uuid>0a000000-0000-4000-8000-000000000077</uuid>\
    <memory unit='GiB'>1</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
    <interface type='bridge'><mac address='52:54:00:00:00:09'/><source bridge='br0'/><model type='virtio'/></interface>\
    </devices></domain>";

#[tokio::test]
async fn a_file_takes_the_place_of_the_executor() {
    let file = std::env::temp_dir().join(format!("virtctl-import-{}.xml", std::process::id()));
    std::fs::write(&file, XML).unwrap();
    let file = file.display().to_string();
    let server = server(vec![], |_, _| None);
    import(&server, &format!("--from {file} --dry-run=client -o yaml")).await.unwrap();
    assert_eq!(writes_of(&server), [""; 0], "the domain need not be there");
    import(&server, &format!("--from {file} --manage --disable-autostart")).await.unwrap();
    let writes = writes_of(&server);
    assert!(writes[0].contains("/clustervirtualmachinenetworks?"), "{writes:?}");
    assert!(writes[1].contains("/namespaces/legacy/virtualmachines?"), "{writes:?}");
    assert!(writes[1].contains(r#""name":"br0""#) && !writes[1].contains(r#""status""#), "{writes:?}");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(import(&server, &format!("--from {file}")).await.unwrap_err().exit_code(), 2);
}
