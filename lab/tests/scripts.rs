//! The shell scripts, with programs of the test's own in the place of kubectl and apt.

use std::{
    error::Error,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
};

use tempfile::TempDir;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// A directory of programs, and what they were called with.
struct Programs(TempDir);

impl Programs {
    fn new() -> Outcome<Self> {
        Ok(Self(TempDir::new()?))
    }

    /// A shell script; `calls` beside it gets its arguments.
    fn add(&self, name: &str, script: &str) -> Outcome {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/bash\necho {name} \"$*\" >>\"${{0%/*}}/calls\"\n{script}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }

    fn run(&self, script: &str) -> Outcome<Output> {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH")?);
        Ok(Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(script))
            .env("PATH", path)
            // A file that can be read; the fake kubectl looks into none.
            .env("LAB_KUBECONFIG", "/dev/null")
            .output()?)
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A cluster on which what is rolled out gets ready, but the one that is named.
fn cluster(stuck: &str, pods: &str) -> Outcome<Programs> {
    let programs = Programs::new()?;
    programs.add(
        "kubectl",
        &format!(
            "case \"$*\" in
               *'rollout status {stuck}'*) exit 1 ;;
               *'get pods'*) echo '{pods}' ;;
               *'apply -f -'*) cat >\"${{0%/*}}/applied\" ;;
             esac"
        ),
    )?;
    Ok(programs)
}

#[test]
fn a_demo_on_an_existing_cluster_tries_every_image_on_every_node() -> Outcome {
    let programs = cluster("nothing", "")?;
    let output = programs.run("demo.sh")?;
    assert!(output.status.success(), "{}", stderr(&output));
    let calls = programs.calls();
    for what in ["deployment/kubevmm-controller", "daemonset/kubevmm-executor", "daemonset/kubevmm-try-pause"] {
        assert!(calls.contains(&format!("rollout status {what}")), "{calls}");
    }
    assert!(fs::read_to_string(programs.path("applied"))?.contains("kubevmm/pause:"));
    assert!(calls.contains("delete daemonset kubevmm-try-pause"), "{calls}");
    Ok(())
}

#[test]
fn a_demo_on_an_existing_cluster_stops_with_advice_when_a_node_lacks_an_image() -> Outcome {
    let there = "n1 kubevmm/executor:0.1.0=";
    let output = cluster(
        "daemonset/kubevmm-executor",
        &format!("{there}\nn2 kubevmm/executor:0.1.0=ImagePullBackOff\nn3 kubevmm/executor:0.1.0=ErrImagePull"),
    )?
    .run("demo.sh")?;
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains("\n  n2 kubevmm/executor:0.1.0 ImagePullBackOff\n"), "{message}");
    assert!(!message.contains("n1 ") && !message.contains("n3 "), "a pull may fail once: {message}");
    assert!(message.contains("make yamls REGISTRY=") && message.contains("images import"), "{message}");

    let programs = cluster("daemonset/kubevmm-try-pause", "n1 kubevmm/pause:0.1.0=ErrImageNeverPull")?;
    let output = programs.run("demo.sh")?;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("n1 kubevmm/pause:0.1.0 ErrImageNeverPull"), "{}", stderr(&output));
    assert!(programs.calls().contains("delete daemonset kubevmm-try-pause"), "what it tried with is taken away");
    Ok(())
}

/// A process with the name of libvirt's daemon.
struct Libvirtd(Child);

impl Libvirtd {
    fn start(programs: &Programs) -> Outcome<Self> {
        let path = programs.path("libvirtd");
        fs::copy("/bin/sleep", &path)?;
        Ok(Self(Command::new(path).arg("60").spawn()?))
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine without libvirt-dev, on which installing it does what `simulated` says.
fn machine(simulated: &str) -> Outcome<Programs> {
    let programs = Programs::new()?;
    programs.add("dpkg-query", "[[ $* == *libvirt-dev ]] || echo 'install ok installed'")?;
    programs.add("apt-get", &format!("[[ $* != *--simulate* ]] || echo '{simulated}'"))?;
    programs.add("id", "echo 0")?;
    Ok(programs)
}

#[test]
fn libvirt_is_never_changed_under_its_daemon() -> Outcome {
    let other_version = "Inst libvirt0 [9.0.0-4] (9.0.0-4+deb12u2 Debian:12.11 [amd64])";
    let programs = machine(other_version)?;
    let libvirtd = Libvirtd::start(&programs)?;
    let output = programs.run("deps.sh")?;
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains(&format!("libvirtd (process {})", libvirtd.0.id())), "{message}");
    assert!(message.contains("libvirt0 [9.0.0-4]") && message.contains("libvirt-dev="), "{message}");
    assert!(!programs.calls().contains("install -y"), "{}", programs.calls());

    // A new library beside what is there is no change of it.
    for simulated in ["Inst libvirt0 (9.0.0-4 Debian:12.11 [amd64])", "Inst libvirt-dev (9.0.0-4 Debian:12.11 [amd64])"]
    {
        let programs = machine(simulated)?;
        assert!(programs.run("deps.sh")?.status.success());
        assert!(programs.calls().contains("install -y"), "{}", programs.calls());
    }
    drop(libvirtd);
    Ok(())
}
